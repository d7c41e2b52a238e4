"""Weak labels from linear classifiers: disputed rows, and missing categories.

Rows become Controversial by the recipe of the Qwen3Guard report (arXiv:2510.14276): one classifier
is trained with more weight on safe rows, another with more weight on unsafe rows, and neither on
the row itself. A row is disputed if the two disagree.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline

HEAVY = 4.0  # weight of the favoured label; the other label has 1
_FOLDS = 3


def _features(texts: Sequence[str]) -> Any:
    # Letter n-grams need no word boundaries, so they work for Chinese and Thai too.
    hashing = HashingVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), n_features=2**18, alternate_sign=False
    )
    return make_pipeline(hashing, TfidfTransformer(sublinear_tf=True)).fit_transform(texts)


def _fitted(
    matrix: Any, target: NDArray[Any], seed: int, weights: dict[bool, float] | None = None
) -> SGDClassifier:
    model = SGDClassifier(
        loss="log_loss", alpha=2e-6, max_iter=30, tol=None, class_weight=weights, random_state=seed
    )
    return model.fit(matrix, target)


def disputed(
    texts: Sequence[str],
    groups: Sequence[str],
    unsafe: Sequence[bool],
    usable: Sequence[bool],
    seed: int,
) -> NDArray[np.bool_]:
    """Whether a lenient and a strict classifier disagree on each text: [texts].

    Only `usable` texts train the classifiers. The folds keep texts of one group together, so that
    neither classifier has seen a text or one with the same prompt.
    """
    matrix, target, trains = _features(texts), np.asarray(unsafe), np.asarray(usable)
    flags = np.zeros(len(texts), dtype=np.bool_)
    for train, test in GroupKFold(_FOLDS, shuffle=True, random_state=seed).split(
        matrix, target, groups
    ):
        seen = train[trains[train]]
        lenient, strict = (
            _fitted(matrix[seen], target[seen], seed, weights).predict(matrix[test])
            for weights in ({False: HEAVY, True: 1.0}, {False: 1.0, True: HEAVY})
        )
        flags[test] = lenient != strict
    return flags


def guess_categories(
    known: Sequence[str], categories: Sequence[str], unknown: Sequence[str], seed: int
) -> list[tuple[str, float]]:
    """Guesses a category, with its probability, for each of the `unknown` texts."""
    matrix = _features([*known, *unknown])
    model = _fitted(matrix[: len(known)], np.asarray(categories), seed)
    probability = model.predict_proba(matrix[len(known) :])
    best = probability.argmax(axis=1)
    return [(str(model.classes_[b]), float(p[b])) for b, p in zip(best, probability, strict=True)]
