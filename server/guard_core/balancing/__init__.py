"""How a gateway shares requests among a slot's replicas. Pure: no clock, no network, no task."""
