"""The slots that run on this machine: a Triton for each, or several, restarted when they die."""

import asyncio
import os
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from guard_control.events import Events
from guard_control.host import shared_memory
from guard_control.host.ownership import PortClaim, PortTaken
from guard_control.kept_triton import KeptTriton
from guard_control.triton_process import TritonFailed, TritonProcess
from guard_core.slot.manifest import Manifest
from guard_core.slot.slot import DirectSlot
from guard_core.slot.traffic import SlotTraffic, TritonList

_GPUS = "CUDA_VISIBLE_DEVICES"


class SlotProcess:
    """One slot and its Tritons."""

    def __init__(self, directory: Path, tritons: Sequence[KeptTriton], manifest: Manifest) -> None:
        self.name = directory.name
        self.directory = directory
        self.manifest = manifest
        self._tritons = tritons

    @property
    def tritons(self) -> list[TritonProcess]:
        return [kept.process for kept in self._tritons]

    @property
    def triton(self) -> TritonProcess:
        """The first one."""
        return self._tritons[0].process

    @property
    def replicas(self) -> int:
        return len(self._tritons)

    def engines(self) -> list[DirectSlot]:
        """One for each of its Tritons, to be asked past the gateway."""
        return [
            DirectSlot(self.directory, one.target, name=self.name, strict_completion=True)
            for one in self.tritons
        ]

    @property
    def restarts(self) -> int:
        return sum(kept.restarts for kept in self._tritons)

    @property
    def running(self) -> bool:
        """Whether one of its Tritons has started and runs."""
        return any(not kept.starting and kept.process.running for kept in self._tritons)

    def traffic(self, weight: int) -> SlotTraffic:
        """Its entry in traffic.json; gateways refuse it if the files have another fingerprint."""
        several = len(self._tritons) > 1
        return SlotTraffic(
            directory=self.directory,
            triton=TritonList(list=tuple(one.target for one in self.tritons))
            if several
            else self.triton.target,
            fingerprint=self.manifest.fingerprint,
            weight=weight,
        )

    async def start(self, timeout_s: float) -> None:
        """Returns when every Triton has loaded the model. Raises TritonFailed or SlotInvalid.

        One that dies while it starts is started again, twice; if one fails, none is left running.
        """
        try:
            await _all([kept.start(timeout_s) for kept in self._tritons])
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends its Tritons for good. Requests in flight there have ten seconds to finish."""
        await asyncio.gather(*(kept.stop() for kept in self._tritons))


class SlotProcesses:
    """All slots that run or start, by name."""

    def __init__(
        self,
        run: Path,
        first_port: int,
        events: Events,
        *,
        memory: Path = shared_memory.DIRECTORY,
        replicas: int = 1,
        out_s: float = 10.0,
    ) -> None:
        """`run`: the directory for Tritons' logs. `memory`: see TritonProcess.

        The first slot's Triton has the number `first_port` in its socket's name and takes the next
        port for metrics, the next Triton the two after these, and so on. `replicas`: Tritons of
        each slot; on GPUs, each has its own. `out_s`: see KeptTriton.
        """
        self._run = run
        self._memory = memory
        self._first_port = first_port
        self._events = events
        self._replicas = replicas
        self._out_s = out_s
        self._slots: dict[str, SlotProcess] = {}
        self._ports: dict[str, list[PortClaim]] = {}

    def __iter__(self) -> Iterator[SlotProcess]:
        return iter(self._slots.values())

    def __contains__(self, name: str) -> bool:
        return name in self._slots

    def __getitem__(self, name: str) -> SlotProcess:
        return self._slots[name]

    async def start(
        self, directory: Path, timeout_s: float, socket: Path | None = None
    ) -> SlotProcess:
        """Starts the Tritons of a slot whose name is free.

        `socket`: of the first one; by default all of them are in memory. Raises TritonFailed or
        SlotInvalid.
        """
        name = directory.name
        manifest = Manifest.load(directory)
        gpus = manifest.engine.gpu is not None and self._replicas > 1
        environments = [
            {_GPUS: gpu_of(number, self._replicas, os.environ)} if gpus else {}
            for number in range(self._replicas)
        ]
        claims = self._ports[name] = []
        try:
            for _ in range(self._replicas):
                claims.append(self._claim())  # noqa: PERF401  (each one sees those before it)
            tritons = [
                self._triton(directory, number, claim.port, environment, socket)
                for number, (claim, environment) in enumerate(
                    zip(claims, environments, strict=True)
                )
            ]
            slot = self._slots[name] = SlotProcess(directory, tritons, manifest)
            await slot.start(timeout_s)
        except BaseException:
            self._slots.pop(name, None)
            self._release(name)
            raise
        return slot

    async def start_all(self, directories: Sequence[Path], timeout_s: float) -> None:
        """Starts the Tritons of all these slots at the same time.

        Raises the TritonFailed or SlotInvalid of the first one that fails; then the others that
        were still starting are not left running.
        """
        await _all([self.start(directory, timeout_s) for directory in directories])

    async def stop(self, name: str) -> None:
        slot = self._slots.pop(name)
        await slot.stop()
        self._release(name)

    async def stop_all(self) -> None:
        await asyncio.gather(*(self.stop(name) for name in list(self._slots)))

    def _triton(
        self,
        directory: Path,
        number: int,
        port: int,
        environment: Mapping[str, str],
        socket: Path | None,
    ) -> KeptTriton:
        name = directory.name
        log = f"triton-{name}.log" if self._replicas == 1 else f"triton-{name}-{number}.log"
        process = TritonProcess(
            directory,
            grpc_port=port,
            metrics_port=port + 1,
            log=self._run / log,
            memory=self._memory,
            socket=None if number else socket,
            environment=environment,
        )
        return KeptTriton(name, process, self._events, out_s=self._out_s)

    def _claim(self) -> PortClaim:
        used = {claim.port for claims in self._ports.values() for claim in claims}
        port = next(p for p in range(self._first_port, 65535, 2) if p not in used)
        try:
            return PortClaim(port)
        except PortTaken as error:
            raise TritonFailed(str(error)) from None

    def _release(self, name: str) -> None:
        for claim in self._ports.pop(name):
            claim.release()


async def _all(starts: Sequence[Coroutine[Any, Any, object]]) -> None:
    """Returns when all have started. If one fails, the others are cancelled, and have ended."""
    tasks = [asyncio.create_task(start) for start in starts]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def gpu_of(number: int, replicas: int, environment: Mapping[str, str]) -> str:
    """The GPU of a slot's replica: of those that CUDA_VISIBLE_DEVICES names, or of all.

    Raises TritonFailed if it names too few for so many replicas.
    """
    named = environment.get(_GPUS)
    if named is None:
        return str(number)
    found = [gpu.strip() for gpu in named.split(",") if gpu.strip()]
    if len(found) < replicas:
        raise TritonFailed(
            f"{_GPUS} names {len(found)} GPUs, and each of {replicas} replicas needs one. Name "
            "more, or start fewer with --replicas."
        )
    return found[number]
