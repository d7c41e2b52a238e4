"""A slot: one checkpoint in one engine, as files on disk and as something to ask."""
