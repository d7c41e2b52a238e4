"""Gateways that a scheduler runs, such as pods: what they say, and which traffic they follow.

fleet_file     FLEET.yaml: where they are
gateway_watch  asks them all, again and again
"""
