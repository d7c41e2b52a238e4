"""Cadences and stop rules over the golden answers, by the CPU engine in this process.

Answers are typed by a clock of their own and a check takes no time, so the same is found each time.
"""

import asyncio
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from guard_bench.live.live_bench import LiveBench
from guard_bench.live.live_outcome import LiveOutcome
from guard_bench.targets.cpu_engine import complete
from guard_bench.targets.guard_serve import build
from guard_core.conversation import MAX_CONTENT_BYTES, Message, Mode, Role
from guard_core.engine.tensors import Generated, Generation
from guard_core.live.beginnings import Boundary
from guard_core.live.live_session import Cadence, LiveSession, LiveState, StopRule
from guard_core.slot.slot import Slot
from guard_core.verdict.policy import Action, Policy
from guard_engine import Engine, EngineOptions, Request
from qwen3guard.v1 import types_pb2

_CHARACTERS_PER_S = 200
_PART = 8  # characters
_CADENCES = {
    "16 tokens, at words": Cadence(16, 16, Boundary.WORD),
    "16 tokens, at sentences": Cadence(16, 16),
    "50 tokens, at sentences (default)": Cadence(),
}
_RULES = {
    "confirm 1": StopRule(confirm=1),
    "confirm 2 (default)": StopRule(),
    "confirm 3": StopRule(confirm=3),
    "confirm 2, unsafe_score 0.9": StopRule(unsafe_score=0.9),
}


@dataclass(slots=True)
class _Answer:
    messages: tuple[Message, ...]
    blocked: bool
    held: bool = False
    stopped: bool = False
    cleared: float = 0.0  # the share, at the stop


async def rules(bench: LiveBench) -> list[LiveOutcome]:
    """Each cadence with each stop rule: what is held, cut off, stopped and seen."""
    slot = bench.directory / "blue"
    await asyncio.to_thread(build, slot, "int8")
    judge = _Judge(slot)
    outcomes = []
    try:
        for (cadence_name, cadence), (name, rule) in itertools.product(
            _CADENCES.items(), _RULES.items()
        ):
            bench.progress(f"{cadence_name}, {name}")
            found = [await judge.run(_messages(one), cadence, rule) for one in bench.answers]
            outcomes.append(
                LiveOutcome("rules", f"{cadence_name}; {name}", "", _words(found), None)
            )
    finally:
        judge.close()
    return outcomes


def _words(found: Sequence[_Answer]) -> str:
    allowed = [one for one in found if not one.blocked]
    blocked = [one for one in found if one.blocked]
    stopped = [one for one in blocked if one.stopped]
    seen = f", {median(one.cleared for one in stopped):.0%} seen" if stopped else ""
    return (
        f"of {len(allowed)} allowed {sum(one.held for one in allowed)} held, "
        f"{sum(one.stopped for one in allowed)} cut off; of {len(blocked)} blocked "
        f"{len(stopped)} stopped{seen}"
    )


def _messages(conversation: Sequence[types_pb2.Message]) -> tuple[Message, ...]:
    return tuple(
        Message(Role[types_pb2.Role.Name(one.role).removeprefix("ROLE_")], one.content)
        for one in conversation
    )


class _Judge:
    """The slot and its engine. A beginning's severity is asked for once."""

    def __init__(self, slot: Path) -> None:
        self._slot = Slot(slot)
        version = slot / self._slot.manifest.engine.triton_model / "1"
        options = EngineOptions(**json.loads((version / "engine.json").read_text()))
        self._engine = Engine(version / "openvino_model.xml", options)
        self._numbers = itertools.count()
        self._known: dict[tuple[Message, ...], tuple[Action, float | None]] = {}
        self._whole: dict[tuple[Message, ...], Action] = {}

    def close(self) -> None:
        self._engine.close()

    async def run(self, messages: tuple[Message, ...], cadence: Cadence, rule: StopRule) -> _Answer:
        answer = messages[-1].content
        found = _Answer(messages, await self._blocked(messages))
        encode = self._slot.prompt.encode
        session = LiveSession(
            cadence, rule, lambda text: len(encode(text)), max_bytes=MAX_CONTENT_BYTES
        )
        for at in range(0, len(answer), _PART):
            now = at / _CHARACTERS_PER_S
            session.append(answer[at : at + _PART], now)
            if (length := session.due(now)) is None:
                continue
            action, unsafe = await self._beginning(messages, answer[:length])
            session.judged(length, action, unsafe, now)
            found.held |= action is Action.BLOCK
            if session.state is LiveState.STOPPED:
                found.stopped = True
                found.cleared = session.cleared_bytes / len(answer.encode())
                break
        return found

    async def generate(self, wanted: Generation) -> Generated:
        """A TokenSource's method."""
        request = Request(
            f"{next(self._numbers)}",
            wanted.prompt,
            wanted.max_tokens,
            wanted.draft,
            frozenset([wanted.end_id]),
            return_logits=wanted.logits,
        )
        done = await complete(self._engine, request)
        return Generated(done.output_ids, done.logits, done.reused_blocks)

    async def _blocked(self, messages: tuple[Message, ...]) -> bool:
        if messages not in self._whole:
            prompt = self._slot.prompt_ids(messages)
            decoded = await self._slot.decoder.decode(self, prompt, Mode.RESPONSE)
            self._whole[messages] = Policy().action(decoded.verdict)
        return self._whole[messages] is Action.BLOCK

    async def _beginning(
        self, messages: tuple[Message, ...], text: str
    ) -> tuple[Action, float | None]:
        judged = (*messages[:-1], Message(Role.ASSISTANT, text))
        if judged not in self._known:
            prompt = self._slot.prompt_ids(judged)
            decoded = await self._slot.severity_decoder.decode(self, prompt, with_scores=True)
            scores = decoded.scores
            self._known[judged] = Policy().action(decoded.verdict), scores and scores[2]
        return self._known[judged]
