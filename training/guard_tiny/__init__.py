"""Trains the tiny guard, the checkpoint in this repository."""

RECORD = "training.json"
"""The file beside the weights that records the training."""
