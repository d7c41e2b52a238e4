"""KServe v2's inference.GRPCInferenceService: for tritonclient, perf_analyzer and KServe's tools.

One model, `qwen3guard`. Its input is either `conversation` (JSON: a list of {"role", "content"}) or
`text` (one prompt); its outputs are the verdict's parts. It takes the same path as Moderate.
"""

from collections.abc import Callable, Coroutine
from functools import partial
from importlib.metadata import version
from typing import Any

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2

from guard_core.errors import ModelUnknown, known_error
from guard_server.api import validation
from guard_server.api.calls import Context, abort, answering, caller_of
from guard_server.api.decoding import Arrived, Received
from guard_server.api.handlers import MOST_BYTES_WITHOUT_TURN, faultless, generic_handler
from guard_server.api.kserve_tensors import INPUTS, OUTPUTS, read, write
from guard_server.api.streaming import Stream
from guard_server.drain import Drain
from guard_server.pipeline.moderator import Moderator
from guard_server.pipeline.request import ModerationRequest
from guard_server.routing.caller import Caller
from guard_server.routing.router import Router

SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
MODEL = "qwen3guard"
VERSION = "1"
_VERSIONS = ("", VERSION)
_IN_TURNS = ("ModelInfer", "ModelStreamInfer")
_EXTENSIONS = ("model_configuration", "statistics")


