"""A connection to one Triton: a channel that nothing else shares, and long-lived streams on it.

It is replaced as a whole: a channel that hangs can't be mended, and gRPC would give a new channel
to the same address the old one's connection.
"""

import asyncio
import itertools

import grpc
from tritonclient.grpc import service_pb2

from guard_core.engine.channel import aio_channel
from guard_core.engine.stream import EngineHealth, EngineStream
from guard_core.errors import Unavailable

SERVICE = "/inference.GRPCInferenceService"
_MAX_MESSAGE_BYTES = 64 * 2**20  # logits of a large vocabulary
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.min_reconnect_backoff_ms", 5000),  # in fact the time that one attempt may take
]
# A peer that is gone without a word is found within 15 s, also if nothing is asked. The ping's own
# timeout counts, which is a minute whatever the keepalive's is.
_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
TRITON_FLAGS = (
    "--grpc-http2-min-recv-ping-interval-without-data=5000",
    "--grpc-keepalive-permit-without-calls=1",
)
"""Without these, Triton ends a quiet connection for its pings."""


class EngineConnection:
    """Used from `start` to `close`."""

    def __init__(
        self,
        target: str,
        model: str,
        credentials: grpc.ChannelCredentials | None,
        health: EngineHealth,
        *,
        streams: int,
        keepalive: bool,
        verified_name: str,
    ) -> None:
        """`target`: Triton's gRPC address. `model`: the model's name there.

        `verified_name`: what TLS verifies instead of the host of `target`; empty: that.
        """
        options: list[tuple[str, int | str]] = [*_OPTIONS, *(_KEEPALIVE if keepalive else ())]
        if verified_name and credentials is not None:
            options.append(("grpc.ssl_target_name_override", verified_name))
        self.channel = aio_channel(target, credentials, options)
        open_call: grpc.aio.StreamStreamMultiCallable[
            bytes, service_pb2.ModelStreamInferResponse
        ] = self.channel.stream_stream(
            f"{SERVICE}/ModelStreamInfer",
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        self._streams = [EngineStream(model, open_call, health) for _ in range(streams)]
        self._turns = itertools.cycle(self._streams)

    def start(self) -> None:
        """Returns at once."""
        for stream in self._streams:
            stream.start()

    async def close(self) -> None:
        """Takes two seconds at most."""
        await asyncio.gather(*(stream.close() for stream in self._streams))
        await self.channel.close()

    @property
    def in_flight(self) -> int:
        return sum(stream.in_flight for stream in self._streams)

    def next_stream(self) -> EngineStream:
        """An open one. Raises Unavailable if there is none."""
        for _ in self._streams:
            if (stream := next(self._turns)).open:
                return stream
        raise Unavailable("The engine can't be reached. Try again in a moment.")

    def fail_in_flight(self) -> None:
        """Ends every request in flight with Unavailable."""
        for stream in self._streams:
            stream.fail_in_flight()
