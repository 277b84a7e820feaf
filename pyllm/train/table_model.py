"""A net that has learned a table: from rows of a CSV file to numbers or classes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm.formats.csv_file import CsvFile, Told
from pyllm.models.mlp import MLP
from pyllm.ops import softmax
from pyllm.tensor import Array
from pyllm.train.columns import Category, Column, Number, encode, gather, places_of

ROWS_AT_ONCE = 4096
ACTS = ("relu", "tanh", "sigmoid", "gelu", "silu")
MOST_LAYERS, WIDEST = 64, 1 << 16  # of hidden layers


class Target(NamedTuple):
    """What is predicted: one of `classes`, or, where there are none, a number with this mean and deviation."""

    name: str
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0

    @property
    def task(self) -> str:
        """ "classification" or "regression"."""
        return "classification" if self.classes else "regression"

    @property
    def outputs(self) -> int:
        """Outputs of the net."""
        return len(self.classes) or 1

    def values(self, outputs: Array) -> NDArray[Any]:
        """What outputs (rows, outputs) of the net say: places of classes (rows,), or numbers (rows,) float64."""
        if self.classes:
            return outputs.argmax(axis=1)
        return outputs[:, 0].astype(np.float64) * self.deviation + self.mean


class Predictions(NamedTuple):
    """Of some rows: values, classes as text or numbers; probabilities (rows, classes), None for numbers; how many
    fields of a column were `missing`, and how many held an `unknown` word, where there are any."""

    values: list[str] | list[float]
    probabilities: Array | None
    missing: dict[str, int]
    unknown: dict[str, int]

    def rows(self) -> list[tuple[Any, ...]]:
        """(value,) of each row, or (class, its probability)."""
        if self.probabilities is None:
            return [(value,) for value in self.values]
        return list(zip(self.values, self.probabilities.max(axis=1).tolist(), strict=True))


class TableModel:
    """A fitted net: model, columns, target; `facts` of the run, its `log` and `timings`, one dict a line.

    facts["scores"] are of the rows that were held out.
    """

    def __init__(
        self,
        model: MLP,
        columns: list[Column],
        target: Target,
        facts: dict[str, Any],
        log: list[dict[str, Any]],
        timings: list[dict[str, Any]],
    ) -> None:
        self.model: MLP = model.eval()
        self.columns, self.target, self.facts = columns, target, facts
        self.log, self.timings = log, timings

    @property
    def scores(self) -> dict[str, Any]:
        """How well it does on rows that it has not seen."""
        found: dict[str, Any] = self.facts["scores"]
        return found

    def outputs(self, x: Array) -> Array:
        """(rows, inputs) to (rows, outputs): what the net says, ROWS_AT_ONCE rows at a time."""
        return outputs_of(self.model, x)

    def predict(self, path: str | os.PathLike[str]) -> Predictions:
        """The predictions for every row of a CSV file. Raises ModelFileError."""
        parts = list(self.predict_parts(CsvFile(path)))
        probabilities = [part.probabilities for part in parts if part.probabilities is not None]
        missing: dict[str, int] = {}
        unknown: dict[str, int] = {}
        for part in parts:
            missing = added(missing, part.missing)
            unknown = added(unknown, part.unknown)
        values: list[Any] = [value for part in parts for value in part.values]
        return Predictions(values, np.concatenate(probabilities) if probabilities else None, missing, unknown)

    def predict_parts(self, file: CsvFile, told: Told = lambda count: None) -> Iterator[Predictions]:
        """The same, some rows at a time, so that the file may be of any size; other columns are left alone."""
        wanted = [(column.name, places_of(column)) for column in self.columns]
        for name, _ in wanted:
            file.column(name)
        rows = file.rows(told)
        while part := list(islice(rows, ROWS_AT_ONCE)):
            yield self._predicted(gather(file, wanted, part))

    def _predicted(self, values: dict[str, Any]) -> Predictions:
        missing: dict[str, int] = {}
        unknown: dict[str, int] = {}
        for column in self.columns:
            array = values[column.name]
            if isinstance(column, Number):
                missing[column.name] = int(np.isnan(array).sum())
            else:
                unknown[column.name] = int((array < 0).sum())
                if "" in column.values:
                    missing[column.name] = int((array == column.values.index("")).sum())
        outputs = self.outputs(encode(self.columns, values))
        said = self.target.values(outputs)
        named: list[Any] = [self.target.classes[i] for i in said] if self.target.classes else said.tolist()
        likely = np.asarray(softmax(outputs)) if self.target.classes else None
        return Predictions(named, likely, some(missing), some(unknown))

    def save(self, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the run's folder, whole or not at all. Raises ModelFileError."""
        from pyllm.train.table_files import save_table

        save_table(self, folder, overwrite)

    def __repr__(self) -> str:
        words = sum(isinstance(column, Category) for column in self.columns)
        kinds = f"{len(self.columns) - words} columns of numbers, {words} of words"
        return f"TableModel({self.model!r}, {kinds}, {self.target.task} of '{self.target.name}')"


def outputs_of(model: MLP, x: Array) -> Array:
    """What a net says to rows (rows, inputs), some at a time."""
    parts = [np.asarray(model(x[i : i + ROWS_AT_ONCE])) for i in range(0, len(x), ROWS_AT_ONCE)]
    return np.concatenate(parts)


def added(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    """Counts of both."""
    return a | {name: a.get(name, 0) + count for name, count in b.items()}


def some(counts: dict[str, int]) -> dict[str, int]:
    """Those that are not 0."""
    return {name: count for name, count in counts.items() if count}
