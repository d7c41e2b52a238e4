"""The gateway: from a conversation to a typed verdict, one module for each station of the way."""
