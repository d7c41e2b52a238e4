import signal
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from guard_build import build_slot
from guard_core.slot import slot_files
from guard_core.verdict.prompt import Prompt
from guard_server import log
from tests.support import tiers
from tests.support.gateway import Client, connect
from tests.support.serving import Served, guard_serve
from tests.support.slots import TINY, tiny_files, write_slot
from tests.support.stand_ins.fake_engine import Answer, Asked

# A shell has what it starts in the background ignore Ctrl-C, and so would the commands under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
tiers.watch_programs()

# Time is measured in benchmarks: on a busy machine an example may take any. All else stays: in CI
# Hypothesis always draws the same examples.
settings.register_profile(
    "untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tiers.mark(items)


@pytest.fixture(scope="session", autouse=True)
def prompts() -> Iterator[None]:
    """One Prompt for each template and tokenizer, not one for each gateway that a test starts.

    A Prompt never changes. To make it takes 0.3 s with the tiny guard's tokenizer, and seconds with
    the real one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slot_files, "Prompt", cache(Prompt))
        yield


@pytest.fixture(scope="session", autouse=True)
def default_log() -> Iterator[None]:
    """A command that runs in a test's own process leaves the log as it is.

    It would send the log of every later gateway to its own output, which is closed by then.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "configure", lambda log_format: None)
        yield


@pytest.fixture(scope="session")
def blue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny guard's slot, as `make serve` builds it."""
    slot = tmp_path_factory.mktemp("repository") / "blue"
    build_slot(TINY, slot)
    return slot


@pytest.fixture(scope="session")
def green(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint as blue, in f32."""
    slot = tmp_path_factory.mktemp("repository") / "green"
    build_slot(TINY, slot, weights="f32")
    return slot


@pytest.fixture(scope="session")
def served(blue: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One running server for all tests that leave it as it was."""
    output = tmp_path_factory.mktemp("serve") / "output.txt"
    # A busy machine is slow: what is tested here is not how long a verdict takes.
    # Without a cache, which would answer for the engine.
    options = ["--request-timeout", "300", "--cache-mib", "0"]
    with guard_serve(blue, output, *options) as running:
        yield running


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Client]:
    async with connect(served.port) as connected:
        yield connected


@pytest.fixture(scope="session")
def tiny_prompt() -> Prompt:
    return Prompt(*tiny_files())


@pytest.fixture(scope="session")
def agree(tiny_prompt: Prompt) -> Callable[[Asked], Answer]:
    """An engine that agrees to every draft: Safe."""

    def answer(asked: Asked) -> Answer:
        ended = asked.draft[-1:] == [asked.end_id]
        return asked.draft[:-1] if ended else asked.draft  # no end token is ever returned

    return answer


@pytest.fixture(scope="session")
def write_tiny_slot(tiny_prompt: Prompt) -> Callable[..., Path]:
    """Writes a slot with the tiny guard's text side below a directory."""
    end_ids = (tiny_prompt.added_tokens["<|im_end|>"], tiny_prompt.added_tokens["<|endoftext|>"])

    def write(directory: Path, max_in_flight: int = 32, *, draft_logits: bool = True) -> Path:
        write_slot(
            directory / "blue",
            *tiny_files(),
            end_ids,
            max_in_flight=max_in_flight,
            draft_logits=draft_logits,
        )
        return directory / "blue"

    return write
