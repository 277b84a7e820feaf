"""Read GGUF files, versions 2 and 3: metadata, where each tensor lies, and the bytes of its rows."""

from __future__ import annotations

import logging
import os
from math import prod
from typing import Any

import numpy as np

from pyllm.errors import ModelFileError, printable
from pyllm.formats.disk import Disk
from pyllm.formats.gguf_header import INT32, UINT32, Header
from pyllm.formats.rows import read_rows, read_rows_into
from pyllm.formats.strings import StringArray
from pyllm.formats.types import TYPES_BY_ID, TensorInfo, size_in_bytes

__all__ = ["GGUF", "StringArray", "TensorInfo"]

log = logging.getLogger("pyllm.formats")

MAGIC = b"GGUF"
LARGEST_ALIGNMENT = 1 << 20
LARGEST_COUNT = 100_000  # of metadata entries and of tensors; the largest published files have some 20,000 tensors
MOST_DIMENSIONS = 4
LARGEST_SIZE = (1 << 63) - 1

# Smallest entry: an empty-but-one name (8 + 1), then type and one byte; or dimensions, one dimension, type, offset.
SMALLEST_METADATA = 8 + 1 + 4 + 1
SMALLEST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8

_OTHER_MAGICS = {
    b"FUGG": "the magic number is byte-swapped: a big-endian GGUF file",
    b"lmgg": "a GGML file from before GGUF",
    b"fmgg": "a GGML file from before GGUF",
    b"tjgg": "a GGML file from before GGUF",
    b"algg": "a GGML adapter from before GGUF",
    b"PK\x03\x04": "a zip archive, perhaps a PyTorch checkpoint",
    b"\x89HDF": "an HDF5 file",
    b"vers": "a Git LFS pointer, not the file itself",
}


