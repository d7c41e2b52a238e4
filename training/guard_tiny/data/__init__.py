"""The tiny guard's training data: labelled rows, our own sentences, and their mixture."""
