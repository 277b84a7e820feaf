"""How good answers are beside what was wanted: shares of equal ones, and sacrebleu's scores of translations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

CLASSES = ("accuracy", "f1", "mcc")
TRANSLATION = ("bleu", "chrf")
METRICS = (*TRANSLATION, *CLASSES)


class Score(NamedTuple):
    """A number, and how it was computed: sacrebleu's signature, "" for the others."""

    value: float
    signature: str = ""


def scores(names: Sequence[str], found: Sequence[Any], wanted: Sequence[Any]) -> dict[str, Score]:
    """The named metrics of answers. bleu and chrf take texts, 0 to 100; the others compare any labels or texts.

    accuracy: the share of equal ones. f1: the mean over classes of 2 TP / (2 TP + FP + FN), classes that are in either.
    mcc: the correlation of both, -1 to 1, 0 where one of them never varies (Gorodkin 2004 for several classes).
    Raises ValueError for a name that is not known, none to compare, and lengths that differ; ImportError without the
    package that bleu and chrf need.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise ValueError(f"metric: {', '.join(unknown) or 'none'}; known are {', '.join(METRICS)}")
    if len(found) != len(wanted) or not len(found):
        sizes = f"{len(found)} answers for {len(wanted)} references"
        raise ValueError(f"metric: {sizes}, allowed are as many, one at least")
    return {name: _one(name, found, wanted) for name in names}


def _one(name: str, found: Sequence[Any], wanted: Sequence[Any]) -> Score:
    if name in TRANSLATION:
        return _sacrebleu(name, found, wanted)
    table = confusion(found, wanted)
    if name == "accuracy":
        return Score(float(np.trace(table) / table.sum()))
    said, were, right = table.sum(axis=1), table.sum(axis=0), np.diag(table)
    if name == "f1":
        return Score(float((2 * right / (said + were)).mean()))
    total = float(table.sum())
    covariance = total * right.sum() - said @ were
    spread = float(total**2 - said @ said) * float(total**2 - were @ were)
    return Score(float(covariance / spread**0.5) if spread else 0.0)


def confusion(found: Sequence[Any], wanted: Sequence[Any]) -> np.ndarray:
    """(classes, classes) counts: rows are what was said, columns what it was; the classes of both, sorted."""
    classes, numbers = np.unique(np.array([*found, *wanted]), return_inverse=True)
    table = np.zeros((len(classes), len(classes)))
    np.add.at(table, (numbers[: len(found)], numbers[len(found) :]), 1)
    return table


def _sacrebleu(name: str, found: Sequence[str], wanted: Sequence[str]) -> Score:
    """Of detokenised, cased texts. Post 2018, arXiv:1804.08771; Popovic 2015, W15-3049."""
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise ImportError("bleu and chrf need the package `sacrebleu`: pip install 'pyllm[eval]'") from None
    metric = BLEU() if name == "bleu" else CHRF()
    score = metric.corpus_score(list(found), [list(wanted)]).score
    return Score(float(score), str(metric.get_signature()))
