"""Builds CPU slots: a checkpoint becomes a slot that Triton's Python backend serves."""
