"""The tiny guard: how the checkpoint that the repository carries is trained."""

RECORD = "training.json"
"""What was run, beside the weights."""
