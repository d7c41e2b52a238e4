"""The verdict is verified, not generated.

The likeliest verdict goes to the engine as a draft, which it checks in one step. No engine returns
the end token that it was sent. An answer ends with a token of the engine's own, or else the model
ended there: then the end token is put back. What an answer leads to stands in `outcome`:

    the engine answered with              leads to
    ------------------------------------  -------------------------------------------------------
    the draft without its end token       DONE: the model agreed to all of it
    a shorter part of the draft           DONE: the model ended before the draft does
    an end token, of the slot's others    DONE: the model has written all that it wants to
    the draft up to the last label of     COMPLETE: the grammar allows nothing after it; a strict
    response mode, and the other label      setting asks again, to see the end token
    anything else                         AGAIN: the prompt and the returned tokens, with no draft

A slot whose labels' first tokens do not differ, or whose engine takes no draft so long, gets plain
greedy decoding, where an answer of fewer tokens than were asked for was ended by the model. Nothing
forces the grammar on the engine: what the model wrote is what is parsed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from guard_core.conversation import Mode
from guard_core.engine.tensors import Generated, Generation, TokenSource
from guard_core.errors import EngineFailed, VerdictUngrammatical
from guard_core.verdict.grammar import Verdict, parse
from guard_core.verdict.label_tokens import LabelTokens
from guard_core.verdict.prompt import Prompt
from guard_core.verdict.taxonomy import Severity

Scores = tuple[float, float, float]
"""Probabilities of Safe, Controversial and Unsafe where the severity is written."""


class DraftOutcome(Enum):
    """The right column of the table above."""

    DONE = auto()
    COMPLETE = auto()
    AGAIN = auto()


@dataclass(frozen=True, slots=True)
class DecodingLimits:
    """What one request may hold, in tokens; `kv_block_tokens` is the size of a reusable block."""

    max_input_tokens: int  # prompt and draft together
    max_output_tokens: int
    max_draft_tokens: int  # 0: no draft
    kv_block_tokens: int


@dataclass(slots=True)
class DecodeUsage:
    """What one verdict cost the engine."""

    verdict_tokens: int = 0
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0
    reused_tokens: int = 0
    engine_calls: int = 0
    grammar_complete: bool = False  # the verdict is whole by the grammar, its end token unseen


@dataclass(frozen=True, slots=True)
class Decoded:
    """A verdict, what it cost, and the scores if they were asked for and the engine has logits."""

    verdict: Verdict
    usage: DecodeUsage
    scores: Scores | None = None


class VerdictDecoder:
    """Gets verdicts and scores of one slot from an engine that runs it."""

    def __init__(
        self,
        prompt: Prompt,
        limits: DecodingLimits,
        end_ids: Sequence[int],
        *,
        has_logits: bool,
        strict_completion: bool,
    ) -> None:
        """`end_ids`: token ids that end an output, the first is the one sent.

        `has_logits`: the engine returns logits where they are asked for. `strict_completion`: a
        verdict that is whole by the grammar is asked for again, to see its end token.
        """
        self._limits = limits
        self._end_ids = tuple(end_ids)
        self._prompt = prompt
        self._strict = strict_completion
        self.labels = LabelTokens.of(prompt)
        self.offers_scores = has_logits and self.labels.severities_differ
        self._drafts = {mode: self._draft(mode) for mode in Mode}
        draft_room = max(len(self.labels.severity_key), *map(len, self._drafts.values()))
        self.max_prompt_tokens = limits.max_input_tokens - draft_room

    @property
    def end_id(self) -> int:
        """The token id that is sent as the one that ends an output."""
        return self._end_ids[0]

    async def decode(
        self,
        engine: TokenSource,
        prompt: Sequence[int],
        mode: Mode,
        *,
        with_scores: bool = False,
        severity: Severity | None = None,
    ) -> Decoded:
        """Decodes the verdict for a prompt, given as token ids, by an engine of the slot.

        `with_scores` costs one more engine call; without `offers_scores` it is ignored. `severity`:
        what the model writes first, if that is known: then it writes only the rest.
        Raises VerdictUngrammatical if what the model wrote is no verdict of that mode, and what
        the engine raises: Unavailable, Overloaded or EngineFailed.
        """
        usage = DecodeUsage()
        if severity is None:
            ids = await self._output(engine, prompt, mode, usage)
        else:
            begun = (*self.labels.severity_key, *self.labels.severities[severity])
            ids = await self._greedy(engine, prompt, begun, usage)
        end = next((n for n, token in enumerate(ids) if token in self._end_ids), len(ids))
        usage.verdict_tokens = min(len(ids), end + 1)
        verdict = parse(self._prompt.decode(ids[:end]), mode)
        scores = None
        if with_scores and self.offers_scores:
            scores = await self.scores(engine, prompt)
            usage.engine_calls += 1
        return Decoded(verdict, usage, scores)

    async def _output(
        self, engine: TokenSource, prompt: Sequence[int], mode: Mode, usage: DecodeUsage
    ) -> Sequence[int]:
        """All tokens that the model writes, up to its end token if it was seen."""
        draft = self._drafts[mode]
        if not draft:
            return await self._greedy(engine, prompt, (), usage)
        asked = Generation(prompt, self._end_ids[0], len(draft) + 1, draft)
        answer = await self._ask(engine, usage, asked)
        ids = answer.ids
        if agreement(ids, draft) == len(ids):
            ids = self._with_end(ids)
        usage.draft_tokens = len(draft)
        usage.accepted_draft_tokens = agreement(ids, draft)
        match outcome(ids, draft, self._end_ids, self.labels, mode):
            case DraftOutcome.COMPLETE if not self._strict:
                usage.grammar_complete = True
            case DraftOutcome.COMPLETE | DraftOutcome.AGAIN:
                return await self._greedy(engine, prompt, ids, usage)
            case DraftOutcome.DONE:
                pass
        return ids

    async def scores(self, engine: TokenSource, prompt: Sequence[int]) -> Scores:
        """One engine call, where the slot offers scores. Raises as `decode`."""
        asked = Generation(
            [*prompt, *self.labels.severity_key], self._end_ids[0], max_tokens=1, logits=True
        )
        answer = await engine.generate(asked)
        if answer.logits is None or not len(answer.logits):
            raise EngineFailed("The engine returned no logits, although its manifest offers them.")
        return severity_scores(answer.logits[0], self.labels)

    def _draft(self, mode: Mode) -> tuple[int, ...]:
        draft = (*self.labels.likeliest[mode], self._end_ids[0])
        fits = len(draft) <= self._limits.max_draft_tokens
        return draft if fits and self.labels.all_differ else ()

    async def _greedy(
        self,
        engine: TokenSource,
        prompt: Sequence[int],
        begun: Sequence[int],
        usage: DecodeUsage,
    ) -> list[int]:
        """Greedy decoding after the tokens begun with, which are part of the result."""
        room = self._limits.max_output_tokens - len(begun)
        asked = Generation([*prompt, *begun], self._end_ids[0], room)
        answer = await self._ask(engine, usage, asked)
        ids = [*begun, *answer.ids]
        if len(answer.ids) < room:
            ids = self._with_end(ids)
        if not _has_end(ids, self._end_ids):
            raise VerdictUngrammatical(
                f"The model did not end its verdict within {self._limits.max_output_tokens} tokens."
                " Nothing was judged: treat the conversation as not moderated."
            )
        return ids

    def _with_end(self, ids: list[int]) -> list[int]:
        """What the model wrote, where it wrote its end token after `ids`."""
        return ids if _has_end(ids, self._end_ids) else [*ids, self._end_ids[0]]

    async def _ask(self, engine: TokenSource, usage: DecodeUsage, asked: Generation) -> Generated:
        answer = await engine.generate(asked)
        if not usage.engine_calls:
            usage.reused_tokens = answer.reused_blocks * self._limits.kv_block_tokens
        usage.engine_calls += 1
        return answer


def outcome(
    ids: Sequence[int],
    draft: Sequence[int],
    end_ids: Sequence[int],
    labels: LabelTokens,
    mode: Mode,
) -> DraftOutcome:
    """What the engine's answer to a draft leads to: the table above."""
    if _has_end(ids, end_ids):
        return DraftOutcome.DONE
    if mode is Mode.RESPONSE and tuple(ids) in _whole_verdicts(draft, labels):
        return DraftOutcome.COMPLETE
    return DraftOutcome.AGAIN


def _whole_verdicts(draft: Sequence[int], labels: LabelTokens) -> set[tuple[int, ...]]:
    """The draft of response mode without its end token, with each refusal as its last label."""
    before = draft[: len(draft) - 1 - len(labels.refusals["No"])]
    return {(*before, *ids) for ids in labels.refusals.values()}


def severity_scores(logits: npt.NDArray[np.float32], labels: LabelTokens) -> Scores:
    """The softmax over the severities' first tokens; `logits` [vocabulary]: of the label."""
    first = [labels.severities[name][0] for name in labels.severities]
    chosen = logits[first].astype(np.float64)
    weights = np.exp(chosen - chosen.max())
    safe, controversial, unsafe = (weights / weights.sum()).tolist()
    return safe, controversial, unsafe


def agreement(ids: Sequence[int], draft: Sequence[int]) -> int:
    """How many of the draft's tokens the model wrote."""
    pairs = enumerate(zip(ids, draft, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(ids), len(draft)))


def _has_end(ids: Sequence[int], end_ids: Sequence[int]) -> bool:
    return any(token in end_ids for token in ids)
