"""Columns of a table as numbers for a net: what kinds there are, how their values are scaled, what is missing."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm.errors import printable
from pyllm.formats.csv_file import CsvFile, listed
from pyllm.tensor import Array

MISSING = frozenset({"", "NA", "N/A", "n/a", "null", "NULL", "None", "?"})
MOST_CATEGORIES = 1000
LARGEST = 1e100  # of a number: its square is still one
FURTHEST = 1e4  # deviations from the mean; what lies beyond counts as this far
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)

Values = NDArray[Any]  # float64 of numbers, int32 of words


class Number(NamedTuple):
    """A column of numbers: x counts as (x - mean) / deviation, a missing one as 0; deviation 0: all count as 0."""

    name: str
    mean: float
    deviation: float

    @property
    def width(self) -> int:
        """Inputs that it takes."""
        return 1

    def encode(self, values: Values, into: Array) -> None:
        """values (rows,) with NaN for missing ones, into (rows, 1)."""
        if self.deviation == 0:
            into.fill(0)
            return
        with np.errstate(over="ignore"):
            scaled = np.clip((values - self.mean) / self.deviation, -FURTHEST, FURTHEST)
        into[:, 0] = np.nan_to_num(scaled, nan=0.0)


class Category(NamedTuple):
    """A column of words: one input each, 1 where it stands; "" stands for missing. An unknown word is 0 everywhere."""

    name: str
    values: tuple[str, ...]

    @property
    def width(self) -> int:
        """Inputs that it takes."""
        return len(self.values)

    def encode(self, values: Values, into: Array) -> None:
        """values (rows,) places among the words, -1 for unknown ones, into (rows, words)."""
        into.fill(0)
        known = np.flatnonzero(values >= 0)
        into[known, values[known].astype(np.int64)] = 1


Column = Number | Category


class Survey:
    """What a first reading of a column finds: how many numbers, other words, missing fields; the different values."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.numbers = self.missing = self.words = 0
        self.whole = True
        self.odd: tuple[int, str] | None = None  # (line, text) of the first nan or infinity
        self.word: tuple[int, str] | None = None  # and of the first other word
        self.distinct: set[str] = set()  # one more than MOST_CATEGORIES at most
        self.huge: tuple[int, str] | None = None

    def add(self, line: int, text: str) -> None:
        """One more field."""
        if text in MISSING:
            self.missing += 1
            text = ""
        elif _NUMBER.fullmatch(text):
            self.numbers += 1
            number = float(text)
            if abs(number) > LARGEST:
                self.huge = self.huge or (line, text)
            elif self.whole and number != int(number):
                self.whole = False
        elif _NOT_FINITE.fullmatch(text):
            self.odd = self.odd or (line, text)
        else:
            self.words += 1
            self.word = self.word or (line, text)
        if len(self.distinct) <= MOST_CATEGORIES:
            self.distinct.add(text)

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers alone, beside what is missing."""
        return self.words == 0 and self.numbers > 0

    @property
    def constant(self) -> bool:
        """Whether it says the same in every row."""
        return len(self.distinct) == 1 or (self.numeric and len({float(text) for text in self.distinct if text}) == 1)

    def check(self, file: CsvFile) -> None:
        """Raise ModelFileError for a column that cannot be used, which names a line of it."""
        where = f"column '{printable(self.name, 60)}'"
        if self.words == 0:
            for odd, rule in ((self.odd, "finite numbers, or an empty field where one is missing"),
                              (self.huge, f"numbers up to {LARGEST:g}")):  # fmt: skip
                if odd is not None:
                    file.refuse(odd[0], f"{where}: '{printable(odd[1], 40)}'", rule)
        elif len(self.distinct) > MOST_CATEGORIES:
            assert self.word is not None
            found = (
                f"{where}: '{printable(self.word[1], 40)}' is no number, and there are more than {MOST_CATEGORIES:,}"
            )
            file.refuse(self.word[0], f"{found} different values", "numbers, or fewer different words; or leave it out")


def survey(file: CsvFile, names: Sequence[str], told: Callable[[int], None]) -> tuple[int, list[Survey]]:
    """(rows, what each of these columns holds)."""
    found = [Survey(name) for name in names]
    pairs = [(file.column(name), each.add) for name, each in zip(names, found, strict=True)]
    rows = 0
    for line, fields in file.rows(told):
        rows += 1
        for place, add in pairs:
            add(line, fields[place])
    return rows, found


def gather(
    file: CsvFile, columns: Sequence[tuple[str, dict[str, int] | None]], rows: Iterable[tuple[int, list[str]]]
) -> dict[str, Values]:
    """The values of columns: numbers with NaN for missing ones, or of words their places, -1 for unknown ones."""
    pairs = [(file.column(name), places, name, _empty(places is None)) for name, places in columns]
    for line, fields in rows:
        for place, places, name, values in pairs:
            text = fields[place]
            if text in MISSING:
                text = ""
            if places is not None:
                values.append(places.get(text, -1))
            elif not text:
                values.append(math.nan)
            elif _NUMBER.fullmatch(text) and abs(number := float(text)) <= LARGEST:
                values.append(number)
            else:
                found = f"column '{printable(name, 60)}': '{printable(text, 40)}'"
                file.refuse(line, found, f"numbers up to {LARGEST:g}, or an empty field where one is missing")
    return {name: np.array(values, np.float64 if places is None else np.int32) for _, places, name, values in pairs}


def _empty(numeric: bool) -> array[Any]:
    return array("d" if numeric else "i")


def learn(found: Survey, values: Values, words: Sequence[str], rows: NDArray[np.int64]) -> Column:
    """A column as these rows have it; words: of the whole file, in order, to which `values` point."""
    if found.numeric:
        present = values[rows][~np.isnan(values[rows])]
        if len(present) == 0 or present.min() == present.max():
            return Number(found.name, float(present[0]) if len(present) else 0.0, 0.0)
        return Number(found.name, float(present.mean()), float(present.std()))
    return Category(found.name, tuple(words[i] for i in np.unique(values[rows])))


def places_of(column: Column) -> dict[str, int] | None:
    """How gather() is told of a column."""
    return {word: i for i, word in enumerate(column.values)} if isinstance(column, Category) else None


def encode(columns: Sequence[Column], values: dict[str, Values]) -> Array:
    """(rows, inputs) float32: the columns side by side."""
    rows = len(next(iter(values.values())))
    out = np.empty((rows, sum(column.width for column in columns)), np.float32)
    at = 0
    for column in columns:
        column.encode(values[column.name], out[:, at : at + column.width])
        at += column.width
    return out


def refuse_constant(file: CsvFile, found: Sequence[Survey]) -> None:
    """Raise ModelFileError that names all columns which say the same in every row."""
    same = [each.name for each in found if each.constant]
    if same:
        what = (
            f"column {listed(same)} is constant"
            if len(same) == 1
            else f"{len(same)} columns are constant: {listed(same)}"
        )
        file.refuse(None, what, "columns that differ between rows; --drop leaves one out, --drop-constant all such")
