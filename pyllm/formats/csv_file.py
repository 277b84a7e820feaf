"""CSV files as a stream of rows: UTF-8, a first line of names, and every later line as many fields."""

from __future__ import annotations

import csv
import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from pyllm.errors import ModelFileError, printable
from pyllm.formats.disk import Disk

LONGEST_LINE = 1 << 24  # bytes
MOST_COLUMNS = 100_000
_PIECE = 1 << 20
_DELIMITERS = ",;\t"

Told = Callable[[int], None]  # hears of bytes of the file as they are read


class CsvFile:
    """A CSV file: `names` of its columns, and rows() to read it from the beginning, as often as it is called.

    The delimiter is the one of comma, semicolon and tab that the first line has most. Fields and names lose the spaces
    around them; empty lines do not count. Raises ModelFileError that names the line.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.delimiter = ","
        found = next(self._records(lambda count: None), None)
        if found is None:
            self.refuse(None, "is empty", "a first line of column names")
        self.names = found[1]
        self._check_names()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        disk = Disk(self.path)
        disk.close()
        return disk.size

    def refuse(self, line: int | None, found: str, allowed: str = "") -> NoReturn:
        """Raise ModelFileError for a line."""
        raise ModelFileError(self.path, "" if line is None else f"line {line:,}", None, found, allowed)

    def rows(self, told: Told = lambda count: None) -> Iterator[tuple[int, list[str]]]:
        """(number of its first line, fields) of each row after the names."""
        records = self._records(told)
        if next(records, (0, None))[1] != self.names:
            self.refuse(None, "has changed while it was read")
        for line, fields in records:
            if len(fields) != len(self.names):
                self.refuse(line, f"{len(fields):,} fields", f"{len(self.names):,}, as the first line has")
            yield line, fields

    def column(self, name: str) -> int:
        """The place of a column. Raises ModelFileError with the names that come close."""
        if name in self.names:
            return self.names.index(name)
        near = difflib.get_close_matches(name, self.names, n=3)
        hint = f"did you mean {' or '.join(map(_quoted, near))}?" if near else f"columns: {listed(self.names)}"
        self.refuse(None, f"no column '{printable(name)}'", hint)

    def _records(self, told: Told) -> Iterator[tuple[int, list[str]]]:
        lines = self._lines(told)
        first = next(lines, None)
        if first is None:
            return
        self.delimiter = max(_DELIMITERS, key=first.count)
        reader = csv.reader(_chained(first, lines), delimiter=self.delimiter, strict=True)
        start = 1
        while True:
            try:
                fields = next(reader, None)
            except csv.Error as error:
                self.refuse(reader.line_num or 1, f"is no CSV: {printable(error)}")
            if fields is None:
                return
            if fields:
                yield start, [field.strip() for field in fields]
            start = reader.line_num + 1

    def _lines(self, told: Told) -> Iterator[str]:
        """Lines of text with their ends."""
        disk = Disk(self.path)
        try:
            rest, number = b"", 0
            for at in range(0, disk.size, _PIECE):
                piece = bytes(disk.read(at, min(_PIECE, disk.size - at)))
                told(len(piece))
                *whole, rest = (rest + piece).split(b"\n")
                for raw in whole:
                    number += 1
                    yield self._text(raw + b"\n", number)
                if len(rest) > LONGEST_LINE:
                    self.refuse(number + 1, f"more than {LONGEST_LINE:,} bytes without an end of line", "shorter lines")
            if rest:
                yield self._text(rest, number + 1)
        finally:
            disk.close()

    def _text(self, raw: bytes, number: int) -> str:
        if b"\0" in raw:
            self.refuse(number, "holds a byte 0", "text in UTF-8")
        try:
            return raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            self.refuse(number, f"byte {error.start + 1:,} of it is not UTF-8", "text in UTF-8")

    def _check_names(self) -> None:
        if len(self.names) > MOST_COLUMNS:
            self.refuse(1, f"{len(self.names):,} columns", f"at most {MOST_COLUMNS:,}")
        places: dict[str, int] = {}
        for place, name in enumerate(self.names, 1):
            if not name:
                self.refuse(1, f"column {place:,} has no name", "a first line of column names")
            if name in places:
                found = f"columns {places[name]:,} and {place:,} are both called '{printable(name)}'"
                self.refuse(1, found, "each name once")
            places[name] = place


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names for a message, the first ones."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(_quoted, names[:most])) + more


def _quoted(name: str) -> str:
    return f"'{printable(name, 60)}'"


def _chained(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines
