"""Which tenant a call is of, by what it shows, and what that tenant has."""
