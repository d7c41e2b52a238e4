"""What the processes of a gateway say together, and the service that tells it.

worker_snapshot  the statuses of several processes
last_minute      what they were a minute ago
status_messages  as messages, and back
status_service   GatewayStatusService, and where it listens
"""
