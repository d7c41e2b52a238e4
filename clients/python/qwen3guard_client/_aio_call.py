"""A bidirectional call of grpc.aio, carried between two queues."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import grpc

from qwen3guard_client._errors import GuardError, ended_early, from_rpc

_FAILED_WRITE = "Internal error from Core"  # grpc.aio's own words
_STATUS_S = 1.0  # until the server's status comes behind it, where there is one

_T = TypeVar("_T")
Sent = TypeVar("Sent")
Answer = TypeVar("Answer")


def carried(
    call: grpc.aio.StreamStreamCall[Sent, Answer],
    outbox: "asyncio.Queue[Sent | None]",
    inbox: "asyncio.Queue[Answer | GuardError | None]",
) -> list[asyncio.Task[None]]:
    """The tasks that send what is in `outbox` up to None, and put what comes into `inbox`.

    Last comes the error with which the connection ended; never None.
    """
    reading = _read(call, _Ended(call), inbox)
    return [asyncio.create_task(each) for each in (_write(call, outbox), reading)]


async def _write(
    call: grpc.aio.StreamStreamCall[Sent, Answer], outbox: "asyncio.Queue[Sent | None]"
) -> None:
    # The reading side reports why a call can't be written to.
    with suppress(grpc.RpcError, asyncio.InvalidStateError):
        while (message := await outbox.get()) is not None:
            await call.write(message)
        await call.done_writing()


async def _read(
    call: grpc.aio.StreamStreamCall[Sent, Answer],
    ended: "_Ended",
    inbox: "asyncio.Queue[Answer | GuardError | None]",
) -> None:
    try:
        async for answer in call:
            inbox.put_nowait(answer)
        failed = ended_early()
    except grpc.aio.AioRpcError as error:
        first = await ended.status(error)
        ok = first.code() is grpc.StatusCode.OK
        failed = ended_early() if ok else from_rpc(first)
    inbox.put_nowait(failed)


class _Ended:
    """Keeps the status with which the server ended a call.

    A write that fails because the call has ended makes grpc.aio set INTERNAL, in place of the
    server's status (https://github.com/grpc/grpc/issues/36066): 94% of the streams that a server
    refused at once, while they wrote, ended so. While answers are unread it comes even before that
    status: so ended 63 of 150 calls whose server stopped just after three answers.
    """

    def __init__(self, call: grpc.aio.Call) -> None:
        self._call = call
        self._status: grpc.aio.AioRpcError | None = None
        self._kept = asyncio.Event()
        call.add_done_callback(self._keep)

    async def status(self, seen: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """The server's status, if there is one beside that which the call raised."""
        if _of_a_failed_write(seen):
            with suppress(TimeoutError):
                async with asyncio.timeout(_STATUS_S):
                    await self._kept.wait()
        return self._status or seen

    def _keep(self, _: object) -> None:
        status = grpc.aio.AioRpcError(
            _at_once(self._call.code()),
            grpc.aio.Metadata(),
            _at_once(self._call.trailing_metadata()),
            _at_once(self._call.details()),
        )
        if self._status is None and not _of_a_failed_write(status):
            self._status = status
            self._kept.set()


def _of_a_failed_write(status: grpc.aio.AioRpcError) -> bool:
    return status.code() is grpc.StatusCode.INTERNAL and status.details() == _FAILED_WRITE


def _at_once(ready: Coroutine[Any, Any, _T]) -> _T:
    """What a coroutine returns that has nothing to wait for."""
    try:
        ready.send(None)
    except StopIteration as returned:
        value: _T = returned.value
        return value
    raise AssertionError("the call has not ended")
