"""The checks of the contract, cheapest first.

They ask for the verdicts of the conversations that a slot is warmed up with: whatever the model
writes after them is what its drafts, whole and wrong, are made of.
"""

from collections.abc import Iterator
from math import ceil

import numpy as np

from guard_core.conversation import Message, Mode, Role, mode_of
from guard_core.engine.tensors import PERF_OUTPUTS, Generation
from guard_core.slot.manifest import Limits
from guard_core.slot.slot import WARM_UP
from guard_core.slot.slot_files import SlotFiles
from guard_core.verdict.label_tokens import LabelTokens
from guard_core.verdict.prompt import Prompt
from guard_eval.contract.asking import RawAnswer, RawEngine
from guard_eval.contract.finding import Finding, equal, holds

_TOGETHER = 8
_TOO_LONG = "an error, and no answer to what was cut"


def check_contract(target: str, files: SlotFiles) -> Iterator[Finding]:
    """Asks the slot's engine, served by the Triton at `target`, and yields what it finds.

    Where a plain answer is wrong already, nothing more of that mode is asked.
    """
    manifest = files.manifest
    with RawEngine(target, manifest.engine.triton_model) as engine:
        for messages in WARM_UP:
            checks = _Checks(engine, files, mode_of(messages), files.prompt.ids(messages))
            plain = checks.plain()
            yield from plain
            if not all(finding.passed for finding in plain):
                return
            yield from checks.drafts()
            if checks.mode is Mode.PROMPT:
                yield from checks.continuations()
                yield from checks.limits()
                yield from checks.others()
                if manifest.generation_logits:
                    yield from checks.scores()


