"""Walk the header of a GGUF file field by field: every length is checked against the file before it is believed."""

from __future__ import annotations

import struct
from typing import Any, NoReturn

import numpy as np

from pyllm import _core
from pyllm.errors import ModelFileError, printable
from pyllm.formats.disk import Disk
from pyllm.formats.strings import StringArray

# The largest vocabularies (262,144 tokens and as many merges) need some 16 MB of header.
HEADER_LIMIT = 128 << 20
FIRST_READ = 1 << 20
NAME_LIMIT = 65_535

UINT32, INT32, STRING, ARRAY = 4, 5, 8, 9
BOOL = 7

# GGUF's number types: id -> (struct letter, numpy dtype). Strings and arrays have lengths of their own.
NUMBERS: dict[int, tuple[struct.Struct, str]] = {
    number: (struct.Struct("<" + letter), dtype)
    for number, letter, dtype in (
        (0, "B", "u1"),
        (1, "b", "i1"),
        (2, "H", "<u2"),
        (3, "h", "<i2"),
        (UINT32, "I", "<u4"),
        (INT32, "i", "<i4"),
        (6, "f", "<f4"),
        (BOOL, "B", "u1"),
        (10, "Q", "<u8"),
        (11, "q", "<i8"),
        (12, "d", "<f8"),
    )
}
_U32 = NUMBERS[UINT32][0]
_U64 = NUMBERS[10][0]


class Header:
    """A cursor over the first bytes of a file, which are read in growing steps only as far as fields reach.

    Every reading method advances the cursor and raises ModelFileError, naming `field` and the offset, when the file
    has fewer bytes than the field claims.
    """

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.at = 0
        self.field = "header"
        self._arrays: list[StringArray] = []
        self._bytes = disk.read(0, min(disk.size, FIRST_READ), self.field)

    def refuse(self, found: object, allowed: object = "", offset: int | None = None) -> NoReturn:
        """Raise ModelFileError for the current field, at `offset` or where the cursor stands."""
        raise ModelFileError(self.disk.path, self.field, self.at if offset is None else offset, found, allowed)

    def left(self) -> int:
        """Bytes between the cursor and the end of the file."""
        return self.disk.size - self.at

    def need(self, count: int, what: str) -> None:
        """Have `count` bytes after the cursor in memory."""
        end = self.at + count
        if end <= len(self._bytes):
            return
        if end > self.disk.size:
            self.refuse(f"truncated: {what} needs {count:,} bytes, the file has {self.left():,} left")
        if end > HEADER_LIMIT:
            self.refuse(f"{what} ends {end:,} bytes into the file", f"a header of at most {HEADER_LIMIT:,} bytes")
        have = len(self._bytes)
        target = min(max(end, have + have), self.disk.size, HEADER_LIMIT)
        self._bytes += self.disk.read(have, target - have, self.field)

    def peek(self, count: int) -> bytes:
        """The next bytes, which need() has already fetched."""
        return bytes(self._bytes[self.at : self.at + count])

    def between(self, start: int, end: int) -> bytes:
        """Bytes that the cursor has passed."""
        return bytes(self._bytes[start:end])

    def number(self, form: struct.Struct, what: str) -> Any:
        """One number of the given struct form."""
        at = self.at
        end = at + form.size
        if end > len(self._bytes):
            self.need(form.size, what)
        self.at = end
        return form.unpack_from(self._bytes, at)[0]

    def u32(self, what: str) -> int:
        """An unsigned 32-bit number."""
        return self.number(_U32, what)

    def u64(self, what: str) -> int:
        """An unsigned 64-bit number."""
        return self.number(_U64, what)

    def raw_string(self, what: str) -> bytes:
        """A 64-bit length and that many bytes."""
        length = self.u64(f"the length of {what}")
        if length > self.left():
            found = f"{what} claims {length:,} bytes, the file has {self.left():,} left"
            self.refuse(found, offset=self.at - 8)
        self.need(length, what)
        start = self.at
        self.at += length
        return bytes(self._bytes[start : self.at])

    def name(self, what: str) -> str:
        """A key or a tensor's name: not empty, UTF-8, without NUL."""
        start = self.at
        raw = self.raw_string(what)
        if not 0 < len(raw) <= NAME_LIMIT:
            self.refuse(f"{what} has {len(raw):,} bytes", f"1 to {NAME_LIMIT:,}", start)
        if b"\0" in raw:
            self.refuse(f"{what} contains a NUL byte: {printable(raw)}", "text without NUL", start)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"{what} is not UTF-8 (byte {error.start}): {printable(raw)}"
            raise ModelFileError(self.disk.path, self.field, start, found) from error

    def value(self) -> Any:
        """One metadata value: its type, then the value. Strings that are not UTF-8 get replacement characters."""
        kind = self.u32("the value's type")
        if kind == STRING:
            return self.raw_string("the value").decode("utf-8", "replace")
        if kind == ARRAY:
            return self._array()
        if kind not in NUMBERS:
            self.refuse(f"value type {kind} is unknown", "0 to 12", self.at - 4)
        number = self.number(NUMBERS[kind][0], "the value")
        if kind == BOOL:
            if number > 1:
                self.refuse(f"a boolean of {number}", "0 or 1", self.at - 1)
            return bool(number)
        return number

    def _array(self) -> Any:
        """An array: the type of its elements, their count, the elements."""
        kind = self.u32("the elements' type")
        if kind == ARRAY:
            self.refuse("an array of arrays", "an array of numbers or strings", self.at - 4)
        if kind != STRING and kind not in NUMBERS:
            self.refuse(f"element type {kind} is unknown", "0 to 12 without 9", self.at - 4)
        count = self.u64("the array's length")
        smallest = 8 if kind == STRING else NUMBERS[kind][0].size
        if count > self.left() // smallest:
            claim = f"the array claims {count:,} elements of {smallest} bytes or more"
            self.refuse(f"{claim}, the file has {self.left():,} bytes left", offset=self.at - 8)
        self.need(count * smallest, "the array")
        return self._strings(count) if kind == STRING else self._numbers(kind, count)

    def _numbers(self, kind: int, count: int) -> np.ndarray:
        """`count` numbers as an array of their own."""
        form, dtype = NUMBERS[kind]
        values = np.frombuffer(self._bytes, dtype, count, self.at).copy()
        if kind == BOOL:
            wrong = np.flatnonzero(values > 1)
            if wrong.size:
                self.refuse(f"a boolean of {values[wrong[0]]}", "0 or 1", self.at + int(wrong[0]))
            values = values.astype(bool)
        self.at += count * form.size
        return values

    def _strings(self, count: int) -> StringArray:
        """`count` strings: walked in C++, again from the start of the array whenever more of the file is needed."""
        while True:
            try:
                starts, lengths, end = _core.scan_strings(self._bytes, self.at, count)
                break
            except ValueError as error:
                index, offset, length = error.args
            if length > self.disk.size - offset - 8:
                left = max(self.disk.size - offset - 8, 0)
                found = f"string {index} of {count:,} claims {length:,} bytes, the file has {left:,} left"
                self.refuse(found, offset=offset)
            self.need(offset + 8 + length - self.at, f"string {index} of {count:,}")
        self.at = end
        array = StringArray(memoryview(b""), starts, lengths)
        self._arrays.append(array)
        return array

    def finish(self) -> None:
        """Hand the header's bytes, cut where the cursor stands, to the string arrays that point into them."""
        data = memoryview(bytes(memoryview(self._bytes)[: self.at])) if self._arrays else memoryview(b"")
        self._bytes = bytearray()
        for array in self._arrays:
            array.data = data
