"""The severity alone, for a check whose verdict is not sent: one engine call, whatever it finds.

The draft is the likeliest severity's line up to its label. The engine's answer has the label that
the model writes, agreed to or corrected, and its logits where the engine gives them for drafts. So
nothing is asked again.
"""

from collections.abc import Sequence

from guard_core.conversation import Mode
from guard_core.engine.tensors import Generated, Generation, TokenSource
from guard_core.errors import VerdictUngrammatical
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

    def __init__(self, decoder: VerdictDecoder, limits: DecodingLimits) -> None:
        """`decoder`: of the slot. It is asked where the engine takes no draft."""
        self._decoder = decoder
        self._limits = limits
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

        Raises what VerdictDecoder.decode raises. Its scores cost no call where the engine's answer
        to a draft has logits.
        """
        if not self._takes_draft:
            return await self._decoder.decode(
                engine, prompt, Mode.RESPONSE, with_scores=with_scores
            )
        with_scores &= self._decoder.offers_scores
        asked = Generation(
            prompt, self._decoder.end_id, len(self._draft) + 1, self._draft, logits=with_scores
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
        if with_scores:
            scores = self._scores_of(answer)
            if scores is None:
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

    def _scores_of(self, answer: Generated) -> Scores | None:
        """None unless the label has logits, and is the likeliest token by them."""
        label = len(self._key)
        logits = answer.logits
        if logits is None or len(logits) < len(answer.ids):
            return None
        row = logits[label]
        return (
            severity_scores(row, self._decoder.labels)
            if row.argmax() == answer.ids[label]
            else None
        )
