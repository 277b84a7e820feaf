"""The log of a run: one line of JSON per step, cut back on resume, so that a killed run ends with the same bytes.

`log.jsonl` has what the run computes, and nothing that depends on the clock; `timings.jsonl` has the rest. A float is
written as the shortest digits that give it back (Python's repr), so equal floats are equal bytes; JSON has no NaN and
no infinity, so they stand as the strings "nan", "inf" and "-inf".
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from pyllm.errors import CheckpointError, ModelFileError
from pyllm.formats.writing import make_folder

LOG, TIMINGS = "log.jsonl", "timings.jsonl"
_NAMED = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Log:
    """The two logs of a run folder, open for appending. Whoever writes them holds the folder's lock (Checkpoints).

    `step` is where the run goes on: lines after it are cut off; None cuts off only a last line that a kill has torn.
    Raises CheckpointError naming file and reason.
    """

    def __init__(self, folder: str | os.PathLike[str], step: int | None = None) -> None:
        try:
            self.folder = make_folder(folder)
        except ModelFileError as error:
            raise CheckpointError(error.file, error.field, error.offset, error.found, error.allowed) from error
        self._log = _Lines(os.path.join(self.folder, LOG), step)
        try:
            self._timings = _Lines(os.path.join(self.folder, TIMINGS), step)
        except BaseException:
            self._log.close()
            raise

    @property
    def last(self) -> int:
        """The step of the last line; 0 when there is none."""
        return self._log.last

    def add(self, step: int, **values: Any) -> None:
        """Append what step `step` computed: numbers, text, bool or None by name; the system has it on return."""
        self._log.add(step, values)

    def time(self, step: int, **values: Any) -> None:
        """The same for what depends on the clock."""
        self._timings.add(step, values)

    def sync(self) -> None:
        """Have all lines on the disk: called before a checkpoint is saved, after a power cut it has its lines."""
        self._log.sync()
        self._timings.sync()

    def close(self) -> None:
        """Close both files; calling it twice is harmless."""
        self._log.close()
        self._timings.close()

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(folder: str | os.PathLike[str], name: str = LOG) -> list[dict[str, Any]]:
    """The lines of a log but a torn last one; "nan", "inf" and "-inf" are numbers again. Raises CheckpointError."""
    path = os.path.join(os.fspath(folder), name)
    return [
        {key: _NAMED.get(value, value) if isinstance(value, str) else value for key, value in line.items()}
        for _, line in _walk(path)
    ]


class _Lines:
    """One file of lines with ascending steps; it ends with a whole line, or the last write has raised."""

    def __init__(self, path: str, step: int | None) -> None:
        self.path = path
        self.last = 0
        self._size = 0
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
            self._file = os.open(path, flags, 0o666)
        except OSError as error:
            raise self._error(error) from error
        try:
            for end, line in _walk(path):
                if step is not None and line["step"] > step:
                    break
                self._size, self.last = end, line["step"]
            if os.fstat(self._file).st_size > self._size:
                os.ftruncate(self._file, self._size)
        except OSError as error:
            self.close()
            raise self._error(error) from error
        except BaseException:
            self.close()
            raise

    def add(self, step: int, values: dict[str, Any]) -> None:
        """Append a line; when the disk refuses a part of it, the whole is taken back."""
        if step < self.last:
            raise ValueError(f"{os.path.basename(self.path)}: step {step} after {self.last}; ascending steps, or a cut")
        line = memoryview(_written({"step": step, **values}).encode())
        done = 0
        try:
            while done < len(line):
                done += os.write(self._file, line[done:])
        except OSError as error:
            self._take_back()
            raise self._error(error) from error
        self._size += len(line)
        self.last = step

    def _take_back(self) -> None:
        """Drop a part of a line. Where even that fails the file is closed: what follows would be glued to it."""
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            self.close()

    def sync(self) -> None:
        """Have the lines on the disk."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _error(self, error: OSError) -> CheckpointError:
        return CheckpointError(self.path, "", None, f"cannot be written: {error.strerror}")


def _written(line: dict[str, Any]) -> str:
    """A line of JSON whose bytes depend on nothing but the values. Raises TypeError or ValueError naming the field."""
    plain = {}
    for key, value in line.items():
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float):
            value = float(value) if math.isfinite(value) else repr(float(value))
        elif value is not None and not isinstance(value, str | int):
            raise TypeError(f"log: '{key}' is of type {type(value).__name__}; a number, text, bool or None is allowed")
        elif isinstance(value, str) and value in _NAMED:
            raise ValueError(f"log: '{key}' is the text '{value}', which means a number; any other text is allowed")
        plain[key] = value
    return json.dumps(plain) + "\n"


def _walk(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(where it ends, values) of each whole line. Only the last may be torn, which is left out. Or CheckpointError."""
    end, number, torn = 0, 0, False
    try:
        with open(path, "rb") as file:
            for raw in file:
                number += 1
                if torn:
                    found = "is not a line of a log, and others follow it"
                    raise CheckpointError(path, f"line {number - 1}", end, found, "a torn line only at the end")
                line = _parsed(raw)
                if line is None:
                    torn = True
                    continue
                end += len(raw)
                yield end, line
    except OSError as error:
        raise CheckpointError(path, "", None, f"cannot be read: {error.strerror}") from error


def _parsed(raw: bytes) -> dict[str, Any] | None:
    """The values of a line; None when it is torn."""
    try:
        line = json.loads(raw) if raw.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None
