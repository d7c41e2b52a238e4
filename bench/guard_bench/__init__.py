"""What the engine reaches on this machine: made-up checkpoints of true shapes, load, and tables."""
