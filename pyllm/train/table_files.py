"""The folder of a table's net: run.json, columns.json, model.safetensors, log.jsonl, timings.jsonl.

All of it is checked before any of it is used; it is written whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from itertools import pairwise
from math import prod
from typing import Any, NoReturn

import numpy as np

from pyllm.errors import ModelFileError, printable
from pyllm.formats.json_file import load_json
from pyllm.formats.memory import check_fits
from pyllm.formats.safetensors import SafeTensors
from pyllm.formats.safetensors_writer import write_safetensors
from pyllm.formats.writing import NewFolder, NewTensor, make_folder
from pyllm.models.mlp import MLP
from pyllm.train.columns import LARGEST, MOST_CATEGORIES, Category, Column, Number
from pyllm.train.log import Log
from pyllm.train.table_model import ACTS, MOST_LAYERS, WIDEST, TableModel, Target

FORMAT, COLUMNS_FORMAT, VERSION = "pyllm table", "pyllm table columns", 1
RUN, COLUMNS, WEIGHTS = "run.json", "columns.json", "model.safetensors"
_LONGEST_RUN, _LONGEST_COLUMNS = 1 << 26, 1 << 28


def check_free(folder: str | os.PathLike[str], overwrite: bool) -> str:
    """The folder's path, ready to be written. Raises ModelFileError where something is in the way.

    With `overwrite` an older folder is replaced, but only one that holds nothing else than a table's net.
    """
    path = os.path.normpath(os.fspath(folder))
    if not os.path.lexists(path):
        return path
    if not os.path.isdir(path) or os.path.islink(path):
        raise ModelFileError(path, "", None, "exists already and is no folder", "another name")
    names = set(os.listdir(path))
    if names and not overwrite:
        raise ModelFileError(path, "", None, "exists already and is not empty", "another name, or overwrite")
    other = sorted(names - {RUN, COLUMNS, WEIGHTS, "log.jsonl", "timings.jsonl", "report.html"})
    if other:
        raise ModelFileError(path, printable(other[0], 60), None, "would be lost", "a folder without other files")
    return path


def save_table(table: TableModel, folder: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write the folder; an older one of the name is replaced with `overwrite`. Raises ModelFileError."""
    path = check_free(folder, overwrite)
    state = table.model.state_dict()
    tensors = [NewTensor(name, array.shape, "F32", _bytes_of(array)) for name, array in state.items()]
    parent = make_folder(os.path.dirname(path) or ".")
    with NewFolder(parent, os.path.basename(path), sum(each.nbytes for each in tensors)) as staging:
        with staging.create(WEIGHTS) as file:
            write_safetensors(file, tensors)
        for name, value in ((COLUMNS, _described(table)), (RUN, table.facts)):
            with staging.create(name) as file:
                file.write((json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode())
        if table.log:
            with Log(staging.work) as log:
                for line in table.log:
                    log.add(**line)
                for line in table.timings:
                    log.time(**line)
                log.sync()


def _bytes_of(array: np.ndarray) -> Any:
    def pieces() -> Iterator[Any]:
        yield np.ascontiguousarray(array, "<f4").tobytes()

    return pieces


def _described(table: TableModel) -> dict[str, Any]:
    """The content of columns.json."""
    target: dict[str, Any] = {"name": table.target.name}
    if table.target.classes:
        target["classes"] = list(table.target.classes)
    else:
        target |= {"mean": table.target.mean, "deviation": table.target.deviation}
    columns: list[dict[str, Any]] = []
    for column in table.columns:
        if isinstance(column, Number):
            columns.append({"name": column.name, "mean": column.mean, "deviation": column.deviation})
        else:
            columns.append({"name": column.name, "words": list(column.values)})
    return {"format": COLUMNS_FORMAT, "version": VERSION, "target": target, "columns": columns}


def open_table(folder: str | os.PathLike[str]) -> TableModel:
    """The net of a folder that fit_table's save() has written. Raises ModelFileError naming file and field."""
    path = os.fspath(folder)
    if not os.path.isdir(path):
        raise ModelFileError(path, "", None, "no such folder", "the folder of `pyllm fit`")
    run = _Described(os.path.join(path, RUN), _LONGEST_RUN, FORMAT)
    config = run.field(run.values, "config", dict)
    sizes = run.field(config, "sizes", list)
    act = run.field(config, "act", str)
    if not 2 <= len(sizes) <= MOST_LAYERS + 2 or not all(_is_size(size) for size in sizes):
        run.refuse("sizes", sizes, f"from 2 to {MOST_LAYERS + 2} sizes; hidden ones up to {WIDEST:,}")
    if act not in ACTS:
        run.refuse("act", act, ", ".join(ACTS))
    run.field(run.values, "scores", dict)
    columns, target = _columns(os.path.join(path, COLUMNS))
    inputs = sum(column.width for column in columns)
    if (sizes[0], sizes[-1]) != (inputs, target.outputs) or max(sizes[1:-1], default=1) > WIDEST:
        allowed = f"{inputs:,} inputs and {target.outputs:,} outputs, as {COLUMNS} says; hidden ones up to {WIDEST:,}"
        run.refuse("sizes", sizes, allowed)
    return TableModel(_net(os.path.join(path, WEIGHTS), sizes, act), columns, target, run.values, [], [])


def _net(path: str, sizes: list[int], act: str) -> MLP:
    """The net of these sizes with a file's weights."""
    wanted: dict[str, tuple[int, ...]] = {}
    for i, (before, after) in enumerate(pairwise(sizes)):
        wanted |= {f"layers.{i}.weight": (after, before), f"layers.{i}.bias": (after,)}
    with SafeTensors(path) as file:
        for name in [*wanted, *file.tensors]:
            info = file.tensors.get(name)
            found = "missing" if info is None else f"shape {list(info.shape)} x {info.dtype}"
            if info is None or name not in wanted or (info.shape, info.dtype) != (wanted[name], "F32"):
                allowed = f"shape {list(wanted[name])} x F32" if name in wanted else "no such tensor"
                raise ModelFileError(path, f"tensor '{printable(name)}'", None, found, allowed)
        check_fits(path, 12 * sum(map(prod, wanted.values())))
        state = {name: file.read(file.tensors[name]).view("<f4").reshape(shape) for name, shape in wanted.items()}
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise ModelFileError(path, f"tensor '{printable(name)}'", None, "holds nan or infinity", "finite numbers")
    model: MLP = MLP(*sizes, act=act).load_state_dict(state)
    return model


class _Described:
    """A JSON file of ours: format and version are right. Raises ModelFileError."""

    def __init__(self, path: str, longest: int, format: str) -> None:
        self.path = path
        values = load_json(path, longest)
        if not isinstance(values, dict) or values.get("format") != format:
            raise ModelFileError(path, "format", None, "not a file of a table's net", f"an object of format '{format}'")
        self.values: dict[str, Any] = values
        version = self.field(values, "version", int)
        if version != VERSION:
            self.refuse("version", version, f"{VERSION}; a later pyllm may have written it")

    def refuse(self, name: str, found: object, allowed: str) -> NoReturn:
        """Raise ModelFileError for a field."""
        raise ModelFileError(self.path, name, None, printable(repr(found), 100), allowed)

    def field(self, values: Any, name: str, kind: type) -> Any:
        """A field of an object, of a kind."""
        found = values.get(name) if isinstance(values, dict) else None
        if not isinstance(found, kind) or isinstance(found, bool):
            self.refuse(name, found, {dict: "an object", list: "a list", str: "text", int: "a whole number"}[kind])
        return found

    def number(self, values: dict[str, Any], name: str, low: float) -> float:
        """A finite number."""
        found = values.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float) or not low <= found <= LARGEST:
            self.refuse(name, found, f"a number from {low:g} to {LARGEST:g}")
        return float(found)

    def words(self, values: dict[str, Any], name: str, least: int) -> tuple[str, ...]:
        """A list of different texts."""
        found = self.field(values, name, list)
        if not all(isinstance(each, str) for each in found) or not least <= len(found) <= MOST_CATEGORIES + 1:
            self.refuse(name, found, f"from {least} to {MOST_CATEGORIES + 1:,} texts")
        if len(set(found)) != len(found):
            self.refuse(name, found, "each text once")
        return tuple(found)


def _columns(path: str) -> tuple[list[Column], Target]:
    """What columns.json says. Raises ModelFileError."""
    file = _Described(path, _LONGEST_COLUMNS, COLUMNS_FORMAT)
    given = file.field(file.values, "target", dict)
    target = Target(file.field(given, "name", str))
    if "classes" in given:
        target = target._replace(classes=file.words(given, "classes", 2))
    else:
        target = target._replace(
            mean=file.number(given, "mean", -LARGEST), deviation=file.number(given, "deviation", math.ulp(0.0))
        )
    columns: list[Column] = []
    for each in file.field(file.values, "columns", list):
        name = file.field(each, "name", str)
        if "words" in each:
            columns.append(Category(name, file.words(each, "words", 1)))
        else:
            columns.append(Number(name, file.number(each, "mean", -LARGEST), file.number(each, "deviation", 0.0)))
    names = [column.name for column in columns]
    if not names or len({*names, target.name}) != len(names) + 1:
        file.refuse("columns", names, "one or more, each name once, the target's not among them")
    return columns, target


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 1 << 31
