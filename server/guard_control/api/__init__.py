"""DeploymentService: the operators' API.

listener            where it listens, and for whom
deployment_service  its methods: one operation at a time
last_minute         what workers' figures were a minute ago
messages            builds ListSlotsResponse from the fleet's state
"""
