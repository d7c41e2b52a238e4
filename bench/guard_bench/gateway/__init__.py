"""What the gateway costs, measured before an engine that costs next to nothing."""