class InferenceService:
    """Answers requests until `drain` has begun. Methods that it lacks are UNIMPLEMENTED."""

    def __init__(
        self,
        moderator: Moderator,
        drain: Drain,
        router: Router,
        statistics: Callable[[str, str], service_pb2.ModelStatistics],
    ) -> None:
        """`statistics(model, version)` is what ModelStatistics answers."""
        self._moderator = moderator
        self.drain = drain
        self._router = router
        self._statistics = statistics

    def handler(self) -> grpc.GenericRpcHandler:
        """The service for `grpc.aio.Server.add_generic_rpc_handlers`."""
        return generic_handler(
            SERVICE, self, in_turns=_IN_TURNS, most_bytes=MOST_BYTES_WITHOUT_TURN
        )

    async def ServerLive(  # noqa: N802  (KServe's name, as those below)
        self, received: Received[service_pb2.ServerLiveRequest], context: Context
    ) -> service_pb2.ServerLiveResponse:
        await faultless(received, context)
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, received: Received[service_pb2.ServerReadyRequest], context: Context
    ) -> service_pb2.ServerReadyResponse:
        await faultless(received, context)
        return service_pb2.ServerReadyResponse(ready=self._ready)

    async def ServerMetadata(  # noqa: N802
        self, received: Received[service_pb2.ServerMetadataRequest], context: Context
    ) -> service_pb2.ServerMetadataResponse:
        await faultless(received, context)
        return service_pb2.ServerMetadataResponse(
            name="qwen3guard-server",
            version=version("qwen3guard-server"),
            extensions=_EXTENSIONS,
        )

    async def ModelReady(  # noqa: N802
        self, received: Received[service_pb2.ModelReadyRequest], context: Context
    ) -> service_pb2.ModelReadyResponse:
        request = await faultless(received, context)
        await _check_model(request.name, "", context)
        ready = self._ready and request.version in _VERSIONS
        return service_pb2.ModelReadyResponse(ready=ready)

    async def ModelMetadata(  # noqa: N802
        self, received: Received[service_pb2.ModelMetadataRequest], context: Context
    ) -> service_pb2.ModelMetadataResponse:
        request = await faultless(received, context)
        await _check_model(request.name, request.version, context)
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata
        return service_pb2.ModelMetadataResponse(
            name=MODEL,
            versions=[VERSION],
            platform="qwen3guard",
            inputs=[tensor(name=name, datatype="BYTES", shape=[1]) for name in INPUTS],
            outputs=[
                tensor(name=name, datatype="BYTES", shape=[dims]) for name, dims in OUTPUTS.items()
            ],
        )

    async def ModelConfig(  # noqa: N802
        self, received: Received[service_pb2.ModelConfigRequest], context: Context
    ) -> service_pb2.ModelConfigResponse:
        request = await faultless(received, context)
        await _check_model(request.name, request.version, context)
        text = model_config_pb2.TYPE_STRING
        return service_pb2.ModelConfigResponse(
            config=model_config_pb2.ModelConfig(
                name=MODEL,
                platform="qwen3guard",
                max_batch_size=0,  # a request is one conversation
                input=[
                    model_config_pb2.ModelInput(name=name, data_type=text, dims=[1], optional=True)
                    for name in INPUTS
                ],
                output=[
                    model_config_pb2.ModelOutput(name=name, data_type=text, dims=[dims])
                    for name, dims in OUTPUTS.items()
                ],
            )
        )

    async def ModelStatistics(  # noqa: N802
        self, received: Received[service_pb2.ModelStatisticsRequest], context: Context
    ) -> service_pb2.ModelStatisticsResponse:
        request = await faultless(received, context)
        await _check_model(request.name or MODEL, request.version, context)
        return service_pb2.ModelStatisticsResponse(model_stats=[self._statistics(MODEL, VERSION)])

    @answering
    async def ModelInfer(  # noqa: N802
        self, arrived: Arrived[service_pb2.ModelInferRequest], context: Context
    ) -> service_pb2.ModelInferResponse:
        caller, size = caller_of(context), len(arrived.data)
        return await self._infer("ModelInfer", arrived.decoded, caller, size)

    @answering
    async def ModelStreamInfer(self, _requests: object, context: Context) -> None:  # noqa: N802
        caller = caller_of(context, many=True)

        def begin(
            received: Received[service_pb2.ModelInferRequest],
        ) -> Coroutine[Any, Any, service_pb2.ModelStreamInferResponse]:
            return answer(received.readable().id, received)

        async def answer(
            request_id: str, received: Received[service_pb2.ModelInferRequest]
        ) -> service_pb2.ModelStreamInferResponse:
            try:
                response = await self._infer("ModelStreamInfer", lambda: received, caller, 0)
            except Exception as error:  # as Triton does: a stream gives errors as text only
                text = str(known_error(error))
                await self._moderator.refused(caller)
                response = service_pb2.ModelInferResponse(model_name=MODEL, id=request_id)
                return service_pb2.ModelStreamInferResponse(
                    error_message=text, infer_response=response
                )
            response.parameters["triton_final_response"].bool_param = True
            return service_pb2.ModelStreamInferResponse(infer_response=response)

        decoded = partial(self._moderator.decoded, caller)
        await Stream(context, decoded, begin, self.drain.closed, caller).run()

    @property
    def _ready(self) -> bool:
        return self._router.serving and not self.drain.closed.is_set()

    async def _infer(
        self,
        method: str,
        decoded: Callable[[], Received[service_pb2.ModelInferRequest]],
        caller: Caller,
        size: int,
    ) -> service_pb2.ModelInferResponse:
        """`size`: how many bytes `decoded` has yet to decode."""
        request = service_pb2.ModelInferRequest()

        def read() -> ModerationRequest:
            nonlocal request
            received = decoded()
            request = received.readable()
            return _read(received)

        moderation = await self._moderator.moderate(method, read, caller, size)
        return write(moderation, request, MODEL, VERSION)


def _read(received: Received[service_pb2.ModelInferRequest]) -> ModerationRequest:
    request = received.faultless()
    _check_name(request.model_name, request.model_version)
    return validation.moderation_request(read(request))


async def _check_model(name: str, version: str, context: Context) -> None:
    try:
        _check_name(name, version)
    except ModelUnknown as error:
        await abort(context, error)


def _check_name(name: str, version: str) -> None:
    if name != MODEL:
        raise ModelUnknown(f"There is no model of that name; there is: {MODEL}.")
    if version not in _VERSIONS:
        raise ModelUnknown(f"{MODEL} has no such version; it has: {VERSION}.")
