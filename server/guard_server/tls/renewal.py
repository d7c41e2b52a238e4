"""Certificates that are replaced while a listener, or a connection to a Triton, uses them."""

import asyncio
from collections.abc import Callable

import grpc
import structlog

from guard_core.errors import CertificateInvalid
from guard_server.tls.certificates import CertificateFiles, read

_log = structlog.get_logger(__name__)


class RenewedCertificates:
    """The last good ones of the files. Connections that stand keep those they began with."""

    def __init__(self, files: CertificateFiles, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called when others are there. Raises CertificateInvalid."""
        self._files = files
        self._changed = changed
        self.current = self._given = read(files)
        self.fault: str | None = None  # of the files as they are now; then older ones are served
        self._checking: asyncio.Future[None] | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """For one listener: each handshake gets what is current."""
        return grpc.dynamic_ssl_server_credentials(
            self.current.configuration(),
            self._newer,  # type: ignore[arg-type]  # None, which is allowed, is not in the stubs
            require_client_authentication=self.current.client_ca is not None,
        )

    async def follow(self, every_s: float) -> None:
        """Reads the files again and again, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await self.check()

    def check_soon(self) -> None:
        """The same from a signal's handler."""
        self._checking = asyncio.ensure_future(self.check())  # kept, or it may be collected

    async def check(self) -> None:
        """Reads the files now. What is not good is logged, and changes nothing."""
        try:
            found = await asyncio.to_thread(read, self._files)
        except CertificateInvalid as error:
            if self.fault != str(error):  # once, not at every reading
                self.fault = str(error)
                _log.error("certificates not renewed: the last good ones stay", reason=self.fault)
            return
        self.fault = None
        if found != self.current:
            self.current = found
            self._changed()
            _log.info("certificates renewed", expires=found.expires.isoformat())

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        """gRPC calls it in threads of its own before each handshake: nothing is read here."""
        current = self.current
        if current is self._given:
            return None
        self._given = current
        return current.configuration()
