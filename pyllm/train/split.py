"""Labelled texts on two sides: those to learn from, and those held out to judge by; what came of learning them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm.data.labelled import Texts
from pyllm.data.permutation import permute
from pyllm.errors import DataError, printable
from pyllm.formats.csv_file import listed
from pyllm.train.trainer import Result

Tell = Callable[[str, str], None]  # hears of each stage, what it found


class Split(NamedTuple):
    """Labelled texts of one side, and the numbers of their classes."""

    texts: list[str]
    targets: NDArray[np.int64]


class Learned(NamedTuple):
    """What came of it: the classifier (ready to run where the result is complete), and both sides of its texts."""

    model: Any
    result: Result
    train: Split
    held_out: Split


def split(rows: Texts, targets: NDArray[np.int64], share: float, seed: int) -> tuple[set[int], set[int]]:
    """(labelled texts to learn from, held out): of each class the same share, equal texts on one side.

    Raises DataError where a side would have no text of a class to learn.
    """
    held_out: dict[str, bool] = {}
    train, held = set[int](), set[int]()
    for each in range(int(targets.max()) + 1):
        copies: dict[str, list[int]] = {}
        for i in np.flatnonzero(targets == each).tolist():
            copies.setdefault(rows.texts[i], []).append(i)
        groups = list(copies.items())
        count = sum(map(len, copies.values()))
        wanted = min(round(share * count), count - 1)
        for place in permute(np.arange(len(groups)), len(groups), seed, each).tolist():
            text, places = groups[place]
            out = held_out.setdefault(text, len(places) <= wanted)
            wanted -= len(places) if out else 0
            (held if out else train).update(places)
    left = {int(targets[i]) for i in train}
    if len(left) < 2:
        raise DataError("texts", "", None, f"{len(train)} texts of {len(left)} classes to learn from", "two classes")
    return train, held


def tell_texts(rows: Texts, classes: list[str], train: set[int], held: set[int], tell: Tell) -> None:
    without = sum(label is None for label in rows.labels)
    more = f", {without:,} without a label" if without else ""
    tell("read", f"{len(rows.texts):,} texts{more}, {len(classes)} classes ({printable(listed(classes), 200)})")
    tell("split", f"{len(train):,} to learn from, {len(held):,} held out")
