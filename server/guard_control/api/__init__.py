"""DeploymentService: the operators' API.

listener            where it listens, and for whom
deployment_service  its methods: one operation at a time
messages            builds ListSlotsResponse from the fleet's state
fleet_service       lists the slots of several gateways
fleet_messages      builds ListSlotsResponse from what those gateways say
"""
