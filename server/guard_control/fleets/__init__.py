"""Fleets: slots, the traffic between them, and the gateway processes that follow it.

fleet        moves the traffic, and waits until it is followed
fleet_kind   what kinds of fleets differ in
fleet_slot   a slot as both kinds have it
local_fleet  the kind of one machine
"""
