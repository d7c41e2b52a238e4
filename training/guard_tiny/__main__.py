"""`python -m guard_tiny --data FILE --out DIR`: trains the tiny guard from scratch."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jinja2.sandbox import ImmutableSandboxedEnvironment
from rich.console import Console
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM
from wordfreq import top_n_list

from guard_core.slot.manifest import TOKENIZER
from guard_tiny import RECORD
from guard_tiny.data.examples import Example, label_rows
from guard_tiny.data.mixture import LONG, build_balanced, build_mixture, cut_messages
from guard_tiny.data.own_sentences import contrast_prompts, everyday_prompts, own_sentences
from guard_tiny.data.training_rows import Row, read_rows
from guard_tiny.data.word_swaps import Words
from guard_tiny.encode import Encoded, Encoder, cutter
from guard_tiny.export import (
    TEMPLATE_SOURCE,
    VOCAB_SIZE,
    load_model,
    new_model,
    write_tokenizer,
)
from guard_tiny.sentence_vectors import SentenceEncoder
from guard_tiny.tokenizer import train_tokenizer
from guard_tiny.train import Recipe, train

# The tokenizer reads only the beginning of replies, which are longer than prompts.
_REPLY_LETTERS = 400
_OWN_REPEATS = 8  # enough that Korean or Turkish gets tokens of words, not of letters
# Ranks by frequency: the most frequent words are mostly articles, question words and the like.
_FRAME_WORDS, _ORDINARY_WORDS = slice(200), slice(200, 5000)
# The rows' harmful prompts are blunter than real ones, so the model would flag too many prompts.
_UNSAFE_MARGIN = 1.5
_FORM_MARGIN = 4.0
PASSES = 1.5
console = Console()
_started = time.monotonic()


def _log(message: str) -> None:
    console.print(f"[{time.monotonic() - _started:6.0f} s] {message}", highlight=False)


def _texts(rows: Sequence[Row]) -> list[str]:
    """The tokenizer's training texts: the rows, and our own sentences for rarer languages."""
    texts = [text for row in rows for text in (row.prompt, row.response[:_REPLY_LETTERS])]
    own = [prompt.text for prompt in (*everyday_prompts(), *contrast_prompts())]
    return [text for text in texts if text] + own * _OWN_REPEATS


def _vocabulary() -> dict[str, Words]:
    """The frame words and ordinary words of each language of our own sentences."""
    vocabulary = {}
    for language in dict.fromkeys(own.language for own in own_sentences(None)):
        words = top_n_list(language, _ORDINARY_WORDS.stop)
        vocabulary[language] = Words(frozenset(words[_FRAME_WORDS]), words[_ORDINARY_WORDS])
    return vocabulary


def _frames() -> list[str]:
    """The template around an empty message, in both modes."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE_SOURCE.read_text(encoding="utf-8"))
    roles = ("user", "assistant")
    return [template.render(messages=[{"role": role, "content": ""}]) for role in roles]


def _encoded(
    encoder: Encoder, examples: Sequence[Example], sentences: SentenceEncoder | None
) -> list[Encoded]:
    """Encodes examples as ids. With `sentences`, English prompts get their sentence vector too."""
    if sentences is None:
        return [encoder(example) for example in examples]
    english = {
        example.messages[-1].content: None
        for example in examples
        if example.language == "en" and example.label.refusal is None
    }
    vectors = dict(zip(english, sentences.of_texts(list(english)), strict=True))
    return [
        # Replies and other languages have no vector.
        encoder(e, None if e.label.refusal is not None else vectors.get(e.messages[-1].content))
        for e in examples
    ]


def _phase(
    model: Qwen3ForCausalLM,
    out: Path,
    mixture: Sequence[Example],
    held_out: Sequence[Example],
    recipe: Recipe,
    sentences: SentenceEncoder | None = None,
) -> dict[str, Any]:
    """Trains on one mixture. Returns the phase's entry in the record."""
    encoder = Encoder(out)
    encoded = _encoded(encoder, mixture, sentences)
    tokens = sum(map(len, encoded))
    _log(f"{len(mixture):,} examples and {tokens:,} tokens a pass, {len(held_out):,} held out")
    checked = [encoder(example) for example in held_out]
    run = train(model, out, encoded, checked, recipe, encoder.choices, _log)
    _log(f"kept step {run.kept_step} of {run.steps}, held-out loss {run.held_out_loss}")
    return {
        "recipe": asdict(recipe),
        "run": asdict(run),
        "examples": len(mixture),
        "tokens": tokens,
        "held_out": len(held_out),
        "severities": Counter(example.label.severity for example in mixture),
    }


def _write_record(out: Path, phases: Sequence[dict[str, Any]]) -> None:
    (out / RECORD).write_text(json.dumps(phases, indent=2) + "\n", encoding="utf-8")


def main(
    *,
    data: Annotated[Path, typer.Option(help="training rows, JSON Lines, gzipped or not")],
    out: Annotated[Path, typer.Option(help="the checkpoint's directory")],
    passes: Annotated[float, typer.Option(help="passes over the mixture")] = PASSES,
    balanced_passes: Annotated[float, typer.Option(help="passes of the last phase")] = 1.0,
    seed: Annotated[int, typer.Option()] = 0,
    threads: Annotated[int, typer.Option()] = 2,
) -> None:
    """Label the rows, train a tokenizer, train the model in two phases, and write a checkpoint.

    The same seed, threads and processor give the same checkpoint."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    rows = read_rows(data)
    _log(f"{len(rows):,} rows")
    examples = label_rows(rows, seed)
    severities = Counter(example.label.severity for example in examples)
    _log(f"{len(examples):,} labelled conversations: {dict(severities)}")
    texts = _texts([row for row in rows if not row.held_out])
    write_tokenizer(out, train_tokenizer(texts, _frames(), VOCAB_SIZE))
    tokenizer = Tokenizer.from_file(str(out / TOKENIZER))
    cut = cutter(tokenizer)
    held_out = [cut_messages(e, LONG, cut) for e in examples if e.held_out]
    trained = [e for e in examples if not e.held_out]
    sentences, model = SentenceEncoder(), new_model(out)
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        embeddings.copy_(sentences.of_tokens(tokenizer, embeddings.shape[1]))
    _log("the embeddings begin as the sentence encoder's vectors of the tokens")
    vocabulary = _vocabulary()
    mixture = build_mixture(trained, cut, vocabulary, seed)
    first = Recipe(passes, 2e-3, seed, selects=True)
    phases = [_phase(model, out, mixture, held_out, first, sentences)]
    _write_record(out, phases)
    balanced = build_balanced(trained, cut, vocabulary, seed)
    # The lowest held-out loss comes before the rare labels are learned, so the last step is kept.
    last = Recipe(
        balanced_passes,
        8e-4,
        seed,
        selects=False,
        unsafe_margin=_UNSAFE_MARGIN,
        form_margin=_FORM_MARGIN,
    )
    phases.append(_phase(load_model(out), out, balanced, held_out, last))
    _write_record(out, phases)


if __name__ == "__main__":
    typer.run(main)
