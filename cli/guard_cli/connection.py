"""How commands reach a running server."""

import os
from pathlib import Path
from typing import NoReturn, TypeVar

import grpc

from guard_cli.options import fail
from guard_core.engine.channel import TritonTls
from qwen3guard_client import AsyncClient, Client

_Client = TypeVar("_Client", Client, AsyncClient)


def triton_tls(ca: Path | None, cert: Path | None, key: Path | None) -> TritonTls | None:
    """For a Triton that runs already; None for its socket or plain text."""
    if ca and cert and key:
        return TritonTls(ca, cert, key)
    if ca or cert or key:
        fail("TLS to Triton needs --tls-ca, --tls-cert and --tls-key together.", code=2)
    return None


def connect(
    client: type[_Client],
    target: str,
    credentials: grpc.ChannelCredentials | None,
) -> _Client:
    """A client of `target`, in plain text without credentials, and never through an HTTP proxy.

    Its API key is the environment's GUARD_API_KEY: on a command line all could read it.
    """
    return client(
        target,
        insecure=credentials is None,
        credentials=credentials,
        options=[("grpc.enable_http_proxy", 0)],
        key=os.environ.get("GUARD_API_KEY"),
    )


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


def in_options(error: Exception) -> str:
    """The error's text, with the command's options where it names the Python client's."""
    said = str(error).replace("leave insecure=True out", "name its authorities by --tls-ca")
    return said.replace("use insecure=True, or give it a certificate", "leave --tls-ca out")


def fail_unavailable(target: str, error: Exception) -> NoReturn:
    """Ends the command: there is no server at `target`, or one that disagrees about TLS."""
    said = in_options(error)
    if said != str(error):
        fail(said)
    fail(f"No server answers at {target} ({said}). Start one: `make serve`.")
