"""Text files as pieces of UTF-8: plain, gzip or xz, streamed; what is no UTF-8 is replaced."""

from __future__ import annotations

import codecs
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader, RawIOBase
from typing import Any

from pyllm.errors import ModelFileError
from pyllm.formats.disk import Disk

PIECE = 1 << 20  # bytes given at once, about
LARGEST_DICTIONARY = 256 << 20  # bytes that an xz file may have its reader hold


class _Raw(RawIOBase):
    """A Disk as a stream, which tells how far it has been read."""

    def __init__(self, disk: Disk, told: Callable[[int], None]) -> None:
        self.disk, self.told, self.at = disk, told, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: Any) -> int:
        """The next bytes, as many as there are."""
        view = memoryview(buffer).cast("B")
        count = min(len(view), self.disk.size - self.at)
        self.disk.read_into(self.at, view[:count])
        self.at += count
        self.told(count)
        return count


def sizes(paths: Iterable[str | os.PathLike[str]]) -> int:
    """Bytes of the files together, as they lie on the disk. Raises ModelFileError for what cannot be read."""
    total = 0
    for path in paths:
        disk = Disk(path)
        total += disk.size
        disk.close()
    return total


def read_text(path: str | os.PathLike[str], told: Callable[[int], None] = lambda count: None) -> Iterator[bytes]:
    """The text of a file in pieces of whole characters; gzip and xz are known by their first bytes.

    told(count) hears of bytes of the file as they are read. Raises ModelFileError for what cannot be read or unpacked.
    """
    disk = Disk(path)
    try:
        stream = _unpacked(disk, told)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while True:
            try:
                data = stream.read(PIECE)
            except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
                reason = str(error) or "the data ends early"
                raise ModelFileError(disk.path, "", None, f"cannot be unpacked: {reason}") from error
            text = decoder.decode(data, not data)
            if text:
                yield text.encode()
            if not data:
                return
    finally:
        disk.close()


def _unpacked(disk: Disk, told: Callable[[int], None]) -> Any:
    """The file's stream of bytes."""
    head = bytes(disk.read(0, min(6, disk.size)))
    raw: Any = BufferedReader(_Raw(disk, told), PIECE)
    if head[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=raw)
    return _Xz(raw) if head == b"\xfd7zXZ\0" else raw


class _Xz:
    """xz streams one after another, with a limit on the memory that they ask for."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.new()
        self.rest = b""

    def new(self) -> None:
        """Begin a stream."""
        self.decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, LARGEST_DICTIONARY)

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        while True:
            if self.decompressor.eof:
                self.rest = self.decompressor.unused_data.lstrip(b"\0") or self.raw.read(PIECE).lstrip(b"\0")
                if not self.rest:
                    return b""
                self.new()
            elif self.decompressor.needs_input:
                self.rest = self.raw.read(PIECE)
                if not self.rest:
                    raise EOFError("the file ends before its end mark")
            data = self.decompressor.decompress(self.rest, size)
            self.rest = b""
            if data:
                return data
