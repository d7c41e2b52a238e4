"""`guard`: the one command line. Each command is a module of its own."""
