"""Read byte ranges of one regular file: short reads continued, truncation and device files told apart."""

from __future__ import annotations

import os
import stat
import threading
import weakref

from pyllm.errors import ModelFileError

# pread asks for at most this much at once: below every system's limit, large enough that calls do not count.
LARGEST_READ = 1 << 30

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISSOCK, "a socket"),
)


class Disk:
    """An open regular file of known `size`. Raises ModelFileError for anything else and for every failed read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        # Without O_NONBLOCK, opening a named pipe waits for a writer that may never come.
        flags = os.O_RDONLY
        for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY", "O_NOCTTY"):
            flags |= getattr(os, name, 0)
        try:
            self.fd = os.open(self.path, flags)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ModelFileError(self.path, "", None, f"cannot be opened: {reason}") from error
        # Closes the file when the object goes away without close(); calling it twice is harmless.
        self._closer = weakref.finalize(self, os.close, self.fd)
        self._lock = threading.Lock()
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            kind = next((name for test, name in _KINDS if test(status.st_mode)), "no regular file")
            raise ModelFileError(self.path, "", None, f"is {kind}", "a regular file is wanted")
        self.size = status.st_size

    def close(self) -> None:
        """Close the file; reads after it raise ModelFileError."""
        self._closer()

    def read_into(self, offset: int, buffer: memoryview, field: str = "") -> None:
        """Fill `buffer` (bytes) from `offset`. Raises ModelFileError when the file ends or fails before it is full."""
        if not self._closer.alive:
            raise ModelFileError(self.path, field, offset, "the file has been closed")
        done = 0
        while done < len(buffer):
            try:
                count = self._read_some(offset + done, buffer[done : done + LARGEST_READ])
            except OSError as error:
                found = f"reading failed: {error.strerror} (errno {error.errno})"
                raise ModelFileError(self.path, field, offset + done, found) from error
            if count == 0:
                found = f"the file ends {len(buffer) - done:,} bytes early (it had {self.size:,} when opened)"
                raise ModelFileError(self.path, field, offset + done, found)
            done += count

    def _read_some(self, offset: int, buffer: memoryview) -> int:
        """Read at `offset` without moving a shared position, where the system can; under a lock where it cannot."""
        if hasattr(os, "preadv"):
            return os.preadv(self.fd, [buffer], offset)
        with self._lock:
            os.lseek(self.fd, offset, os.SEEK_SET)
            piece = os.read(self.fd, len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def read(self, offset: int, count: int, field: str = "") -> bytearray:
        """The `count` bytes from `offset`; the caller has checked that the file is that long."""
        data = bytearray(count)
        self.read_into(offset, memoryview(data), field)
        return data
