"""The pipelined stream for threads."""

import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

import grpc

from qwen3guard.v1.moderation_pb2 import StreamModerateRequest, StreamModerateResponse
from qwen3guard.v1.moderation_pb2_grpc import ModerationServiceStub
from qwen3guard_client._channel import Metadata
from qwen3guard_client._errors import GuardError, ended_early, from_rpc
from qwen3guard_client._flight import WINDOW, Flight, Resend
from qwen3guard_client._requests import Checked, Outcome
from qwen3guard_client._security import Security

A = TypeVar("A")  # an answer's message
_Outbox = queue.SimpleQueue[StreamModerateRequest | None]  # None: the end
# An error is the connection's end. None: look whether all is done.
_Inbox = queue.SimpleQueue[StreamModerateResponse | GuardError | None]


class ThreadStream:
    """For one use."""

    def __init__(
        self,
        stub: ModerationServiceStub,
        metadata: Metadata,
        security: Security,
        timeout: float | None,
    ) -> None:
        self._stub = stub
        self._metadata = tuple(metadata)
        self._security = security
        self._room = threading.Semaphore(WINDOW)
        self._lock = threading.Lock()  # of all that follows
        self._flight = Flight(timeout)
        self._outbox: _Outbox = queue.SimpleQueue()
        self._inbox: _Inbox = queue.SimpleQueue()
        self._exhausted = False
        self._over = False
        self._failed: BaseException | None = None  # of the caller's own iterable

    def outcomes(self, requests: Iterator[Checked]) -> Generator[Outcome, None, None]:
        """In order of completion. Raises a GuardError on giving up, and what `requests` raises."""
        threading.Thread(target=self._pump, args=[requests], daemon=True).start()
        try:
            while not self._done():
                failed = yield from self._connected()
                if failed:
                    yield from self._pause(self._security.explained(failed))
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
                    self._outbox.put(self._flight.begin(index, request))
        except BaseException as error:  # raised to the caller, whose iterable it is
            self._failed = error
        with self._lock:
            self._exhausted = True
            self._inbox.put(None)

    def _connected(self) -> Generator[Outcome, None, GuardError | None]:
        """One connection's outcomes. Returns why it broke, or None if all is done."""
        with self._lock:
            outbox = self._outbox = queue.SimpleQueue()
            inbox = self._inbox = queue.SimpleQueue()
            for message in self._flight.left_behind():
                outbox.put(message)
        call = self._stub.StreamModerate(iter(outbox.get, None), metadata=self._metadata)
        threading.Thread(target=read, args=[call, inbox], daemon=True).start()
        try:
            while not self._done():
                yield from self._overdue()
                try:
                    answer = inbox.get(timeout=self._patience())
                except queue.Empty:
                    continue
                if isinstance(answer, GuardError):
                    return answer
                if answer is not None:
                    yield from self._answered(answer)
            outbox.put(None)
            while self._flight.idle and not isinstance(inbox.get(), GuardError):
                pass  # the server ends the stream
            return None
        finally:
            outbox.put(None)
            call.cancel()

    def _answered(self, answer: StreamModerateResponse) -> Iterator[Outcome]:
        with self._lock:
            outcome = self._flight.answered(answer)
            first = isinstance(outcome, Outcome) and self._flight.settle(outcome)
        if isinstance(outcome, Resend):
            later = threading.Timer(outcome.delay, self._send_again, [outcome])
            later.daemon = True
            later.start()
            return
        self._room.release()
        if first:
            yield outcome

    def _patience(self) -> float | None:
        with self._lock:
            return self._flight.patience

    def _overdue(self) -> Iterator[Outcome]:
        with self._lock:
            overdue = self._flight.overdue()
        yield from overdue

    def _pause(self, failed: GuardError) -> Iterator[Outcome]:
        """Waits before the next connection. Raises the error if there is none."""
        with self._lock:
            until = time.monotonic() + self._flight.broken(failed)
            for _ in range(self._flight.abandoned()):
                self._room.release()
        while not self._done() and (left := until - time.monotonic()) > 0:
            patience = self._patience()
            time.sleep(left if patience is None else min(left, patience))
            yield from self._overdue()

    def _send_again(self, resend: Resend) -> None:
        with self._lock:
            message = self._flight.send_again(resend)
            if message:
                self._outbox.put(message)
            else:
                self._room.release()

    def _done(self) -> bool:
        with self._lock:
            return self._exhausted and self._flight.empty


def read(call: Iterable[A], inbox: "queue.SimpleQueue[A | GuardError | None]") -> None:
    """Puts what comes into `inbox`; last the error with which the connection ended, never None."""
    try:
        for answer in call:
            inbox.put(answer)
    except grpc.RpcError as error:
        inbox.put(from_rpc(error))
    else:
        inbox.put(ended_early())
