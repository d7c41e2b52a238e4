"""How commands reach a running server."""

from pathlib import Path
from typing import Annotated

import grpc
import typer

from guard_cli.options import fail

TargetOption = Annotated[str, typer.Option(help="The server, HOST:PORT.")]
CaOption = Annotated[
    Path | None,
    typer.Option(help="PEM authorities of the server's certificate: use TLS.", exists=True),
]
CertOption = Annotated[
    Path | None, typer.Option(help="PEM client certificate, with --tls-ca.", exists=True)
]
KeyOption = Annotated[
    Path | None, typer.Option(help="PEM key of the client certificate.", exists=True)
]

DEFAULT_TARGET = "127.0.0.1:50051"
CHANNEL_OPTIONS = [("grpc.enable_http_proxy", 0)]


def credentials(
    ca: Path | None, cert: Path | None, key: Path | None
) -> grpc.ChannelCredentials | None:
    """None for plain text."""
    if ca is None:
        if cert or key:
            fail("A client certificate needs --tls-ca too.", code=2)
        return None
    return grpc.ssl_channel_credentials(
        ca.read_bytes(), key.read_bytes() if key else None, cert.read_bytes() if cert else None
    )
