"""The client for threads."""

import time
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import grpc

from qwen3guard.v1.moderation_pb2 import BatchModerateRequest, ModerateResponse
from qwen3guard.v1.moderation_pb2_grpc import ModerationServiceStub
from qwen3guard_client._channel import (
    DEFAULT_TIMEOUT_S,
    ChannelOptions,
    Metadata,
    RetryBudget,
    arguments,
    with_key,
)
from qwen3guard_client._errors import from_rpc
from qwen3guard_client._live import LiveAnswer, LiveEvent
from qwen3guard_client._requests import Given, Outcome, as_request, checked, outcomes, several
from qwen3guard_client._security import Security
from qwen3guard_client._stream import ThreadStream
from qwen3guard_client._thread_live import ThreadLive

if TYPE_CHECKING:
    from qwen3guard.v1.moderation_pb2 import LiveStart

T = TypeVar("T")


class Client:
    """Asks one target. Safe for use by many threads; make one and keep it.

    Calls wait and try again when the server is overloaded or away, as long as their timeout
    allows. They raise a GuardError.
    """

    def __init__(
        self,
        target: str,
        *,
        insecure: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        options: ChannelOptions = (),
        metadata: Metadata = (),
        key: str | None = None,
    ) -> None:
        """`target`: "localhost:50051", or "dns:///guard:50051" for all its addresses in turn.

        `insecure`: plain text, for loopback or where a mesh encrypts. Otherwise TLS, by the
        `credentials` or the system's authorities. `timeout`: seconds for a call with its retries.
        `options`: gRPC channel arguments beside the client's own. `metadata`: pairs that go with
        every call, such as ("x-trace", "7"). `key`: an API key of the server's, which goes with
        every call too. Raises ValueError if that is no text which metadata can carry.
        """
        given = arguments(target, options)
        self._channel = (
            grpc.insecure_channel(target, given)
            if insecure
            else grpc.secure_channel(target, credentials or grpc.ssl_channel_credentials(), given)
        )
        self._stub = ModerationServiceStub(self._channel)
        self._timeout = timeout
        self._metadata = with_key(metadata, key)
        self._security = Security(target, insecure=insecure)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and what is in flight on it."""
        self._channel.close()

    def moderate(self, given: Given, *, timeout: float | None = None) -> ModerateResponse:
        """Judges a user's prompt, or any request; see `request`."""
        asked = as_request(given)
        return self._with_retries(
            lambda left: self._stub.Moderate(asked, timeout=left, metadata=self._metadata), timeout
        )

    def batch(self, given: Iterable[Given], *, timeout: float | None = None) -> list[Outcome]:
        """Judges up to 256 conversations in one call; returns their outcomes in order."""
        items = list(map(checked, several(given)))
        asked = BatchModerateRequest(items=[item.request for item in items])
        return outcomes(
            items,
            self._with_retries(
                lambda left: self._stub.BatchModerate(asked, timeout=left, metadata=self._metadata),
                timeout,
            ),
        )

    def stream(
        self, given: Iterable[Given], *, timeout: float | None = None
    ) -> Generator[Outcome, None, None]:
        """Judges many conversations over one stream, up to 64 at a time.

        Yields the outcomes as they come. After an overload a request is sent again later; requests
        without an outcome when a server stops or dies are sent to another one. Closing the iterator
        cancels what is in flight. `given` is read by a thread.

        `timeout`: seconds for each request, with its retries; then its outcome's error is
        DeadlineExceeded, and the stream goes on. Without one, the server bounds each request.
        """
        stream = ThreadStream(self._stub, self._metadata, self._security, timeout)
        return stream.outcomes(map(checked, several(given)))

    def live(
        self, given: "Given | LiveStart", texts: Iterable[str]
    ) -> Generator[LiveEvent, None, None]:
        """Judges an answer while it is written.

        `given`: the conversation before the answer, or a LiveStart with all settings. `texts`: the
        answer as its model writes it; a thread reads it, and no further once the answer is stopped.

        Yields what is cleared and held, and last the verdict of the whole answer or of the
        beginning that stopped it. If its server stops or dies, another one takes the answer up.
        Whoever shows only the events' `text` shows nothing that was not judged. Closing the
        iterator abandons the answer.
        """
        live = ThreadLive(self._stub, self._metadata, self._security, LiveAnswer(given))
        return live.events(texts)

    def _with_retries(self, call: Callable[[float], T], timeout: float | None) -> T:
        budget = RetryBudget(self._timeout if timeout is None else timeout)
        while True:
            try:
                return call(budget.left)
            except grpc.RpcError as error:
                failed = self._security.explained(from_rpc(error))
            time.sleep(budget.pause(failed))
