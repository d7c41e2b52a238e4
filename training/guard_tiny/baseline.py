"""The model card's baseline: a linear classifier over TF-IDF, trained on the same rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from guard_tiny.data.training_rows import Row


class Baseline:
    """A logistic regression over words and pairs of words; unsafe above a probability of 0.5."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Trains on the labelled prompts of `rows` that are not held out."""
        prompts = [row for row in rows if row.prompt and row.prompt_label and not row.held_out]
        words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
        self._model = make_pipeline(words, LogisticRegression(C=4.0, max_iter=500))
        self._model.fit([r.prompt for r in prompts], [r.prompt_label == "unsafe" for r in prompts])

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """P(unsafe) of each text: [texts]."""
        probability: NDArray[np.float64] = self._model.predict_proba(texts)[:, 1]
        return probability
