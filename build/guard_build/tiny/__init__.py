"""The tiny guard: how the checkpoint that the repository carries is trained."""
