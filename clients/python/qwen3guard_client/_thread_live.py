"""An answer that is judged while it is written, for threads."""

import queue
import threading
import time
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, TypeAlias

from qwen3guard.v1.moderation_pb2_grpc import ModerationServiceStub
from qwen3guard_client._channel import Metadata
from qwen3guard_client._errors import GuardError
from qwen3guard_client._live import LiveAnswer, LiveEvent, ending
from qwen3guard_client._security import Security
from qwen3guard_client._stream import read

if TYPE_CHECKING:
    from qwen3guard.v1.moderation_pb2 import ModerateLiveRequest, ModerateLiveResponse

_Outbox: TypeAlias = "queue.SimpleQueue[ModerateLiveRequest | None]"  # None: nothing follows
# An error is the connection's end. None: the caller's own iterable failed.
_Inbox: TypeAlias = "queue.SimpleQueue[ModerateLiveResponse | GuardError | None]"


class ThreadLive:
    """For one use."""

    def __init__(
        self,
        stub: ModerationServiceStub,
        metadata: Metadata,
        security: Security,
        answer: LiveAnswer,
    ) -> None:
        self._stub = stub
        self._metadata = tuple(metadata)
        self._security = security
        self._lock = threading.Lock()  # of all that follows
        self._answer = answer
        self._outbox: _Outbox = queue.SimpleQueue()
        self._inbox: _Inbox = queue.SimpleQueue()
        self._ended = False
        self._over = False
        self._failed: BaseException | None = None  # of the caller's own iterable

    def events(self, texts: Iterable[str]) -> Generator[LiveEvent, None, None]:
        """As they come. Raises a GuardError on giving up, and what `texts` raises."""
        threading.Thread(target=self._pump, args=[texts], daemon=True).start()
        try:
            while (failed := (yield from self._connected())) is not None:
                time.sleep(self._answer.pause(self._security.explained(failed)))
        finally:
            self._over = True

    def _pump(self, texts: Iterable[str]) -> None:
        try:
            for text in texts:
                if self._over:
                    return
                with self._lock:
                    for message in self._answer.append(text):
                        self._outbox.put(message)
        except BaseException as error:  # raised to the caller, whose iterable it is
            with self._lock:
                self._failed = error
                self._inbox.put(None)
            return
        with self._lock:
            self._ended = True
            self._outbox.put(ending())
            self._outbox.put(None)

    def _connected(self) -> Generator[LiveEvent, None, GuardError | None]:
        """One connection's events. Returns why it broke, or None after the last event."""
        with self._lock:
            outbox = self._outbox = queue.SimpleQueue()
            inbox = self._inbox = queue.SimpleQueue()
            for message in self._answer.so_far():
                outbox.put(message)
            if self._ended:
                outbox.put(ending())
                outbox.put(None)
            if self._failed:
                raise self._failed
        call = self._stub.ModerateLive(iter(outbox.get, None), metadata=self._metadata)
        threading.Thread(target=read, args=[call, inbox], daemon=True).start()
        try:
            while True:
                reply = inbox.get()
                if reply is None and self._failed:
                    raise self._failed
                if isinstance(reply, GuardError):
                    return reply
                if reply is not None:
                    with self._lock:
                        event = self._answer.received(reply)
                    yield event
                    if event.stopped or event.finished:
                        return None
        finally:
            outbox.put(None)
            call.cancel()
