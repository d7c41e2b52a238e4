"""Endpoints: which one serves a request, whether it is ready, and how much it takes."""
