"""How good live moderation is: answers of labelled sets are typed, and judged meanwhile."""
