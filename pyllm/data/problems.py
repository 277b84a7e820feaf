"""What labels of texts ask for: one class of each, several at once, or a number; transformers' problem_type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.data.labelled import Label, numbered
from pyllm.errors import DataError, printable
from pyllm.formats.csv_file import listed

SINGLE, SEVERAL, NUMBER = "single_label_classification", "multi_label_classification", "regression"
PROBLEMS = {"single_label": SINGLE, "multi_label": SEVERAL, "regression": NUMBER}  # by what a command calls them


def problem_of(labels: Sequence[Label]) -> str:
    """Several classes where a label is a list, numbers where all are and one has a fraction, else one class."""
    found = [label for label in labels if label is not None]
    if any(isinstance(label, tuple) for label in found):
        return SEVERAL
    numbers = [_number(label) for label in found]
    return NUMBER if all(map(math.isfinite, numbers)) and any(each % 1 for each in numbers) else SINGLE


def targets_of(
    labels: Sequence[Label], problem: str, classes: Sequence[str] | None = None
) -> tuple[NDArray[Any], list[str]]:
    """(targets, names of classes): of one class numbers (texts,), -100 where there is none; of several 0 and 1 (texts,
    classes), of numbers these (texts,), float32, nan where there is none. classes: those that a model knows.

    Raises DataError for labels of another kind, of classes that are not known, or none at all.
    """
    if problem == SEVERAL:
        return _several(labels, classes)
    known = [label for label in labels if label is not None]
    odd = next((label for label in known if isinstance(label, tuple)), None)
    if odd is not None:
        raise DataError("labels", "", None, f"a list ({printable(repr(list(odd)), 60)})", "one label of a text")
    if problem == SINGLE:
        return numbered([label for label in labels if not isinstance(label, tuple)], classes)
    wrong = next((label for label in known if not math.isfinite(_number(label))), None)
    if wrong is not None or not known:
        what = "no label" if wrong is None else f"{printable(repr(wrong), 60)} is no number"
        raise DataError("labels", "", None, what, "numbers, at least one")
    return np.array([_number(label) for label in labels], np.float32), list(classes or ["LABEL_0"])


def known_classes(labels: Sequence[Label], names: Sequence[str]) -> Sequence[str] | None:
    """The names, in their order, where labels name no other class; else None."""
    named = {name for each in labels for name in ((each,) if isinstance(each, str) else each or ())}
    return names if named <= set(names) else None


def _several(labels: Sequence[Label], classes: Sequence[str] | None) -> tuple[NDArray[Any], list[str]]:
    lists = [(label,) if isinstance(label, str) else label for label in labels]
    found = {name for each in lists for name in each or ()}
    names = sorted(found) if classes is None else list(classes)
    if not found <= set(names) or not names:
        what = f"{listed(sorted(found - set(names)))} not met in training" if names else "no class"
        raise DataError("labels", "", None, what, listed(names) if names else "one class or more")
    targets = np.zeros((len(lists), len(names)), np.float32)
    for row, each in zip(targets, lists, strict=True):
        row[[names.index(name) for name in each or ()]] = 1
        row[:] = np.nan if each is None else row
    return targets, names


def _number(label: Label) -> float:
    """nan of what is no number."""
    try:
        return float(str(label))
    except ValueError:
        return math.nan
