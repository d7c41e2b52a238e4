"""A gateway's TLS files in a directory, and what its callers need."""

import asyncio
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import trustme

from guard_server.app import serving
from guard_server.settings import Settings
from guard_server.tuning import Tuning
from guard_server.wiring import Gateway
from tests.support.gateway import Client

HOST = "localhost"
# A channel takes another one's connection to the same server, if it may.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@dataclass(frozen=True)
class TlsFiles:
    """`settings`: of a gateway that uses them."""

    directory: Path
    authority: trustme.CA

    @property
    def cert(self) -> Path:
        return self.directory / "server.pem"

    @property
    def key(self) -> Path:
        return self.directory / "server.key"

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def settings(self) -> dict[str, Any]:
        return {"tls_cert": self.cert, "tls_key": self.key}

    @property
    def mutual(self) -> dict[str, Any]:
        return {**self.settings, "tls_client_ca": self.ca}

    def write(self, issued: trustme.LeafCert) -> str:
        """Puts a certificate and its key there. Gives its fingerprint, as `served` does."""
        issued.private_key_pem.write_to_path(self.key)
        self.cert.write_bytes(chain(issued))
        return _fingerprint(ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode()))

    def new(self) -> str:
        """Puts a new pair there, for this machine."""
        return self.write(self.authority.issue_cert(HOST, "127.0.0.1"))


def tls_files(directory: Path) -> TlsFiles:
    """A pair and its authority."""
    found = TlsFiles(directory, trustme.CA())
    found.authority.cert_pem.write_to_path(found.ca)
    found.new()
    return found


def chain(issued: trustme.LeafCert) -> bytes:
    return b"".join(pem.bytes() for pem in issued.cert_chain_pems)


async def served(port: int) -> str:
    """The fingerprint of the certificate that a new handshake gets."""

    def shake() -> str:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", port), 10) as plain,
            context.wrap_socket(plain) as secure,
        ):
            return _fingerprint(secure.getpeercert(binary_form=True) or b"")

    return await asyncio.to_thread(shake)


@asynccontextmanager
async def caller(
    port: int, authority: trustme.CA, own: trustme.LeafCert | None = None
) -> AsyncIterator[Client]:
    """A caller that trusts an authority, with a certificate if it has one."""
    shown = (own.private_key_pem.bytes(), chain(own)) if own else ()
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes(), *shown)
    async with grpc.aio.secure_channel(f"{HOST}:{port}", credentials, OWN_CONNECTION) as channel:
        yield Client(channel, port)


def _fingerprint(certificate: bytes) -> str:
    return hashlib.sha256(certificate).hexdigest()


@asynccontextmanager
async def mutual_tls_gateway(
    directory: Path, slot: Path, triton_port: int, tuning: Tuning, **settings: Any
) -> AsyncIterator[tuple[TlsFiles, Gateway]]:
    """A gateway that wants certificates of its callers, ready; its files are in `directory`."""
    files = tls_files(directory)
    given = Settings(
        slot=slot,
        triton=f"127.0.0.1:{triton_port}",
        port=0,
        cache_mib=0,
        **files.mutual,
        **settings,
    )
    async with serving(given, tuning) as gateway:
        own = files.authority.issue_cert("x.example")
        async with caller(gateway.port, files.authority, own) as client:
            await client.until_serving()
        yield files, gateway
