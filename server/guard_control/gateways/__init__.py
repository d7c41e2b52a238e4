"""Gateways that a scheduler runs, such as pods: what they say, and which traffic they follow.

fleet_file     FLEET.yaml: where they, their traffic and the slots are
gateway_watch  asks them all, again and again
fleet_store    where their traffic is kept
lease          the traffic in the hands of one operator
gateway_slots  the slots in it
gateway_fleet  moves it
"""
