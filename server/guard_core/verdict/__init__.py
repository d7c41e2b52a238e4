"""From a conversation to prompt tokens, and from a model's tokens to a verdict and an action."""
