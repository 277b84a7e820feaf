"""Which documents were there before: 128-bit hashes in a table on the disk, mapped, so that memory stays bounded."""

from __future__ import annotations

import mmap
import os
import tempfile
from hashlib import blake2b
from types import TracebackType

from pyllm.errors import DataError

_SLOT = 16
_FIRST = 1 << 16  # slots to begin with
_EMPTY = bytes(_SLOT)


def content_hash(text: str) -> bytes:
    """128 bits of BLAKE2b over a document's UTF-8; never all zero, which marks an empty slot."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_SLOT).digest()
    return digest if digest != _EMPTY else b"\1" + digest[1:]


def _reserve(handle: int, size: int) -> None:
    """Zeros that are on the disk: touching a page of a file with holes ends the process once the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        for _ in range(0, size, _FIRST * _SLOT):
            os.write(handle, bytes(min(size, _FIRST * _SLOT)))


class Seen:
    """A set of hashes in an open table, doubled when half full. Its pages lie in a file without a name in `folder`,
    so that the system can write them back and take the memory; a context manager. 32 to 64 bytes of disk a document.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._folder = folder
        self._count = 0
        self._make(_FIRST)

    def _make(self, slots: int) -> None:
        try:
            file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            try:
                _reserve(file.fileno(), slots * _SLOT)
                table = mmap.mmap(file.fileno(), slots * _SLOT)
            except BaseException:
                file.close()
                raise
        except OSError as error:
            found = f"the table of {slots:,} hashes cannot be written: {error.strerror}"
            raise DataError("prepare", "duplicates", None, found) from error
        self._slots, self._file, self._table = slots, file, table

    def __len__(self) -> int:
        return self._count

    def add(self, digest: bytes) -> bool:
        """Note a hash; whether it is new."""
        if 2 * (self._count + 1) > self._slots:
            self._double()
        new = self._place(digest)
        self._count += new
        return new

    def _place(self, digest: bytes) -> bool:
        """Put a hash into the first free slot from its own on, unless it is met before."""
        table, last = self._table, self._slots - 1
        slot = int.from_bytes(digest[:8], "little") & last
        while True:
            found = table[slot * _SLOT : slot * _SLOT + _SLOT]
            if found == digest:
                return False
            if found == _EMPTY:
                table[slot * _SLOT : slot * _SLOT + _SLOT] = digest
                return True
            slot = (slot + 1) & last

    def _double(self) -> None:
        old, file, slots = self._table, self._file, self._slots
        self._make(2 * slots)
        for at in range(0, slots * _SLOT, _SLOT):
            digest = old[at : at + _SLOT]
            if digest != _EMPTY:
                self._place(digest)
        old.close()
        file.close()

    def close(self) -> None:
        """Give the disk back."""
        self._table.close()
        self._file.close()

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
