"""Read JSON strictly: size and depth are capped before parsing; duplicate keys, NaN and Infinity are refused."""

from __future__ import annotations

import json
import math
import os
import re
from typing import Any, NoReturn

import numpy as np

from pyllm.errors import ModelFileError, printable
from pyllm.formats.disk import Disk

DEEPEST = 64
LONGEST_INTEGER = 40  # digits; sizes and ids need at most 20

_SLICE = 1 << 20
_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN)')


class _Refusal(ValueError):
    """Raised inside the parser's callbacks, which know what is wrong but not where."""


def load_json(path: str | os.PathLike[str], limit: int, field: str = "") -> Any:
    """The value in a file of at most `limit` bytes. Raises ModelFileError with line and column."""
    disk = Disk(path)
    try:
        if disk.size > limit:
            raise ModelFileError(disk.path, field, None, f"{disk.size:,} bytes of JSON", f"at most {limit:,}")
        data = bytes(disk.read(0, disk.size, field))
    finally:
        disk.close()
    return parse_json(data, disk.path, field)


def parse_json(data: bytes, file: str, field: str = "", offset: int = 0) -> Any:
    """The value of UTF-8 JSON text that stands at `offset` in `file`. Raises ModelFileError."""

    def refuse(at: int | None, found: str, allowed: object = "") -> NoReturn:
        where = None if at is None else offset + at
        raise ModelFileError(file, field, where, found, allowed)

    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        refuse(error.start, f"not UTF-8: byte 0x{data[error.start]:02x}")
    deepest, at = _deepest(data)
    if deepest > DEEPEST:
        refuse(at, f"JSON nested {deepest:,} deep or more", f"at most {DEEPEST} levels")
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_constant, parse_float=_finite, parse_int=_short
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        refuse(len(text[: error.pos].encode()), f"not JSON: {error.msg} at {place}")
    except _Refusal as error:
        found = str(error)
        if found in ("NaN", "Infinity", "-Infinity"):
            found = f"{found} at {_place_of_constant(text)}"
        refuse(None, found, "JSON with each key once and finite numbers")


def _deepest(data: bytes) -> tuple[int, int]:
    """(depth, where): the first place where brackets outside strings are more than DEEPEST deep, else (deepest, 0)."""
    depth, inside, most = 0, 0, 0
    plain = data.replace(rb"\\", b"  ").replace(rb"\"", b"  ")
    for start in range(0, len(plain), _SLICE):
        piece = np.frombuffer(plain, np.uint8, min(_SLICE, len(plain) - start), start)
        quotes = np.cumsum(piece == ord('"'), dtype=np.int32) + inside
        step = ((piece == ord("[")) | (piece == ord("{"))).astype(np.int32)
        step -= (piece == ord("]")) | (piece == ord("}"))
        step[quotes & 1 == 1] = 0
        depths = np.cumsum(step, dtype=np.int32) + depth
        most = max(most, int(depths.max()))
        if most > DEEPEST:
            return most, start + int(np.argmax(depths > DEEPEST))
        depth, inside = int(depths[-1]), int(quotes[-1]) & 1
    return most, 0


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict, unless a key stands twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refusal(f"the key '{printable(twice)}' stands twice in one object")
    return found


def _constant(name: str) -> NoReturn:
    """NaN and the infinities are not JSON, although Python's parser takes them."""
    raise _Refusal(name)


def _finite(digits: str) -> float:
    """A float that does not overflow."""
    value = float(digits)
    if not math.isfinite(value):
        raise _Refusal(f"the number {printable(digits, 40)} is too large")
    return value


def _short(digits: str) -> int:
    """An integer of bounded length, because converting digits takes quadratic time."""
    if len(digits) > LONGEST_INTEGER:
        raise _Refusal(f"an integer of {len(digits):,} digits")
    return int(digits)


def _place_of_constant(text: str) -> str:
    """Line and column of the first NaN or Infinity that is not inside a string."""
    for match in _STRING_OR_CONSTANT.finditer(text):
        if match.group(1):
            line = text.count("\n", 0, match.start()) + 1
            return f"line {line}, column {match.start() - text.rfind(chr(10), 0, match.start())}"
    return "an unknown place"