def longest_conversation(prompt: Prompt, limits: Limits) -> tuple[Message, ...]:
    """A conversation whose prompt and draft nearly fill the engine's input."""
    room = limits.max_input_tokens - limits.max_draft_tokens
    words = room

    def conversation() -> tuple[Message, ...]:
        return (Message(Role.USER, "a " * words),)

    while (excess := len(prompt.ids(conversation())) - room) > 0:
        words -= max(1, excess // 2)
    return conversation()


class _Checks:
    """Those of one mode. `prompt` are the ids of its conversation."""

    def __init__(self, engine: RawEngine, files: SlotFiles, mode: Mode, prompt: list[int]) -> None:
        self.mode = mode
        self._engine, self._prompt, self._files = engine, prompt, files
        self._limits = files.manifest.limits
        self._end = files.manifest.tokens.end_ids[0]
        self._vocabulary = 0
        self._written: list[int] = []  # by the model after the prompt, without its end token

    def plain(self) -> list[Finding]:
        """Without a draft: the whole answer, its outputs, and the same from reused blocks."""
        first = self._ask([], most=self._limits.max_output_tokens)
        ids = first.ids
        if isinstance(ids, str) or not 2 < len(ids) < self._limits.max_output_tokens:
            wanted = f"3 to {self._limits.max_output_tokens - 1} tokens, without an error"
            return [holds(self._name("plain"), passed=False, wanted=wanted, found=ids)]
        self._written = list(ids)
        again = self._ask([], most=self._limits.max_output_tokens)
        reused = again.generated.reused_blocks if again.generated else 0
        # Blocks that are shared in part count, too.
        held = ceil(len(self._prompt) / self._limits.kv_block_tokens)
        count = len(ids)
        expected = {
            "output_ids": ("INT32", (1, 1, count)),
            "sequence_length": ("INT32", (1, 1)),
            **{name: (kind, (1, 1)) for name, kind in PERF_OUTPUTS.items()},
        }
        return [
            holds(
                self._name("the end token is not returned"),
                passed=self._end not in ids,
                wanted=f"no token {self._end}",
                found=ids,
            ),
            equal(self._name("all outputs, with their types and shapes"), first.outputs, expected),
            equal(self._name("the same answer again"), again.ids, ids),
            holds(
                self._name("from reused blocks"),
                passed=0 < reused <= held,
                wanted=f"1 to {held} reused blocks",
                found=reused,
            ),
        ]

    def drafts(self) -> Iterator[Finding]:
        """Right, wrong and ending too early: the agreed part and one own token come back."""
        written, end = self._written, self._end
        cases: dict[str, tuple[list[int], list[int]]] = {
            "a right draft": ([*written, end], written),
            "a right draft without its end": (written, written),
            "a draft that goes on after the end": ([*written, written[0], end], written),
            "the end drafted first": ([end], written[:1]),
        }
        for at in (0, 2, len(written) - 1):
            wrong = [*written[:at], self._other_than(written[at]), *written[at + 1 :], end]
            cases[f"a draft that is wrong at token {at + 1}"] = wrong, written[: at + 1]
        for name, (draft, wanted) in cases.items():
            if len(draft) <= self._limits.max_draft_tokens:
                yield equal(self._name(name), self._ask(draft).ids, wanted)

    def continuations(self) -> Iterator[Finding]:
        """After tokens of the answer: the rest of it."""
        written, most = self._written, self._limits.max_output_tokens
        after = {
            name: written[:count] for name, count in (("two tokens", 2), ("all", len(written)))
        }
        for name, begun in after.items():
            answer = self._ask([], most=most - len(begun), begun=begun)
            yield equal(f"the rest of an answer after {name}", answer.ids, written[len(begun) :])

    def limits(self) -> Iterator[Finding]:
        """Of the output, the draft and the input."""
        limits, written = self._limits, self._written
        yield equal("no more tokens than asked for", self._ask([], most=2).ids, written[:2])
        wrong = self._other_than(written[0])
        longest = self._ask([wrong] * limits.max_draft_tokens).ids
        yield equal("the longest draft", longest, written[:1])
        longer = self._ask([wrong] * (limits.max_draft_tokens + 1))
        yield holds(
            "a draft that is too long",
            passed=bool(longer.error) or longer.ids == written[:1],
            wanted=f"an error, or {written[:1]}",
            found=longer.ids,
        )
        full = self._files.prompt.ids(longest_conversation(self._files.prompt, limits))
        draft = [wrong] * limits.max_draft_tokens
        filling = self._engine.ask(Generation(full, self._end, len(draft) + 1, draft))
        yield holds(
            "a prompt and draft that fill the input",
            passed=filling.generated is not None,
            wanted="an answer",
            found=filling.ids,
        )
        beyond = [*full, *[full[-1]] * (limits.max_input_tokens + 1 - len(full))]
        refused, kept = self._engine.ask_together(
            [Generation(beyond, self._end, 4), Generation(self._prompt, self._end, 2)]
        )
        yield holds(
            "a prompt that is too long",
            passed=bool(refused.error) and not refused.outputs,
            wanted=_TOO_LONG,
            found=refused.ids,
        )
        yield equal("the request beside one that fails", kept.ids, written[:2])

    def others(self) -> Iterator[Finding]:
        """Requests in flight together, and `stop`."""
        written, end = self._written, self._end
        asked = [Generation(self._prompt, end, 1 + n % len(written)) for n in range(_TOGETHER)]
        answers = self._engine.ask_together(asked)
        wanted = [written[: each.max_tokens] for each in asked]
        found = [answer.ids for answer in answers]
        yield equal("requests in flight together get their own answers", found, wanted)
        for name, came, count in (
            ("a request and its stop", self._engine.ask_and_stop(self._longest()), 2),
            ("the stop of an unknown request", self._engine.stop_unknown(), 1),
        ):
            empty = sum(not answer.error and not answer.outputs for answer in came)
            yield holds(
                name,
                passed=(len(came), empty) == (count, 1),
                wanted=f"{count} answers, one of them empty: the stop's acknowledgement",
                found=[answer.ids for answer in came],
            )

    def scores(self) -> Iterator[Finding]:
        """Raw logits where the severity is written."""
        key = LabelTokens.of(self._files.prompt).severity_key
        asked = Generation([*self._prompt, *key], self._end, 1, logits=True)
        answer = self._engine.ask(asked)
        kind, shape = answer.outputs.get("generation_logits", ("none", ()))
        yield holds(
            "logits of one position",
            passed=(kind, shape[:-1]) == ("FP32", (1, 1, 1)) and shape[-1] > self._end,
            wanted=f"FP32, [1, 1, 1, vocabulary], a vocabulary with the end token {self._end}",
            found=answer.error or (kind, shape),
        )
        logits = answer.generated.logits if answer.generated else None
        if logits is None or not len(logits):
            return
        finite = bool(np.isfinite(logits).all())
        chosen = [int(logits[0].argmax())] if finite else "values that are not finite"
        yield equal("the largest logit is the token that is written", chosen, answer.ids)

    def _ask(
        self, draft: list[int], *, most: int | None = None, begun: list[int] | None = None
    ) -> RawAnswer:
        most = len(draft) + 1 if most is None else most
        prompt = [*self._prompt, *(begun or [])]
        return self._engine.ask(Generation(prompt, self._end, most, draft))

    def _longest(self) -> Generation:
        return Generation(self._prompt, self._end, self._limits.max_output_tokens)

    def _other_than(self, token: int) -> int:
        """A token that the model does not write there, and that every vocabulary has."""
        return next(other for other in (0, 1) if other != token)

    def _name(self, check: str) -> str:
        return f"{self.mode.value}: {check}"