class GGUF:
    """An open GGUF file: path, version, metadata (key -> value), tensors (name -> TensorInfo), alignment.

    key_offsets tells where in the file each key stands. Numeric arrays in the metadata are numpy arrays, string arrays
    are StringArray. Only the header has been read. Raises ModelFileError naming file, field, offset, found, allowed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._disk = Disk(path)
        self.path = self._disk.path
        try:
            header = Header(self._disk)
            self.version = _check_start(header)
            self.metadata, self.key_offsets, self.alignment, tensor_count = _read_metadata(header)
            self._metadata_end = header.at
            entries = _read_tensor_entries(header, tensor_count, self.alignment)
            self.data_offset = _round_up(header.at, self.alignment)
            header.finish()
            self.tensors = _lay_out(self._disk, entries, self.data_offset, self.alignment)
        except BaseException:
            self._disk.close()
            raise

    def read(self, info: TensorInfo, row: int = 0, rows: int | None = None) -> np.ndarray:
        """The stored bytes of `rows` rows from `row` (all of them by default), (bytes,) uint8, freshly allocated."""
        return read_rows(self._disk, info, row, rows)

    def read_into(self, info: TensorInfo, row: int, rows: int, buffer: Any) -> None:
        """Like read, into a writable buffer of exactly that many bytes."""
        read_rows_into(self._disk, info, row, rows, buffer)

    def stored_metadata(self) -> dict[str, bytes]:
        """Key -> type and value as they stand in the file, so that a copy keeps every type."""
        places = [*self.key_offsets.values(), self._metadata_end]
        found = {}
        for (key, start), end in zip(self.key_offsets.items(), places[1:], strict=True):
            value = start + 8 + len(key.encode())
            found[key] = bytes(self._disk.read(value, end - value, f"metadata '{printable(key)}'"))
        return found

    def close(self) -> None:
        """Close the file. Metadata stay usable, read() does not."""
        self._disk.close()

    def __enter__(self) -> GGUF:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _round_up(value: int, step: int) -> int:
    """The smallest multiple of step that is not below value."""
    return -(-value // step) * step


def _check_start(header: Header) -> int:
    """Magic number and version, 2 or 3."""
    header.field = "magic number"
    header.need(4, "the magic number")
    magic = bytes(header.peek(4))
    if magic != MAGIC:
        known = _OTHER_MAGICS.get(magic)
        header.refuse(f"{magic!r}" + (f": {known}" if known else ""), "b'GGUF'")
    header.at += 4
    header.field = "version"
    version = header.u32("the version")
    if version not in (2, 3):
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        if 0 < swapped < 65_536:
            header.refuse(f"version {swapped} byte-swapped: a big-endian file", "little-endian, version 2 or 3", 4)
        header.refuse(f"GGUF version {version}", "version 2 or 3", 4)
    return version


def _count(header: Header, what: str, smallest: int) -> int:
    """How many entries of at least `smallest` bytes follow: no more than the file has room for."""
    header.field = f"{what} count"
    count = header.u64(header.field)
    most = min(header.left() // smallest, LARGEST_COUNT)
    if count > most:
        allowed = f"at most {most:,} ({header.left():,} bytes left, {smallest} or more each)"
        header.refuse(f"{count:,}", allowed, header.at - 8)
    return count


def _read_metadata(header: Header) -> tuple[dict[str, Any], dict[str, int], int, int]:
    """(metadata, where each key stands, alignment, number of tensors)."""
    header.field = "counts"
    header.need(16, "the counts of tensors and metadata")
    tensor_count = _count(header, "tensor", SMALLEST_TENSOR)
    count = _count(header, "metadata", SMALLEST_METADATA)
    metadata: dict[str, Any] = {}
    offsets: dict[str, int] = {}
    alignment = 32
    for index in range(count):
        start = header.at
        header.field = f"metadata key {index}"
        key = header.name("the key")
        header.field = f"metadata '{printable(key)}'"
        if key in offsets:
            header.refuse(f"the key stands twice, first at 0x{offsets[key]:x}", "each key once", start)
        offsets[key] = start
        metadata[key] = header.value()
        if key == "general.alignment":
            alignment = _check_alignment(header, metadata[key], start + 8 + len(key))
    return metadata, offsets, alignment, tensor_count


def _check_alignment(header: Header, value: Any, offset: int) -> int:
    """A power of two up to LARGEST_ALIGNMENT, stored as a 32-bit integer."""
    kind = int.from_bytes(header.between(offset, offset + 4), "little")
    if kind not in (UINT32, INT32):
        header.refuse(f"value type {kind}", "a 32-bit integer (type 4)", offset)
    if not 0 < value <= LARGEST_ALIGNMENT or value & (value - 1):
        header.refuse(f"{value}", f"a power of two up to {LARGEST_ALIGNMENT:,}", offset + 4)
    return value


# One tensor's entry: (offset of the entry in the header, name, shape, dtype, offset within the data).
Entry = tuple[int, str, tuple[int, ...], str, int]


def _read_tensor_entries(header: Header, count: int, alignment: int) -> list[Entry]:
    """The table of tensors, each entry checked by itself."""
    entries: list[Entry] = []
    first: dict[str, int] = {}
    for index in range(count):
        start = header.at
        header.field = f"tensor {index}"
        name = header.name("the name")
        header.field = f"tensor '{printable(name)}'"
        if name in first:
            header.refuse(f"the name stands twice, first at 0x{first[name]:x}", "each name once", start)
        first[name] = start
        shape = _read_shape(header)
        dtype = _read_type(header, shape)
        offset = header.u64("the offset")
        if offset % alignment:
            header.refuse(f"data offset {offset:,}", f"a multiple of the alignment {alignment}", header.at - 8)
        entries.append((start, name, shape, dtype, offset))
    return entries


def _read_shape(header: Header) -> tuple[int, ...]:
    """Dimensions, in numpy order; the file has them innermost first."""
    dimensions = header.u32("the number of dimensions")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        header.refuse(f"{dimensions:,} dimensions", f"1 to {MOST_DIMENSIONS}", header.at - 4)
    at = header.at
    sizes = [header.u64("a dimension") for _ in range(dimensions)]
    for position, size in enumerate(sizes):
        if not 0 < size <= LARGEST_SIZE:
            header.refuse(f"dimension {position} is {size:,}", f"1 to {LARGEST_SIZE:,}", at + 8 * position)
    if prod(sizes) > LARGEST_SIZE:
        header.refuse(f"dimensions {sizes} hold {prod(sizes):,} numbers", f"at most {LARGEST_SIZE:,}", at)
    return tuple(reversed(sizes))


def _read_type(header: Header, shape: tuple[int, ...]) -> str:
    """The name of the storage type, whose blocks must divide the rows."""
    number = header.u32("the type")
    kind = TYPES_BY_ID.get(number)
    if kind is None:
        known = ", ".join(f"{each.id} {each.name}" for each in TYPES_BY_ID.values())
        header.refuse(f"storage type {number:,} is unknown", f"known are {known}", header.at - 4)
    if shape[-1] % kind.block:
        allowed = f"a multiple of {kind.block}, the block of {kind.name}"
        header.refuse(f"rows of {shape[-1]:,} numbers", allowed, header.at - 4)
    return kind.name


def _lay_out(disk: Disk, entries: list[Entry], data_offset: int, alignment: int) -> dict[str, TensorInfo]:
    """Absolute places, in the file's order of entries: inside the file, without overlap; holes are logged."""
    tensors: dict[str, TensorInfo] = {}
    for start, name, shape, dtype, offset in entries:
        nbytes = size_in_bytes(dtype, shape)
        info = TensorInfo(name, shape, dtype, data_offset + offset, nbytes)
        if info.offset + nbytes > disk.size:
            left = max(disk.size - info.offset, 0)
            found = f"shape {list(shape)} x {dtype} needs {nbytes:,} bytes; file has {left:,} after 0x{info.offset:x}"
            raise ModelFileError(disk.path, f"tensor '{printable(name)}'", start, found)
        tensors[name] = info
    starts = {entry[1]: entry[0] for entry in entries}
    end, last = data_offset, ""
    for info in sorted(tensors.values(), key=lambda each: each.offset):
        if info.offset < end:
            found = f"its data from 0x{info.offset:x} overlap those of '{printable(last)}', which end at 0x{end:x}"
            raise ModelFileError(disk.path, f"tensor '{printable(info.name)}'", starts[info.name], found)
        _note_hole(disk, _round_up(end, alignment), info.offset, f"before '{printable(info.name)}'")
        end, last = info.offset + info.nbytes, info.name
    _note_hole(disk, _round_up(end, alignment), disk.size, "after the last tensor")
    return tensors


def _note_hole(disk: Disk, start: int, end: int, where: str) -> None:
    """Log bytes that belong to no tensor: harmless to read, but no writer leaves them."""
    if end > start:
        name = printable(os.path.basename(disk.path))
        log.warning("%s: %s unused bytes at 0x%x %s", name, f"{end - start:,}", start, where)
