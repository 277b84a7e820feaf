"""One process per run folder: a lock that its holder's death releases."""

from __future__ import annotations

import os
import sys
import weakref

from pyllm.errors import CheckpointError

LOCK = "lock"
_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


class RunLock:
    """The lock of a run folder, held until close(). The file stays; what counts is the system's lock on it.

    Raises CheckpointError that names the process which holds it, or why there can be no such file.
    """

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, LOCK)
        self._file = -1
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            if not _lock(self._file):
                holder = os.read(self._file, 20).decode("ascii", "replace").strip() or "that is just starting"
                allowed = "one process per run folder; wait for it, or take another folder"
                raise CheckpointError(self.path, "", None, f"the folder is in use by process {holder}", allowed)
            _held.add(self)
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, f"{os.getpid()}\n".encode())
        except OSError as error:
            self.close()
            raise CheckpointError(self.path, "", None, f"cannot be locked: {error.strerror}") from error
        except CheckpointError:
            self.close()
            raise

    @property
    def held(self) -> bool:
        """Does this process hold the lock?"""
        return self._file >= 0

    def close(self) -> None:
        """Release the lock; calling it twice is harmless."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def _lock(file: int) -> bool:
    """Take the lock unless somebody has it. Raises OSError."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, 1 << 30, os.SEEK_SET)  # a byte that is not there: a locked one could not be read
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _forget() -> None:
    """A forked child would keep the lock when its parent has died; it gives up its share, the parent's stays."""
    for lock in list(_held):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
