"""The pipelined stream for threads."""

import queue
import threading
import time
from collections.abc import Generator, Iterator

import grpc

from qwen3guard.v1.moderation_pb2 import StreamModerateRequest
from qwen3guard.v1.moderation_pb2_grpc import ModerationServiceStub
from qwen3guard_client._channel import Metadata
from qwen3guard_client._errors import ended_early, from_rpc
from qwen3guard_client._flight import WINDOW, Flight, Pending, Resend
from qwen3guard_client._requests import Checked, Outcome

_Outbox = queue.SimpleQueue[StreamModerateRequest | None]  # None: the end


class ThreadStream:
    """For one use."""

    def __init__(self, stub: ModerationServiceStub, metadata: Metadata) -> None:
        self._stub = stub
        self._metadata = tuple(metadata)
        self._room = threading.Semaphore(WINDOW)
        self._lock = threading.Lock()  # of all that follows
        self._flight = Flight()
        self._outbox: _Outbox = queue.SimpleQueue()
        self._exhausted = False
        self._over = False
        self._failed: BaseException | None = None  # of the caller's own iterable

    def outcomes(self, requests: Iterator[Checked]) -> Generator[Outcome, None, None]:
        """In order of completion. Raises a GuardError on giving up, and what `requests` raises."""
        threading.Thread(target=self._pump, args=[requests], daemon=True).start()
        try:
            while not self._done():
                try:
                    yield from self._connected()
                    if self._done():
                        break
                    failed = ended_early()
                except grpc.RpcError as error:
                    failed = from_rpc(error)
                time.sleep(self._flight.broken(failed))
        finally:
            self._over = True
            self._room.release()
        if self._failed:
            raise self._failed

    def _pump(self, requests: Iterator[Checked]) -> None:
        try:
            for index, request in enumerate(requests):
                self._room.acquire()
                if self._over:
                    return
                with self._lock:
                    self._outbox.put(self._flight.send(Pending(index, request)))
        except BaseException as error:  # raised to the caller, whose iterable it is
            self._failed = error
        with self._lock:
            self._exhausted = True
            self._end_if_done()

    def _connected(self) -> Iterator[Outcome]:
        with self._lock:
            outbox = self._outbox = queue.SimpleQueue()
            for message in self._flight.left_behind():
                outbox.put(message)
            self._end_if_done()
        call = self._stub.StreamModerate(iter(outbox.get, None), metadata=self._metadata)
        try:
            for answer in call:
                with self._lock:
                    outcome = self._flight.answered(answer)
                if isinstance(outcome, Resend):
                    later = threading.Timer(outcome.delay, self._send_again, [outcome])
                    later.daemon = True
                    later.start()
                    continue
                self._room.release()
                yield outcome
                with self._lock:
                    self._end_if_done()
        finally:
            call.cancel()
            outbox.put(None)

    def _send_again(self, resend: Resend) -> None:
        with self._lock:
            self._outbox.put(self._flight.send_again(resend))

    def _done(self) -> bool:
        return self._exhausted and self._flight.empty

    def _end_if_done(self) -> None:
        if self._done():
            self._outbox.put(None)
