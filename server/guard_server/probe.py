"""`python -m guard_server.probe`: exit code 0 if the gateway in this container is serving.

It takes the same GUARD_* variables as the gateway. Where clients need certificates, it shows
GUARD_TLS_CERT, or the one of --cert and --key.
"""

import argparse
import ssl
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from guard_server.settings import Settings
from guard_server.tls.certificates import files_of

_TIMEOUT_S = 3
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (what listens on all of them)


def main(arguments: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cert", type=Path, help="PEM client certificate")
    parser.add_argument("--key", type=Path, help="PEM key of it")
    options = parser.parse_args(arguments)
    settings = Settings()  # from the environment
    try:
        with _channel(settings, options.cert, options.key) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
    except (grpc.RpcError, OSError) as error:  # TLS's errors are OSErrors too
        reason = error.details() if isinstance(error, grpc.Call) else error
        print(f"no answer on port {settings.port}: {reason}", file=sys.stderr)  # noqa: T201
        return 1
    return 0 if reply.status == health_pb2.HealthCheckResponse.SERVING else 1


def _channel(settings: Settings, cert: Path | None, key: Path | None) -> grpc.Channel:
    host, port = _LOOPBACK.get(settings.host, settings.host), settings.port
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    files = files_of(settings)
    if files is None:
        return grpc.insecure_channel(address, options)
    # Whoever listens here is this container's gateway: its certificate is believed as it is served.
    # The file may be newer, or damaged while the gateway goes on with an older one.
    served = ssl.get_server_certificate((host, port), timeout=_TIMEOUT_S)
    options.append(("grpc.ssl_target_name_override", _name(served)))
    shown: tuple[bytes, bytes] | tuple[()] = ()
    if files.client_ca is not None:
        shown = (key or files.key).read_bytes(), (cert or files.chain).read_bytes()
    credentials = grpc.ssl_channel_credentials(served.encode(), *shown)
    return grpc.secure_channel(address, credentials, options)


def _name(pem: str) -> str:
    """One that a certificate is valid for; empty if it has none."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    names = (name.replace("*", "probe") for name in found.get_values_for_type(x509.DNSName))
    addresses = found.get_values_for_type(x509.IPAddress)
    return next(chain(names, map(str, addresses)), "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
