"""What the model writes, greedily, and how good it is."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import torch
from transformers import Qwen3ForCausalLM

from guard_server.errors import VerdictUngrammatical
from guard_server.prompt import Prompt
from guard_server.verdict import Verdict, parse

MAX_NEW_TOKENS = 24
ROWS, TOKENS = 64, 24_576


@dataclass(frozen=True, slots=True)
class Judged:
    """One conversation's output."""

    text: str
    ended: bool
    verdict: Verdict | None


@dataclass(slots=True)
class Figures:
    """Quality on one set. F1 and the false-positive rate count Controversial as unsafe (strict)
    or as safe (loose); a text outside the grammar counts as a miss on either side."""

    rows: int
    exact: int
    f1_strict: float | None
    fpr_strict: float | None
    f1_loose: float | None
    fpr_loose: float | None
    severities: dict[str, int] = field(default_factory=dict)
    categories: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def greedy(model: Qwen3ForCausalLM, prompts: Sequence[list[int]], end: int) -> list[list[int]]:
    """Output ids of each prompt, with the end id where the model wrote it."""
    outputs: list[list[int]] = [[] for _ in prompts]
    waiting = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    while waiting:
        width = len(prompts[waiting[0]])
        most = max(1, min(ROWS, TOKENS // width))
        batch, waiting = waiting[:most], waiting[most:]
        # On the left, so that all outputs begin at the same place.
        padding = [width - len(prompts[i]) for i in batch]
        ids = [[end] * pad + prompts[i] for pad, i in zip(padding, batch, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in padding]
        written = model.generate(
            torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )
        for i, row in zip(batch, written[:, width:].tolist(), strict=True):
            outputs[i] = row[: row.index(end) + 1] if end in row else row
    return outputs


def judge(
    model: Qwen3ForCausalLM, prompt: Prompt, prompts: Sequence[list[int]], modes: Sequence[bool],
    end: int,
) -> list[Judged]:  # fmt: skip
    """The verdict of each prompt; `modes` says which are in response mode."""
    judged = []
    for ids, response_mode in zip(greedy(model, prompts, end), modes, strict=True):
        ended = ids[-1] == end
        text = prompt.decode(ids[:-1] if ended else ids)
        try:
            verdict = parse(text, response_mode=response_mode) if ended else None
        except VerdictUngrammatical:
            verdict = None
        judged.append(Judged(text, ended, verdict))
    return judged


def f1_and_fpr(unsafe: Sequence[bool], called: Sequence[bool]) -> tuple[float | None, float | None]:
    """F1 of `unsafe` and the share of safe rows called unsafe, in percent."""
    pairs = Counter(zip(unsafe, called, strict=True))
    hit, miss, alarm = pairs[True, True], pairs[True, False], pairs[False, True]
    safe = alarm + pairs[False, False]
    f1 = 200 * hit / (2 * hit + miss + alarm) if hit + miss else None
    return f1, 100 * alarm / safe if safe else None


def figures(judged: Sequence[Judged], unsafe: Sequence[bool]) -> Figures:
    """Counts and quality of a labelled set."""
    verdicts = [one.verdict for one in judged]
    right = [v for v in verdicts if v is not None]
    strict = [v.severity != "Safe" if v else not u for v, u in zip(verdicts, unsafe, strict=True)]
    loose = [v.severity == "Unsafe" if v else not u for v, u in zip(verdicts, unsafe, strict=True)]
    f1_strict, fpr_strict = f1_and_fpr(unsafe, strict)
    f1_loose, fpr_loose = f1_and_fpr(unsafe, loose)
    return Figures(
        rows=len(judged),
        exact=len(right),
        f1_strict=f1_strict,
        fpr_strict=fpr_strict,
        f1_loose=f1_loose,
        fpr_loose=fpr_loose,
        severities=_counts(v.severity for v in right),
        categories=_counts(", ".join(v.categories) or "None" for v in right),
        refusals=_counts("Yes" if v.refusal else "No" for v in right if v.refusal is not None),
    )


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())
