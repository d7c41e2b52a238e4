"""The CPU engine: a checkpoint becomes a slot that Triton's Python backend serves."""
