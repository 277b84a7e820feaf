"""Read safetensors files by the rules of the reference: every byte belongs to exactly one tensor, or it is refused."""

from __future__ import annotations

import os
from math import prod
from typing import Any, NoReturn

import numpy as np

from pyllm.errors import ModelFileError, printable
from pyllm.formats.disk import Disk
from pyllm.formats.json_file import parse_json
from pyllm.formats.rows import read_rows, read_rows_into
from pyllm.formats.types import TensorInfo

HEADER_LIMIT = 100_000_000
MOST_DIMENSIONS = 32
_LARGEST = (1 << 64) - 1

# Bits per number. Types that pyllm does not compute with are known so that the layout can be checked.
BITS = {
    **dict.fromkeys(["F4"], 4),
    **dict.fromkeys(["F6_E2M3", "F6_E3M2"], 6),
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"], 8),
    **dict.fromkeys(["I16", "U16", "F16", "BF16"], 16),
    **dict.fromkeys(["I32", "U32", "F32"], 32),
    **dict.fromkeys(["I64", "U64", "F64", "C64"], 64),
}


class SafeTensors:
    """An open safetensors file: path, metadata (str -> str), tensors (name -> TensorInfo, in the order of the data).

    Only the header has been read. Raises ModelFileError naming file, field, offset, found and allowed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._disk = Disk(path)
        self.path = self._disk.path
        self.size = self._disk.size
        try:
            header = _read_header(self._disk)
            self.data_offset = 8 + len(header)
            values = parse_json(header, self.path, "header", 8)
            self.metadata = _check_metadata(self.path, values.pop("__metadata__", None))
            self.tensors = _lay_out(self._disk, values, self.data_offset)
        except BaseException:
            self._disk.close()
            raise

    def read(self, info: TensorInfo, row: int = 0, rows: int | None = None) -> np.ndarray:
        """The stored bytes of `rows` rows from `row` (all of them by default), (bytes,) uint8, freshly allocated."""
        return read_rows(self._disk, info, row, rows)

    def read_into(self, info: TensorInfo, row: int, rows: int, buffer: Any) -> None:
        """Like read, into a writable buffer of exactly that many bytes."""
        read_rows_into(self._disk, info, row, rows, buffer)

    def read_raw(self, offset: int, buffer: memoryview, field: str = "") -> None:
        """Fill `buffer` with the file's bytes from `offset`, whatever they mean."""
        self._disk.read_into(offset, buffer, field)

    def close(self) -> None:
        """Close the file."""
        self._disk.close()

    def __enter__(self) -> SafeTensors:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read_header(disk: Disk) -> bytes:
    """The JSON text: a 64-bit length, then that many bytes starting with `{`."""

    def refuse(offset: int, found: str, allowed: str = "") -> NoReturn:
        raise ModelFileError(disk.path, "header", offset, found, allowed)

    if disk.size < 8:
        refuse(0, f"truncated: the file has {disk.size} bytes", "8 bytes of header length first")
    length = int.from_bytes(disk.read(0, 8, "header"), "little")
    if length > HEADER_LIMIT:
        refuse(0, f"a header of {length:,} bytes", f"at most {HEADER_LIMIT:,}")
    if length > disk.size - 8:
        refuse(0, f"a header of {length:,} bytes, the file has {disk.size - 8:,} left")
    if length < 2:
        refuse(0, f"a header of {length} bytes", "at least '{}'")
    header = bytes(disk.read(8, length, "header"))
    if header[:1] != b"{":
        refuse(8, f"a header that starts with {printable(header[:1])}", "'{'")
    return header


def _check_metadata(path: str, value: Any) -> dict[str, str]:
    """Free text of the writer: an object of strings."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise ModelFileError(path, "header '__metadata__'", None, "not an object of strings", "text by name")
    return value


def _lay_out(disk: Disk, entries: dict[str, Any], start: int) -> dict[str, TensorInfo]:
    """Check each entry, then that the tensors follow each other from the header to the end of the file."""
    found = [_check_entry(disk.path, name, entry, start) for name, entry in entries.items()]
    found.sort(key=lambda info: (info.offset, info.offset + info.nbytes))
    end, last = start, "the header"
    for info in found:
        if info.offset != end:
            kind = "overlap" if info.offset < end else "leave unused bytes after"
            text = f"its data from 0x{info.offset:x} {kind} {last}, which ends at 0x{end:x}"
            raise ModelFileError(disk.path, _label(info.name), None, text, "tensors that follow each other")
        end, last = info.offset + info.nbytes, _label(info.name)
        if end > disk.size:
            text = f"its data end at 0x{end:x}, the file has {disk.size:,} bytes"
            raise ModelFileError(disk.path, _label(info.name), info.offset, text)
    if end != disk.size:
        text = f"{disk.size - end:,} bytes after the last tensor"
        raise ModelFileError(disk.path, "data", end, text, "every byte belongs to a tensor")
    return {info.name: info for info in found}


def _label(name: str) -> str:
    """A tensor as error messages name it."""
    return f"tensor '{printable(name)}'"


def _check_entry(path: str, name: str, entry: Any, start: int) -> TensorInfo:
    """dtype, shape and data_offsets of one tensor, which must agree with each other."""

    def refuse(found: object, allowed: object) -> NoReturn:
        raise ModelFileError(path, _label(name), None, found, allowed)

    if not isinstance(entry, dict):
        refuse(f"a {type(entry).__name__}", "an object with dtype, shape and data_offsets")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        refuse(f"dtype {printable(repr(dtype), 100)}", f"known are: {', '.join(BITS)}")
    if not _sizes(shape):
        refuse(f"shape {printable(repr(shape), 100)}", f"a list of at most {MOST_DIMENSIONS} whole numbers")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        refuse(f"data_offsets {printable(repr(offsets), 100)}", "[begin, end], begin <= end")
    bits = prod(shape) * BITS[dtype]
    if bits > _LARGEST or bits % 8:
        refuse(f"shape {printable(shape, 100)} x {dtype}, {bits:,} bits", "whole bytes, at most 2^64 bits")
    begin, end = offsets
    if 8 * (end - begin) != bits:
        text = f"shape {printable(shape, 100)} x {dtype} needs {bits // 8:,} bytes, data_offsets have {end - begin:,}"
        refuse(text, "the same number of bytes")
    return TensorInfo(name, tuple(shape), dtype, start + begin, end - begin)


def _sizes(value: Any) -> bool:
    """Is it a list of non-negative 64-bit numbers, not too many?"""
    return (
        isinstance(value, list)
        and len(value) <= MOST_DIMENSIONS
        and all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each <= _LARGEST for each in value)
    )
