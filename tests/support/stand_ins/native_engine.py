"""TensorRT-LLM's Triton backend without a GPU: tensorrtllm.cc, which answers from a script.

A slot comes from the GPU build itself, with stand-ins for its tools. The real Triton loads it by
the config.pbtxt that the build wrote.
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from guard_build.tensorrt_llm import EngineBuild, build_engine
from guard_control.triton_wheel import wheel_directory
from guard_core.conversation import Message, Mode, Role, mode_of
from guard_core.slot.gpu_host import Container
from guard_core.slot.manifest import Manifest
from guard_core.slot.slot import WARM_UP
from guard_core.slot.slot_files import load_prompt
from guard_core.verdict.grammar import Verdict, write
from guard_core.verdict.taxonomy import Severity
from tests.support.slots import TINY
from tests.support.stand_ins.tensorrt_llm import MACHINE, FakeTools, engine_build, fake_container

_SOURCE = Path(__file__).with_name("tensorrtllm.cc")
_HEADER = Path(__file__).with_name("triton_backend_api.h")
_BUILT = Path(__file__).parents[3] / ".run" / "native"
_COMPILE = (
    *("g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror"),
    *("-shared", "-fPIC", "-fvisibility=hidden"),
)
_SAFE = {
    Mode.PROMPT: Verdict(Severity.SAFE),
    Mode.RESPONSE: Verdict(Severity.SAFE, refusal=False),
}


class CompilerMissing(Exception):
    """There is no g++ here."""


def backend_library() -> Path:
    """The compiled stand-in, kept for as long as its source and flags stay as they are.

    Raises CompilerMissing.
    """
    if not shutil.which("g++"):
        raise CompilerMissing("g++ is not on PATH. On Debian: apt-get install g++")
    sources = _SOURCE.read_bytes() + _HEADER.read_bytes()
    digest = hashlib.sha256(sources + str(_COMPILE).encode()).hexdigest()[:12]
    library = _BUILT / digest / "libtriton_tensorrtllm.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        unfinished = library.with_suffix(f".{os.getpid()}")
        subprocess.run([*_COMPILE, "-o", unfinished, _SOURCE], check=True)
        unfinished.rename(library)
    return library


def gpu_container(directory: Path) -> Container:
    """NVIDIA's container as `guard serve` sees it: the stand-in below Triton from the wheel."""
    backend = directory / "backends" / "tensorrtllm"
    backend.mkdir(parents=True)
    (backend / "libtriton_tensorrtllm.so").symlink_to(backend_library())
    return replace(
        fake_container(directory),
        tritonserver=wheel_directory() / "bin" / "tritonserver",
        backends=directory / "backends",
    )


def gpu_build(directory: Path) -> EngineBuild:
    """What is built: the tiny guard's FP8 slot."""
    return engine_build(directory, slot=directory / "slots" / "blue")


def build_gpu_slot(directory: Path) -> Path:
    """The slot as the whole pipeline builds it, with stand-ins for its tools."""
    (directory / "tools").mkdir(parents=True)
    build = gpu_build(directory)
    build_engine(
        build,
        tools=FakeTools(directory / "tools").tools,
        machine=MACHINE,
        verify=lambda packaged: Manifest.load(packaged).check(packaged),
        progress=lambda stage, done, total: None,
    )
    return build.slot


class Script:
    """What a slot's stand-in writes. It may change while the slot is served."""

    def __init__(self, slot: Path) -> None:
        """The conversations of the warm-up are Safe; nothing else has an answer yet."""
        self._prompt = load_prompt(slot)
        model = Manifest.load(slot).engine.triton_model
        self._path = slot / model / "1" / "script.txt"
        vocabulary = json.loads((TINY / "config.json").read_text())["vocab_size"]
        self._head = f"vocabulary {vocabulary}"
        self._entries: dict[tuple[int, ...], str] = {}
        for messages in WARM_UP:
            self._add("answer", messages, self._tokens(write(_SAFE[mode_of(messages)])))

    def answers(self, text: str, *contents: str) -> None:
        """To a conversation of user and assistant in turn it writes `text` and its end token."""
        self._add("answer", conversation(*contents), self._tokens(text))

    def holds(self, text: str, *contents: str) -> None:
        """The same, but only when the request is stopped."""
        self._add("hold", conversation(*contents), self._tokens(text))

    def fails(self, error: str, *contents: str) -> None:
        """To this conversation it answers an error."""
        self._add("fail", conversation(*contents), error)

    def _tokens(self, text: str) -> str:
        return " ".join(map(str, self._prompt.encode(text)))

    def _add(self, kind: str, messages: Sequence[Message], rest: str) -> None:
        prompt = tuple(self._prompt.ids(messages))
        self._entries[prompt] = " ".join([kind, *map(str, (len(prompt), *prompt)), rest])
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text("\n".join([self._head, *self._entries.values()]) + "\n")
        unfinished.rename(self._path)  # in one piece: it may be read at any time


def stops(triton_log: Path) -> int:
    """How many requests that were held have been stopped."""
    return triton_log.read_text(errors="replace").count("stand-in: stopped")


def conversation(*contents: str) -> tuple[Message, ...]:
    """User and assistant in turn."""
    roles = (Role.USER, Role.ASSISTANT)
    return tuple(Message(roles[n % 2], content) for n, content in enumerate(contents))
