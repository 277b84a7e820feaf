"""Write files so that a name never stands for half of one: complete and on the disk first, renamed last."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from typing import Any, NamedTuple

from pyllm.errors import ModelFileError, printable
from pyllm.formats.types import size_in_bytes

UNFINISHED = ".pyllm-unfinished-"  # what a folder is called until its files have their names, or while it is deleted
REPLACED = ".pyllm-replaced-"  # before the name of a folder that a new one is taking the place of
Report = Callable[[int, int], None]  # told the bytes written so far, and all that there will be


class NewTensor(NamedTuple):
    """A tensor to be written: shape in numpy order, a type of TYPES, and its bytes, made piece by piece when asked."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: Callable[[], Iterator[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes that the pieces have together."""
        return size_in_bytes(self.dtype, self.shape)


def tensor_of(name: str, array: Any) -> NewTensor:
    """A float32 array in memory as a tensor to write."""
    return NewTensor(name, array.shape, "F32", lambda: iter([array.tobytes()]))


class NewFile:
    """A file under a temporary name. Raises ModelFileError, naming the file as it will be called."""

    def __init__(self, path: str, file: FileIO, staging: Staging) -> None:
        self.path = path
        self._file = file
        self._staging = staging
        self.at = 0
        self.digest: Any = None  # a hash of hashlib, told every byte on its way

    def write(self, data: Any) -> None:
        """Append bytes, all of them."""
        view = memoryview(data).cast("B")
        if self.digest is not None:
            self.digest.update(view)
        done = 0
        with _named(self.path, self._staging.needed):
            while done < len(view):
                done += self._file.write(view[done:])
        self.at += len(view)
        self._staging.count(len(view))

    def write_tensor(self, tensor: NewTensor) -> None:
        """Append a tensor's pieces. Raises ModelFileError when they are not as many bytes as its shape says."""
        start = self.at
        for piece in tensor.pieces():
            self.write(piece)
        if self.at - start != tensor.nbytes:
            found = f"{self.at - start:,} bytes"
            allowed = f"{tensor.nbytes:,}: shape {list(tensor.shape)} x {tensor.dtype}"
            raise ModelFileError(self.path, f"tensor '{printable(tensor.name)}'", start, found, allowed)


class Staging:
    """New files of one folder; as a context manager. When it is left without an error all of them are on the disk and
    take their names in the order of creation, replacing older files; after an error none does.

    A process that is killed leaves a folder `.pyllm-unfinished-...` behind and every name as it was. `needed` bytes
    must be free. Raises ModelFileError for whatever the disk refuses.
    """

    def __init__(self, folder: str, needed: int = 0, report: Report = lambda done, total: None) -> None:
        self.folder = folder
        self.target = folder  # where the files will be found
        self.needed = needed
        self._report = report
        self._done = 0
        self._names: list[str] = []
        self._old: list[str] = []

    def __enter__(self) -> Staging:
        with _named(self.target, self.needed):
            free = shutil.disk_usage(self.folder).free
            if free < self.needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.work = unfinished(self.folder)
            os.mkdir(self.work)
        return self

    @contextmanager
    def create(self, name: str) -> Iterator[NewFile]:
        """A new file, on the disk when the context is left."""
        path = os.path.join(self.target, name)
        with _named(path, self.needed):
            file = FileIO(os.path.join(self.work, name), "xb")
        try:
            yield NewFile(path, file, self)
            with _named(path, self.needed):
                os.fsync(file.fileno())
        finally:
            file.close()
        self._names.append(name)

    def remove(self, name: str) -> None:
        """Delete an older file once the new ones have their names."""
        self._old.append(name)

    def count(self, nbytes: int) -> None:
        """Note bytes that have been written."""
        self._done += nbytes
        self._report(self._done, self.needed)

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                with _named(self.target):
                    self._take_names()
        finally:
            shutil.rmtree(self.work, ignore_errors=True)

    def _take_names(self) -> None:
        """Give every file its name."""
        for name in self._names:
            os.replace(os.path.join(self.work, name), os.path.join(self.folder, name))
        for name in self._old:
            os.unlink(os.path.join(self.folder, name))
        _sync(self.folder)


class NewFolder(Staging):
    """New files that are seen all at once, as the folder `name` of `folder`, or not at all; as a context manager.

    An older folder of that name is replaced. A process that is killed leaves folders behind that clear_unfinished()
    removes, or gives back their name. Raises ModelFileError for whatever the disk refuses.
    """

    def __init__(self, folder: str, name: str, needed: int = 0, report: Report = lambda done, total: None) -> None:
        super().__init__(folder, needed, report)
        self.target = os.path.join(folder, name)
        self._aside = os.path.join(folder, REPLACED + name)

    def _take_names(self) -> None:
        """Give the folder its name; one that has it already keeps its content until the new one is on the disk."""
        _sync(self.work)
        replaces = os.path.lexists(self.target)
        if replaces:
            if os.path.lexists(self._aside):
                shutil.rmtree(self._aside)
            os.rename(self.target, self._aside)
        try:
            os.rename(self.work, self.target)
        except BaseException:
            if replaces:
                os.rename(self._aside, self.target)
            raise
        _sync(self.folder)
        if replaces:
            shutil.rmtree(self._aside)


def unfinished(folder: str) -> str:
    """A new name in `folder` for what is not there yet, or no longer."""
    return os.path.join(folder, f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}")


def clear_unfinished(folder: str) -> None:
    """Clean up after writers that were killed; the caller knows that none is alive. Raises ModelFileError."""
    with _named(folder):
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if name.startswith(REPLACED) and not os.path.lexists(wanted := os.path.join(folder, name[len(REPLACED) :])):
                os.rename(path, wanted)
            elif name.startswith((UNFINISHED, REPLACED)):
                shutil.rmtree(path)


def remove_folder(path: str) -> None:
    """Delete a folder, which loses its name first, so that half of it is never found. Raises ModelFileError."""
    with _named(path):
        away = unfinished(os.path.dirname(path) or ".")
        os.rename(path, away)
        shutil.rmtree(away)


def _sync(folder: str) -> None:
    """Have the new names on the disk, where the system lets a folder be opened."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _named(path: str, needed: int = 0) -> Iterator[None]:
    """Turn what the system says into a ModelFileError about `path`."""
    try:
        yield
    except OSError as error:
        allowed = ""
        if error.errno == errno.ENOSPC and needed:
            folder = path
            while not os.path.isdir(folder):
                folder = os.path.dirname(folder) or "."
            free = shutil.disk_usage(folder).free
            allowed = f"{needed:,} bytes are needed, {free:,} are free"
        raise ModelFileError(path, "", None, f"cannot be written: {error.strerror}", allowed) from error


def make_folder(path: str | os.PathLike[str]) -> str:
    """A folder of that name, made where there is none. Raises ModelFileError."""
    folder = os.fspath(path)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ModelFileError(folder, "", None, f"cannot be made a folder: {error.strerror}") from error
    return folder


def check_target(path: str, overwrite: bool) -> str:
    """The folder that a new file will lie in. Raises ModelFileError where it is missing or the file is in the way."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ModelFileError(path, "", None, "cannot be written: its folder does not exist", "create it first")
    if os.path.isdir(path):
        raise ModelFileError(path, "", None, "cannot be written: is a folder", "the name of a file")
    if os.path.lexists(path) and not overwrite:
        raise ModelFileError(path, "", None, "exists already", "another name, or overwrite")
    return folder
