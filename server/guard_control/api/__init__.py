"""DeploymentService: the operators' API.

listener            where it listens, and for whom
rollout_service     its methods that change something: one operation at a time
deployment_service  all of it, for one machine
messages            builds ListSlotsResponse from the fleet's state
fleet_service       lists the slots of several gateways
fleet_messages      builds ListSlotsResponse from what those gateways say
"""
