"""How often a classifier is right, and how near answers in words are to what was wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Classes = NDArray[Any]  # numbers from 0


def accuracy(wanted: Classes, said: Classes) -> float:
    """The share of equal ones."""
    w, s = _checked(wanted, said)
    return float((w == s).mean())


def f1(wanted: Classes, said: Classes) -> float:
    """2 tp / (2 tp + fp + fn): with two classes that of class 1, with more the mean of all that occur (macro).

    0 where neither wanted nor said. scikit-learn's f1_score, GLUE's F1.
    """
    w, s = _checked(wanted, said)
    found = [1] if max(w.max(), s.max()) < 2 else np.union1d(w, s)
    return float(np.mean([_f1(w == each, s == each) for each in found]))


def mcc(wanted: Classes, said: Classes) -> float:
    """Matthews' correlation: (c n - sum t_k p_k) / sqrt((n^2 - sum p_k^2) (n^2 - sum t_k^2)), t_k wanted and p_k said
    of class k, c right of n; 0 where one of them never changes. Gorodkin 2004, Comput. Biol. Chem. 28.
    """
    w, s = _checked(wanted, said)
    classes = int(max(w.max(), s.max())) + 1
    t, p = (np.bincount(each, minlength=classes).astype(np.float64) for each in (w, s))
    n = float(len(w))
    spread = (n * n - (p * p).sum()) * (n * n - (t * t).sum())
    return float(((w == s).sum() * n - (t * p).sum()) / np.sqrt(spread)) if spread > 0 else 0.0


def f1_micro(wanted: Classes, said: Classes) -> float:
    """2 tp / (2 tp + fp + fn) over all classes of all texts, (texts, classes) of 0 and 1; scikit-learn's name."""
    return _f1(np.asarray(wanted) > 0, np.asarray(said) > 0)


def exact(wanted: Classes, said: Classes) -> float:
    """The share of texts of which all classes are right, (texts, classes) of 0 and 1."""
    return float((np.asarray(wanted) == np.asarray(said)).all(axis=1).mean())


def mse(wanted: Classes, said: Classes) -> float:
    """The mean square of differences."""
    return float(np.mean((np.asarray(wanted, np.float64) - np.asarray(said, np.float64)) ** 2))


def pearson(wanted: Classes, said: Classes) -> float:
    """Correlation of numbers, 0 where one of them never changes."""
    w, s = (np.asarray(each, np.float64) - np.mean(each, dtype=np.float64) for each in (wanted, said))
    spread = np.sqrt((w * w).sum() * (s * s).sum())
    return float((w * s).sum() / spread) if spread > 0 else 0.0


Metrics = Mapping[str, Callable[[Classes, Classes], float]]
METRICS: Metrics = {"accuracy": accuracy, "f1": f1, "mcc": mcc}
METRICS_OF_SEVERAL: Metrics = {"f1_micro": f1_micro, "accuracy": exact}
METRICS_OF_NUMBERS: Metrics = {"mse": mse, "pearson": pearson}


def scores(
    wanted: Classes, said: Classes, names: tuple[str, ...] | None = None, known: Metrics = METRICS
) -> dict[str, float]:
    """These metrics by name, None for all that are known. Raises ValueError for one that is not known."""
    names = tuple(known) if names is None else names
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"metrics: {', '.join(unknown)} not known, allowed are {', '.join(known)}")
    return {name: known[name](wanted, said) for name in names}


class Score(NamedTuple):
    """A number, and how it was computed: sacrebleu's signature, "" for the others."""

    value: float
    signature: str = ""


TRANSLATION = ("bleu", "chrf")


def text_scores(names: Sequence[str], found: Sequence[str], wanted: Sequence[str]) -> dict[str, Score]:
    """The named metrics of answers in words: bleu and chrf, 0 to 100, and METRICS with every text as a class.

    Raises ValueError for a name that is not known, none to compare, and lengths that differ; ImportError without the
    package that bleu and chrf need.
    """
    unknown = [name for name in names if name not in (*TRANSLATION, *METRICS)]
    if unknown or not names:
        known = ", ".join((*TRANSLATION, *METRICS))
        raise ValueError(f"metric: {', '.join(unknown) or 'none'}; known are {known}")
    if len(found) != len(wanted) or not len(found):
        sizes = f"{len(found)} answers for {len(wanted)} references"
        raise ValueError(f"metric: {sizes}, allowed are as many, one at least")
    classes = np.unique(np.array([*wanted, *found]), return_inverse=True)[1].astype(np.int64).reshape(2, -1)
    return {
        name: _sacrebleu(name, found, wanted) if name in TRANSLATION else Score(METRICS[name](*classes))
        for name in names
    }


def _sacrebleu(name: str, found: Sequence[str], wanted: Sequence[str]) -> Score:
    """Of detokenised, cased texts. Post 2018, arXiv:1804.08771; Popovic 2015, W15-3049."""
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise ImportError("bleu and chrf need the package `sacrebleu`: pip install 'pyllm[eval]'") from None
    metric = BLEU() if name == "bleu" else CHRF()
    score = metric.corpus_score(list(found), [list(wanted)]).score
    return Score(float(score), str(metric.get_signature()))


def _f1(w: NDArray[np.bool_], s: NDArray[np.bool_]) -> float:
    both = w.sum() + s.sum()
    return float(2 * (w & s).sum() / both) if both else 0.0


def _checked(wanted: Classes, said: Classes) -> tuple[Classes, Classes]:
    w, s = np.asarray(wanted), np.asarray(said)
    if w.ndim != 1 or w.shape != s.shape or not len(w) or w.dtype.kind not in "iu" or s.dtype.kind not in "iu":
        found = f"wanted {w.shape} {w.dtype}, said {s.shape} {s.dtype}"
        raise ValueError(f"metrics: {found}, allowed are as many whole numbers, at least one")
    if min(w.min(), s.min()) < 0:
        raise ValueError(f"metrics: class {min(w.min(), s.min())}, allowed are 0 and above")
    return w, s
