"""ModerateLive: an answer that is judged while it is written."""
