"""Trains a byte-level BPE tokenizer with Qwen's pre-tokenization and special tokens."""

from collections.abc import Iterable, Iterator, Sequence

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from guard_tiny.data.labels import every_verdict

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, IM_START, IM_END)
# As in Qwen3, these are added tokens but not special ones, so content can spell them.
THINKING = ("<think>", "</think>")

# Qwen's: contractions, words with one leading mark, single digits, runs of marks, line ends.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# With so many repeats, each word of a verdict and of the template becomes one token.
FRAME_REPEATS = 2000


def _corpus(texts: Iterable[str], frames: Sequence[str]) -> Iterator[str]:
    yield from texts
    fixed = [*every_verdict(), *frames]
    for _ in range(FRAME_REPEATS):
        yield from fixed


def train_tokenizer(texts: Iterable[str], frames: Sequence[str], vocab_size: int) -> Tokenizer:
    """Trains on texts, every verdict, and the frames: the template around an empty message."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL) - len(THINKING),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(texts, frames), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in THINKING])
    return tokenizer
