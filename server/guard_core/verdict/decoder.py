"""The verdict is verified, not generated.

The likeliest verdict goes to the engine as a draft, which it checks in one step. What its answer
leads to stands in `outcome`, and only there:

    the engine answered with              leads to
    ------------------------------------  -------------------------------------------------------
    the draft, its end token agreed to    DONE
    an end token anywhere                 DONE: the model has written all that it wants to
    the draft up to the last label of     COMPLETE: the grammar allows nothing after it; a strict
    response mode, and the other label      setting asks again, to see the end token
    anything else                         AGAIN: the prompt and the returned tokens, with no draft

A slot whose labels' first tokens do not differ, or whose engine takes no draft so long, gets plain
greedy decoding. Nothing forces the grammar: what the model wrote is what is parsed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from guard_core.engine.client import EngineClient
from guard_core.engine.tensors import Generated, Generation
from guard_core.errors import EngineFailed, VerdictUngrammatical
from guard_core.slot.manifest import Manifest
from guard_core.verdict.label_tokens import Labels, labels
from guard_core.verdict.prompt import Prompt


class Outcome(Enum):
    """The right column of the table above."""

    DONE = auto()
    COMPLETE = auto()
    AGAIN = auto()


@dataclass(slots=True)
class Written:
    """A verdict's text as the model wrote it, and what it cost."""

    text: str = ""
    verdict_tokens: int = 0
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0
    reused_tokens: int = 0
    engine_calls: int = 0
    grammar_complete: bool = False


class VerdictProtocol:
    """Gets verdicts and scores from one slot's engine."""

    def __init__(
        self,
        manifest: Manifest,
        prompt: Prompt,
        engine: EngineClient,
        *,
        strict_completion: bool = False,
    ) -> None:
        self._limits = manifest.limits
        self._end_ids = manifest.tokens.end_ids
        self._prompt = prompt
        self._engine = engine
        self._strict = strict_completion
        self._labels = labels(prompt)
        self.offers_scores = manifest.generation_logits and self._labels.severities_told_apart
        self._drafts = {mode: self._draft(mode) for mode in (False, True)}
        draft_room = max(len(self._labels.severity_key), *map(len, self._drafts.values()))
        self.max_prompt_tokens = manifest.limits.max_input_tokens - draft_room

    async def write(self, prompt: Sequence[int], *, response_mode: bool) -> Written:
        """Has the model write its verdict of the prompt.

        Raises VerdictUngrammatical if it comes to no end, and what the engine raises.
        """
        written = Written()
        draft = self._drafts[response_mode]
        if not draft:
            return self._finish(written, await self._plain(prompt, (), written))
        answer = await self._ask(
            written, Generation(prompt, self._end_ids[0], len(draft) + 1, draft)
        )
        ids = _ended(answer.ids, draft, self._end_ids)
        written.draft_tokens = len(draft)
        written.accepted_draft_tokens = _agreement(ids, draft)
        match outcome(ids, draft, self._end_ids, self._labels, response_mode=response_mode):
            case Outcome.COMPLETE if not self._strict:
                written.grammar_complete = True
            case Outcome.COMPLETE | Outcome.AGAIN:
                ids = await self._plain(prompt, ids, written)
            case Outcome.DONE:
                pass
        return self._finish(written, ids)

    async def scores(self, prompt: Sequence[int]) -> tuple[float, float, float]:
        """Probabilities of Safe, Controversial and Unsafe where the severity is written."""
        asked = Generation(
            [*prompt, *self._labels.severity_key], self._end_ids[0], max_tokens=1, logits=True
        )
        answer = await self._engine.generate(asked)
        if answer.logits is None or not len(answer.logits):
            raise EngineFailed("The engine returned no logits, although its manifest offers them.")
        first = [self._labels.severities[name][0] for name in self._labels.severities]
        logits = answer.logits[0, first].astype(np.float64)
        weights = np.exp(logits - logits.max())
        safe, controversial, unsafe = (weights / weights.sum()).tolist()
        return safe, controversial, unsafe

    def _draft(self, response_mode: bool) -> tuple[int, ...]:
        draft = (*self._labels.likeliest[response_mode], self._end_ids[0])
        fits = len(draft) <= self._limits.max_draft_tokens
        return draft if fits and self._labels.all_told_apart else ()

    async def _plain(
        self, prompt: Sequence[int], begun: Sequence[int], written: Written
    ) -> list[int]:
        """Greedy decoding after the tokens begun with, which are part of the result."""
        room = self._limits.max_output_tokens - len(begun)
        asked = Generation([*prompt, *begun], self._end_ids[0], room)
        answer = await self._ask(written, asked)
        ids = [*begun, *answer.ids]
        if len(answer.ids) >= room and not _has_end(ids, self._end_ids):
            raise VerdictUngrammatical(
                f"The model did not end its verdict within {self._limits.max_output_tokens} tokens."
                " Nothing was judged: treat the conversation as not moderated."
            )
        return ids

    async def _ask(self, written: Written, asked: Generation) -> Generated:
        answer = await self._engine.generate(asked)
        if not written.engine_calls:
            written.reused_tokens = answer.reused_blocks * self._limits.kv_block_tokens
        written.engine_calls += 1
        return answer

    def _finish(self, written: Written, ids: Sequence[int]) -> Written:
        end = next((n for n, token in enumerate(ids) if token in self._end_ids), len(ids))
        written.verdict_tokens = min(len(ids), end + 1)
        written.text = self._prompt.decode(ids[:end])
        return written


def outcome(
    ids: Sequence[int],
    draft: Sequence[int],
    end_ids: Sequence[int],
    labels: Labels,
    *,
    response_mode: bool,
) -> Outcome:
    """What the engine's answer to a draft leads to: the table above."""
    if _has_end(ids, end_ids):
        return Outcome.DONE
    if response_mode and tuple(ids) in _other_refusals(draft, labels):
        return Outcome.COMPLETE
    return Outcome.AGAIN


def _other_refusals(draft: Sequence[int], labels: Labels) -> set[tuple[int, ...]]:
    """The draft with its last label exchanged, where that label is a single token."""
    drafted = labels.refusals["No"]
    before = tuple(draft[: len(draft) - 1 - len(drafted)])  # without the label and the end token
    return {(*before, *ids) for ids in labels.refusals.values() if len(ids) == 1 and ids != drafted}


def _ended(ids: list[int], draft: Sequence[int], end_ids: Sequence[int]) -> list[int]:
    """Puts an end token back that an engine agreed to but left out of its output.

    A corrected token makes the answer longer than the agreed part, so an answer that is all of the
    draft but its end token can only mean that the end token was agreed to.
    """
    if list(draft[:-1]) == ids and draft[-1] in end_ids:
        return [*ids, draft[-1]]
    return ids


def _agreement(ids: Sequence[int], draft: Sequence[int]) -> int:
    pairs = enumerate(zip(ids, draft, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(ids), len(draft)))


def _has_end(ids: Sequence[int], end_ids: Sequence[int]) -> bool:
    return any(token in end_ids for token in ids)
