"""`python -m guard_build.tiny --data FILE --out DIR`: trains the tiny guard from nothing."""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from jinja2.sandbox import ImmutableSandboxedEnvironment
from rich.console import Console
from tokenizers import Tokenizer

from guard_build.tiny.checkpoint import TEMPLATE_SOURCE, VOCAB_SIZE, write_tokenizer
from guard_build.tiny.encode import Encoder, cutter
from guard_build.tiny.examples import Example, label_rows
from guard_build.tiny.mixture import LONG, build_balanced, build_mixture, cut_messages
from guard_build.tiny.rows import Row, read_rows
from guard_build.tiny.tokenizer import train_tokenizer
from guard_build.tiny.train import RECORD, Recipe, train
from guard_server.manifest import TOKENIZER

# Replies are longer than prompts, and their openings say enough for a vocabulary.
_REPLY_LETTERS = 400
console = Console()
_started = time.monotonic()


def _log(message: str) -> None:
    console.print(f"[{time.monotonic() - _started:6.0f} s] {message}", highlight=False)


def _texts(rows: Sequence[Row]) -> list[str]:
    texts = [text for row in rows for text in (row.prompt, row.response[:_REPLY_LETTERS])]
    return [text for text in texts if text]


def _frames() -> list[str]:
    """The template around nothing, in both modes."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE_SOURCE.read_text(encoding="utf-8"))
    roles = ("user", "assistant")
    return [template.render(messages=[{"role": role, "content": ""}]) for role in roles]


def _phase(
    out: Path,
    examples: Sequence[Example],
    build: Callable[..., list[Example]],
    recipe: Recipe,
) -> dict[str, Any]:
    """Train on one mixture; what happened, for the record."""
    encoder, cut = Encoder(out), cutter(Tokenizer.from_file(str(out / TOKENIZER)))
    mixture = build([e for e in examples if not e.held_out], cut, recipe.seed)
    encoded = [encoder(example) for example in mixture]
    held_out = [encoder(cut_messages(e, LONG, cut)) for e in examples if e.held_out]
    tokens = sum(map(len, encoded))
    _log(f"{len(mixture):,} examples and {tokens:,} tokens a pass, {len(held_out):,} held out")
    run = train(out, encoded, held_out, recipe, _log)
    _log(f"best at step {run.best_step} of {run.steps}, held-out loss {run.held_out_loss}")
    return {
        "recipe": asdict(recipe),
        "run": asdict(run),
        "examples": len(mixture),
        "tokens": tokens,
        "held_out": len(held_out),
        "severities": Counter(example.label.severity for example in mixture),
    }


def main(
    *,
    data: Annotated[Path, typer.Option(help="training rows, JSON Lines, gzipped or not")],
    out: Annotated[Path, typer.Option(help="the checkpoint's directory")],
    passes: Annotated[float, typer.Option(help="passes over the mixture")] = 1.5,
    minutes: Annotated[float, typer.Option(help="the main phase ends by then; 0: no limit")] = 0,
    balanced_passes: Annotated[float, typer.Option(help="passes of the last phase")] = 1.0,
    balanced_only: Annotated[bool, typer.Option(help="only the last phase, from --out")] = False,
    seed: Annotated[int, typer.Option()] = 0,
    threads: Annotated[int, typer.Option()] = 2,
) -> None:
    """Label the rows, train a tokenizer, train the model in two phases, and leave a checkpoint."""
    rows = read_rows(data)
    _log(f"{len(rows):,} rows")
    examples = label_rows(rows, seed)
    severities = Counter(example.label.severity for example in examples)
    _log(f"{len(examples):,} labelled conversations: {dict(severities)}")
    if balanced_only:
        phases = json.loads((out / RECORD).read_text(encoding="utf-8"))
    else:
        texts = _texts([row for row in rows if not row.held_out])
        write_tokenizer(out, train_tokenizer(texts, _frames(), VOCAB_SIZE))
        recipe = Recipe(passes, minutes, 2e-3, seed=seed, threads=threads)
        phases = [_phase(out, examples, build_mixture, recipe)]
    last = Recipe(balanced_passes, 0, 8e-4, further=True, seed=seed, threads=threads)
    phases.append(_phase(out, examples, build_balanced, last))
    (out / RECORD).write_text(json.dumps(phases, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
