"""The severity alone, for a check whose verdict is not sent: one engine call, whatever it finds.

The draft is the likeliest severity's line up to its label. The engine's answer has the label that
the model writes, agreed to or corrected, and its logits where the slot's manifest says so. So
nothing is asked again.
"""

from collections.abc import Sequence

from guard_core.conversation import Mode
from guard_core.engine.tensors import Generated, Generation, TokenSource
from guard_core.errors import EngineFailed, VerdictUngrammatical
from guard_core.verdict.decoder import (
    Decoded,
    DecodeUsage,
    DecodingLimits,
    Scores,
    VerdictDecoder,
    agreement,
    severity_scores,
)
from guard_core.verdict.grammar import Verdict
from guard_core.verdict.taxonomy import Severity


class SeverityDecoder:
    """Gets severities of one slot's responses from an engine that runs it."""

    def __init__(
        self, decoder: VerdictDecoder, limits: DecodingLimits, *, draft_logits: bool
    ) -> None:
        """`decoder`: of the slot. It is asked where the engine takes no draft.

        `draft_logits`: the engine's answer to a draft has logits where they are asked for.
        """
        self._decoder = decoder
        self._limits = limits
        self._draft_logits = draft_logits
        labels = decoder.labels
        self._key = labels.severity_key
        self._draft = (*self._key, *labels.severities[Severity.SAFE])
        self._takes_draft = labels.severities_differ and len(self._draft) <= limits.max_draft_tokens
        self._severities = {
            ids[0]: Severity(name) for name, ids in labels.severities.items() if ids
        }

    async def decode(
        self, engine: TokenSource, prompt: Sequence[int], *, with_scores: bool = False
    ) -> Decoded:
        """The severity for a response's prompt, as a verdict without categories and refusal.

        Raises what VerdictDecoder.decode raises. Its scores cost one more engine call, unless
        answers to drafts have logits.
        """
        if not self._takes_draft:
            return await self._decoder.decode(
                engine, prompt, Mode.RESPONSE, with_scores=with_scores
            )
        with_scores &= self._decoder.offers_scores
        asked = Generation(
            prompt,
            self._decoder.end_id,
            len(self._draft) + 1,
            self._draft,
            logits=with_scores and self._draft_logits,
        )
        answer = await engine.generate(asked)
        usage = DecodeUsage(
            verdict_tokens=len(answer.ids),
            draft_tokens=len(self._draft),
            accepted_draft_tokens=agreement(answer.ids, self._draft),
            reused_tokens=answer.reused_blocks * self._limits.kv_block_tokens,
            engine_calls=1,
        )
        severity = self._severity(answer.ids)
        scores = None
        if asked.logits:
            scores = self._scores_of(answer)
        elif with_scores:
            scores = await self._decoder.scores(engine, prompt)
            usage.engine_calls += 1
        return Decoded(Verdict(severity), usage, scores)

    def _severity(self, ids: Sequence[int]) -> Severity:
        label = len(self._key)
        if len(ids) > label and tuple(ids[:label]) == self._key and ids[label] in self._severities:
            return self._severities[ids[label]]
        raise VerdictUngrammatical(
            "The model's output is no severity. Nothing was judged: treat it as not moderated."
        )

    def _scores_of(self, answer: Generated) -> Scores:
        label = len(self._key)
        logits = answer.logits
        if logits is None or len(logits) <= label:
            raise EngineFailed(
                "The engine's answer to a draft lacks logits, although its manifest offers them."
            )
        row = logits[label]
        if row[answer.ids[label]] < row.max():
            raise EngineFailed("The engine's answer to a draft has the logits of another token.")
        return severity_scores(row, self._decoder.labels)
