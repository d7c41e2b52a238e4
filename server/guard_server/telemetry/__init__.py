"""What the gateway reports about itself: metrics, statistics and a status file."""
