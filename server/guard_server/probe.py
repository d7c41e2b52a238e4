"""`python -m guard_server.probe`: exit code 0 if the gateway in this container is serving.

It asks without TLS; where the gateway has TLS, probe it from outside by grpc.health.v1.
"""

import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from guard_server.settings import Settings

_TIMEOUT_S = 3


def main() -> int:
    port = Settings().port  # from the environment
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            print(f"no answer on port {port}: {error.details()}", file=sys.stderr)  # noqa: T201
            return 1
    return 0 if reply.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main())
