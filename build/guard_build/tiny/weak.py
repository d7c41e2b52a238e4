"""Weak labels from linear classifiers: what is disputable, and the category where none is given.

A row counts as Controversial if a classifier that has not seen it puts it at the boundary, where
a slightly stricter and a slightly more lenient judge would part.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline

Floats = NDArray[np.float64]


def _features(texts: Sequence[str]) -> Any:
    # Letter n-grams need no word boundaries, so Chinese and Thai get their share too.
    hashing = HashingVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), n_features=2**18, alternate_sign=False
    )
    return make_pipeline(hashing, TfidfTransformer(sublinear_tf=True)).fit_transform(texts)


def _fitted(matrix: Any, target: NDArray[Any], seed: int) -> LogisticRegression:
    # Hashed features have tiny gradients: a looser tolerance would stop at the very start.
    model = LogisticRegression(C=4.0, tol=1e-6, max_iter=60, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # sixty steps do for a weak label
        return model.fit(matrix, target)


def out_of_fold(
    texts: Sequence[str], groups: Sequence[str], unsafe: Sequence[bool], seed: int
) -> Floats:
    """P(unsafe) of each text by a model trained on the folds that lack its group."""
    matrix, target = _features(texts), np.asarray(unsafe)
    probability = np.zeros(len(texts))
    for train, test in GroupKFold(3, shuffle=True, random_state=seed).split(matrix, target, groups):
        model = _fitted(matrix[train], target[train], seed)
        probability[test] = model.predict_proba(matrix[test])[:, 1]
    return probability


def boundary(probability: Floats, share: float) -> NDArray[np.bool_]:
    """The given share of the rows that stand nearest to the boundary."""
    order = np.argsort(np.abs(probability - 0.5), kind="stable")
    nearest = np.zeros(len(probability), dtype=np.bool_)
    nearest[order[: round(share * len(order))]] = True
    return nearest


def guess_categories(
    known: Sequence[str], categories: Sequence[str], unknown: Sequence[str], seed: int
) -> list[tuple[str, float]]:
    """A category and its probability for each unknown text, from the known ones."""
    matrix = _features([*known, *unknown])
    model = _fitted(matrix[: len(known)], np.asarray(categories), seed)
    probability = model.predict_proba(matrix[len(known) :])
    best = probability.argmax(axis=1)
    return [(str(model.classes_[b]), float(p[b])) for b, p in zip(best, probability, strict=True)]
