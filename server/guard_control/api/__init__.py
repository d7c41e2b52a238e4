"""DeploymentService: the operators' API.

listener            where it listens, and for whom
deployment_service  its methods: one operation at a time
messages            builds ListSlotsResponse from the fleet's state
"""
