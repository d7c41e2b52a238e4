"""The gateway: gRPC services in front of the slots' engines.

api -> pipeline -> routing -> guard_core; telemetry watches pipeline and routing.

api        the typed service and the KServe v2 API: decode, validate, answer
pipeline   one moderation request, stage by stage: cache, limiter, engine, policy, shadow
routing    which endpoint serves a request, whether it is ready, how much it takes
telemetry  Prometheus metrics, KServe statistics, the worker's status file
app        wires all of it and serves; settings, log, drain and listening are its own
"""
