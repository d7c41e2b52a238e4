"""One moderation request, from a validated conversation to a verdict and an action."""
