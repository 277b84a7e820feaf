"""Labelled texts on two sides: those to learn from, and those held out to judge by; what came of learning them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm.data.labelled import Texts, known_rows
from pyllm.data.packed import IGNORED
from pyllm.data.permutation import permute
from pyllm.data.problems import NUMBER, PROBLEMS, SEVERAL, SINGLE, problem_of, targets_of
from pyllm.errors import DataError, printable
from pyllm.formats.csv_file import listed
from pyllm.train.trainer import Result

Tell = Callable[[str, str], None]  # hears of each stage, what it found


class Split(NamedTuple):
    """Labelled texts of one side, and their targets."""

    texts: list[str]
    targets: NDArray[Any]


class Learned(NamedTuple):
    """What came of it: the classifier (ready to run where the result is complete), and both sides of its texts."""

    model: Any
    result: Result
    train: Split
    held_out: Split


def split(rows: Texts, targets: NDArray[Any], share: float, seed: int) -> tuple[set[int], set[int]]:
    """(labelled texts to learn from, held out): of each class the same share where a text has one; equal texts on one
    side. targets: as problems.targets_of gives them.

    Raises DataError where a side would have no text of a class to learn.
    """
    held_out: dict[str, bool] = {}
    train, held = set[int](), set[int]()
    classes = targets
    if targets.dtype.kind == "f":
        classes = np.full(len(targets), IGNORED)
        classes[known_rows(targets)] = 0
    for each in range(int(classes.max()) + 1):
        copies: dict[str, list[int]] = {}
        for i in np.flatnonzero(classes == each).tolist():
            copies.setdefault(rows.texts[i], []).append(i)
        groups = list(copies.items())
        count = sum(map(len, copies.values()))
        wanted = min(round(share * count), count - 1)
        for place in permute(np.arange(len(groups)), len(groups), seed, each).tolist():
            text, places = groups[place]
            out = held_out.setdefault(text, len(places) <= wanted)
            wanted -= len(places) if out else 0
            (held if out else train).update(places)
    left = {int(classes[i]) for i in train}
    if classes is targets and len(left) < 2:
        raise DataError("texts", "", None, f"{len(train)} texts of {len(left)} classes to learn from", "two classes")
    return train, held


class Posed(NamedTuple):
    """What labelled texts ask for, as problems.targets_of gives it, and the numbers of those on either side."""

    problem: str
    targets: NDArray[Any]
    classes: list[str]
    train: set[int]
    held: set[int]

    def sides(self, texts: Sequence[str]) -> list[Split]:
        """The texts to learn from, and those held out."""
        sides = (sorted(self.train), sorted(self.held))
        return [Split([texts[i] for i in side], self.targets[side]) for side in sides]


def posed(
    rows: Texts, problem: str | None, classes: Sequence[str] | None, share: float, seed: int, tell: Tell
) -> Posed:
    """Labels as targets, a share of the texts held out; problem and classes: as TextSettings has them. Raises
    DataError."""
    asked = problem_of(rows.labels) if problem is None else PROBLEMS[problem]
    targets, names = targets_of(rows.labels, asked, classes)
    train, held = split(rows, targets, share, seed)
    tell_texts(rows, names, (train, held), share, tell, asked)
    return Posed(asked, targets, names, train, held)


def tell_texts(
    rows: Texts, classes: list[str], sides: tuple[set[int], set[int]], share: float, tell: Tell, problem: str = SINGLE
) -> None:
    """Say what was read, and how it was split by a share that was to be held out."""
    train, held = sides
    without = sum(label is None for label in rows.labels)
    more = f", {without:,} without a label" if without else ""
    one = ", several of a text" if problem == SEVERAL else ""
    what = f"{len(classes)} classes ({printable(listed(classes), 200)}){one}"
    tell("read", f"{len(rows.texts):,} texts{more}, {'numbers (regression)' if problem == NUMBER else what}")
    few = f"; {share:g} of the texts of each class are less than one: more texts, or a larger share (--valid-share)"
    tell("split", f"{len(train):,} to learn from, {len(held):,} held out{few if share and not held else ''}")
