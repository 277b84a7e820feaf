"""Read what a training run left in its folder, also where files are missing, torn or hostile.

log.jsonl: an object per step: step, samples, tokens, loss, lr, grad_norm, and valid_loss where it was evaluated.
timings.jsonl: step, seconds, tokens_per_second, share_of_peak. run.json: model, config, parameters, arguments, command,
machine, samples (step, prompt, text). Numbers that JSON lacks are the strings "nan", "inf", "-inf".
"""

from __future__ import annotations

import json
import math
import os
from typing import Any, NamedTuple

from pyllm.errors import ModelFileError, printable
from pyllm.formats.json_file import load_json

LONGEST_LINE = 1 << 16  # a step's record has some 200 bytes
LONGEST_FACTS = 1 << 26
_STRINGS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

Record = dict[str, float]


class Run(NamedTuple):
    """A run: log and timings by step, in order, numbers only; facts from run.json; what could not be read, in words."""

    folder: str
    log: list[Record]
    timings: list[Record]
    facts: dict[str, Any]
    missing: list[str]


def read_run(folder: str | os.PathLike[str]) -> Run:
    """What is there. Raises ModelFileError for a folder in which none of the three files is."""
    path = os.fspath(folder)
    if not os.path.isdir(path):
        raise ModelFileError(path, "report", None, "no such folder", "the folder of a training run")
    names = ("log.jsonl", "timings.jsonl", "run.json")
    if not any(os.path.isfile(os.path.join(path, name)) for name in names):
        raise ModelFileError(path, "report", None, f"none of {', '.join(names)} is in it", "the folder of a run")
    missing: list[str] = []
    log = _records(os.path.join(path, "log.jsonl"), missing)
    timings = _records(os.path.join(path, "timings.jsonl"), missing)
    return Run(path, log, timings, _facts(os.path.join(path, "run.json"), missing), missing)


def _records(path: str, missing: list[str]) -> list[Record]:
    """The lines of a file by step; of two lines for one step the later, for a run that went on from a checkpoint."""
    found: dict[float, Record] = {}
    torn = 0
    name = os.path.basename(path)
    if not os.path.isfile(path):
        missing.append(f"{name}: {'is no file' if os.path.lexists(path) else 'is not there'}")
        return []
    try:
        with open(path, "rb") as file:
            while line := file.readline(LONGEST_LINE):
                record = _record(line)
                if record is not None:
                    found[record["step"]] = record
                elif line.strip():
                    torn += 1
    except OSError as error:
        missing.append(f"{name}: {error.strerror or 'cannot be read'}")
    if torn:
        missing.append(f"{name}: {torn:,} {'lines are' if torn > 1 else 'line is'} torn or no record of a step")
    return [found[step] for step in sorted(found)]


def _record(line: bytes) -> Record | None:
    """The numbers of one line; None unless it is an object with a step."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    found = {key: number for key, value in values.items() if (number := as_number(value)) is not None}
    step = found.get("step", math.nan)
    return found if math.isfinite(step) and step >= 0 else None


def as_number(value: Any) -> float | None:
    """A number or one of the three strings as a float; None for anything else."""
    if isinstance(value, str):
        return _STRINGS.get(value.lower())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _facts(path: str, missing: list[str]) -> dict[str, Any]:
    """run.json; empty where it cannot be read."""
    if not os.path.isfile(path):
        missing.append(f"run.json: {'is no file' if os.path.lexists(path) else 'is not there'}")
        return {}
    try:
        found = load_json(path, LONGEST_FACTS)
    except ModelFileError as error:
        missing.append(printable(error, 500))
        return {}
    if not isinstance(found, dict):
        missing.append(f"run.json: a {type(found).__name__}; an object is wanted")
        return {}
    return found
