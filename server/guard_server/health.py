"""Whether the service can judge: it says so only after the engine has written verdicts.

A slot serves from its first warm-up verdicts (one for each mode, which also puts both constant
prefixes into the engine's cache) until the engine is lost; then it is tried again until it answers.
"""

import asyncio
import contextlib

import structlog
from grpc_health.v1 import health, health_pb2

from guard_server.errors import GuardError, Unavailable
from guard_server.prompt import ASSISTANT, USER, Message
from guard_server.slot import Slot
from guard_server.tensors import Generation
from guard_server.verdict import parse

_WARM_UP = (
    (Message(USER, "Hello!"),),
    (Message(USER, "Hello!"), Message(ASSISTANT, "Hello! What can I do for you?")),
)
_WARM_UP_S = 120  # a large engine's first steps are slow
_RETRY_S = (0.2, 5.0)  # first and longest pause
_STALL_S = 3.0  # without any answer, with requests in flight
_PROBE_S = 5.0

_log = structlog.get_logger(__name__)


class Health:
    """grpc.health.v1 for the whole server and for each service, kept up to date by `watch`."""

    def __init__(self, slot: Slot, *services: str) -> None:
        self.servicer = health.aio.HealthServicer()
        self.ready = asyncio.Event()
        self._slot = slot
        self._services = ("", *services)
        self._stopping = False

    async def watch(self) -> None:
        """Runs until cancelled."""
        pause, longest = _RETRY_S
        while True:
            self._slot.engine.lost.clear()
            try:
                async with asyncio.timeout(_WARM_UP_S):
                    await self._warm_up()
            except (GuardError, TimeoutError) as error:
                _log.warning("slot not ready", slot=self._slot.name, reason=str(error))
                await self._set(serving=False)
                await self._repair()
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
                continue
            pause = _RETRY_S[0]
            await self._set(serving=True)
            _log.info("slot ready", slot=self._slot.name, fingerprint=self._slot.fingerprint)
            await self._engine_lost()
            _log.error("slot lost", slot=self._slot.name)
            await self._set(serving=False)

    async def stop(self) -> None:
        """NOT_SERVING for good, from the first moment of a shutdown."""
        await self._set(serving=False)
        self._stopping = True

    async def _set(self, *, serving: bool) -> None:
        if self._stopping:
            return
        kinds = health_pb2.HealthCheckResponse
        for service in self._services:
            await self.servicer.set(service, kinds.SERVING if serving else kinds.NOT_SERVING)
        if serving:
            self.ready.set()
        else:
            self.ready.clear()

    async def _warm_up(self) -> None:
        for messages in _WARM_UP:
            response_mode = messages[-1].role == ASSISTANT
            written = await self._slot.protocol.write(
                self._slot.prompt.ids(messages), response_mode=response_mode
            )
            parse(written.text, response_mode=response_mode)

    async def _repair(self) -> None:
        engine = self._slot.engine
        if not engine.stub_died:
            return
        _log.error("the engine's process died; having Triton load it again", slot=self._slot.name)
        with contextlib.suppress(Unavailable):  # the next warm-up tells
            await engine.reload()

    async def _engine_lost(self) -> None:
        """Returns when the engine failed, or no longer answers."""
        engine = self._slot.engine
        while True:
            answers = engine.answers
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(engine.lost.wait(), _STALL_S)
                break
            if engine.in_flight and engine.answers == answers and not await self._answers_probe():
                break
        # Triton never answers for what was in a dead stub.
        engine.fail_all("The engine went away. Try again in a moment.")

    async def _answers_probe(self) -> bool:
        end_id = self._slot.manifest.tokens.end_ids[0]
        try:
            async with asyncio.timeout(_PROBE_S):
                await self._slot.engine.generate(Generation((end_id,), end_id, max_tokens=1))
        except (GuardError, TimeoutError):
            return False
        return True
