"""A local Triton: one process for one slot, for its own user only.

Whoever can ask a Triton to load a model runs code in it. So it listens on a Unix socket in a
directory that no other user may enter; only its metrics are on a port, and can be read by all.
For a CPU engine its binaries come from the nvidia-pytriton wheel, for a GPU engine from NVIDIA's
container. It can't outlive this process: the kernel stops it when this one is gone.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Self

import grpc
import structlog
from tritonclient.grpc import service_pb2

from guard_control.host import child_process, orphans, shared_memory
from guard_control.host.private_files import with_private_files
from guard_control.loaded_model import LoadedModel, ModelState
from guard_control.triton_wheel import (
    TritonMissing,
    make_backend_directory,
    wheel_directory,
    wheel_environment,
)
from guard_core.engine.triton_connection import TRITON_FLAGS
from guard_core.slot.gpu_host import Container, check_machine, read_machine
from guard_core.slot.manifest import Manifest
from guard_server.listening import check_port

_HOST = "127.0.0.1"
_SLOT, _BACKENDS, _SOCKET = "slot", "backends", "grpc"
_POLL_S = 0.05
_LOG_TAIL_LINES = 30

_log = structlog.get_logger(__name__)


class TritonFailed(Exception):
    """Triton did not start. The text ends with the last lines of its log."""


class TritonDied(TritonFailed):
    """It died while it started: another try may succeed."""


class TritonProcess:
    """Serves the model of one slot. Not safe to share between threads."""

    def __init__(
        self,
        slot: Path,
        *,
        grpc_port: int,
        metrics_port: int,
        log: Path,
        memory: Path = shared_memory.DIRECTORY,
        socket: Path | None = None,
        environment: Mapping[str, str] | None = None,
        container: Container = Container(),  # noqa: B008 - it is frozen
    ) -> None:
        """`slot`: a built slot's directory. `log`: the file for Triton's output.

        `memory`: a directory in memory. What is made again after a death belongs into one that no
        other user may enter: in /dev/shm itself, anyone could take the name in between.
        `grpc_port`: the number at the end of its socket's name. `socket`: the rest of that name; by
        default it is in `memory`. `environment` is added to ours.
        """
        self.metrics_url = f"http://{_HOST}:{metrics_port}/metrics"
        self._container, self._environment = container, dict(environment or {})
        self._grpc_port, self._metrics_port = grpc_port, metrics_port
        self._slot, self.log = slot.resolve(), log
        self._shared_memory = shared_memory.new_prefix()
        self._process: subprocess.Popen[bytes] | None = None
        self._model: LoadedModel | None = None  # since the first start
        self._has_stub = False
        # Links with plain names: Triton gives a stub its paths without quotes, and can't read those
        # that are not ASCII. In memory, so that a full disk stops no start.
        self._links = memory / f"{self._shared_memory}links"
        # Triton puts a colon and its port behind every address.
        self._address = f"unix:{socket or self._links / _SOCKET}"
        self.target = f"{self._address}:{grpc_port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """False before `start`, after `stop`, and if Triton died."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self, timeout_s: float = 300) -> None:
        """Returns when the slot's model is ready.

        Raises SlotInvalid (no manifest, or an engine for another machine) or TritonFailed; then
        nothing is left running.
        """
        manifest = Manifest.load(self._slot)
        model, gpu = manifest.engine.triton_model, manifest.engine.kind == "tensorrt-llm"
        self._model = LoadedModel(self.target, model, manifest.tokens.end_ids[0])
        self._has_stub = not gpu
        if gpu:
            check_machine(manifest, read_machine(self._container))
        self._check_port()
        shared_memory.remove_stale()
        try:
            self._make_links(gpu=gpu)
            self._spawn(self._command(model, gpu=gpu), {} if gpu else wheel_environment())
            self._wait_until_ready(model, time.monotonic() + timeout_s)
        except TritonMissing as error:
            self.stop()
            raise TritonFailed(str(error)) from None
        except BaseException:
            self.stop(grace_s=0)
            raise

    def stop(self, grace_s: float = 10) -> None:
        """Lets requests in flight finish for up to `grace_s` seconds, then kills.

        Stopping it again does nothing.
        """
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with contextlib.suppress(ProcessLookupError):  # the backend's stubs, if they are left
                os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(self._links, ignore_errors=True)
        shared_memory.remove(self._shared_memory)

    @property
    def model(self) -> LoadedModel:
        """The slot's model in it, after the first start."""
        assert self._model is not None  # noqa: S101  (started)
        return self._model

    def model_state(self, timeout_s: float) -> ModelState:
        """What Triton says of the slot's model."""
        return self.model.state(timeout_s)

    def activity(self) -> list[child_process.Activity]:
        """What it does, and then its Python stub, if that lives; empty without any, as on a GPU."""
        if not self.pid or not self._has_stub:
            return []
        with contextlib.suppress(OSError):  # one has ended just now
            found = [self.pid, *child_process.children(self.pid)]
            return [child_process.activity(pid) for pid in found]
        return []

    def _check_port(self) -> None:
        port = self._metrics_port
        if ended := orphans.end():
            _log.warning("ended what a killed server had left running", pids=ended)
        try:
            check_port(_HOST, port, "--triton-port (`guard engine`: --port)")
        except OSError as error:
            raise TritonFailed(f"Port {port} can't be used for Triton's metrics. {error}") from None

    def _make_links(self, *, gpu: bool) -> None:
        self._links.mkdir(mode=0o700)
        (self._links / _SLOT).symlink_to(self._slot, target_is_directory=True)
        if not gpu:
            make_backend_directory(self._links / _BACKENDS)

    def _command(self, model: str, *, gpu: bool) -> list[str]:
        server = self._container.tritonserver if gpu else wheel_directory() / "bin" / "tritonserver"
        backends = self._container.backends if gpu else self._links / _BACKENDS
        return [
            str(server),
            f"--model-repository={self._links / _SLOT}",
            "--model-control-mode=explicit",
            f"--load-model={model}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
            f"--grpc-address={self._address}",
            f"--grpc-port={self._grpc_port}",
            *TRITON_FLAGS,
            "--allow-http=false",
            f"--metrics-address={_HOST}",
            f"--metrics-port={self._metrics_port}",
            "--allow-gpu-metrics=false",
            "--pinned-memory-pool-byte-size=0",
            "--strict-readiness=false",  # one failed load must not fail the server's health
            # Our configuration is complete. Without this, Triton first starts a stub to ask it for
            # more: 2.5 s instead of 0.8 s.
            *([] if gpu else ["--disable-auto-complete-config"]),
        ]

    def _spawn(self, command: list[str], environment: dict[str, str]) -> None:
        try:
            with self._open_log() as log:
                self._process = child_process.spawn(
                    with_private_files(command),
                    # At the end of ours it would refuse everything anyway, for 30 s.
                    signal.SIGKILL,
                    output=log,
                    cwd=self._slot,  # a GPU engine's path is relative to it
                    environment=os.environ | environment | self._environment,
                )
        except OSError as error:
            raise TritonFailed(f"Triton could not be started: {error}.") from None

    def _open_log(self) -> BinaryIO:
        try:
            return self.log.open("ab")
        except OSError as error:
            _log.error("Triton's log can't be written", log=str(self.log), reason=error.strerror)
            return Path(os.devnull).open("ab")

    def _wait_until_ready(self, model: str, deadline: float) -> None:
        options = [("grpc.max_reconnect_backoff_ms", 100), ("grpc.enable_http_proxy", 0)]
        with grpc.insecure_channel(self.target, options) as channel:
            ask = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelReady",
                request_serializer=service_pb2.ModelReadyRequest.SerializeToString,
                response_deserializer=service_pb2.ModelReadyResponse.FromString,
            )
            children = child_process.Children()
            while True:
                if not self.running:
                    self._check_port()  # the likeliest reason, if another process was faster
                    raise TritonDied(f"Triton stopped while it started.{self._log_tail()}")
                if self.pid and children.dead(self.pid):  # Triton itself waits for five minutes
                    raise TritonDied(
                        f"The engine's process died while the model was loaded.{self._log_tail()}"
                    )
                if time.monotonic() > deadline:
                    raise TritonFailed(f"Triton was not ready in time.{self._log_tail()}")
                with contextlib.suppress(grpc.RpcError):
                    if ask(service_pb2.ModelReadyRequest(name=model), timeout=1).ready:
                        return
                time.sleep(_POLL_S)

    def _log_tail(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        except OSError:
            return ""
        return "\n".join(["", f"The end of {self.log}:", *lines])
