"""What the tiny guard is trained on: labelled rows, our own writing, and how they are mixed."""
