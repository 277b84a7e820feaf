"""Checkpoints that survive kills, full disks and flipped bits: written beside, read back, and only then given a name.

A checkpoint is a folder `checkpoint-00001000` with the tensors as safetensors and `manifest.json`: format, version,
step, facts, the size and SHA-256 of each file, and last the SHA-256 of the manifest's own text before it. (With the
processor's instructions for it SHA-256 runs at 1.4 GB/s, twice as fast as BLAKE2b.)
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import operator
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from pyllm.errors import CheckpointError, LaterVersionError, ModelFileError, printable
from pyllm.formats.disk import Disk
from pyllm.formats.json_file import parse_json
from pyllm.formats.safetensors import SafeTensors
from pyllm.formats.safetensors_writer import write_safetensors
from pyllm.formats.types import TensorInfo
from pyllm.formats.writing import NewFolder, NewTensor, clear_unfinished, make_folder, remove_folder
from pyllm.train.lock import RunLock

FORMAT, VERSION = "pyllm checkpoint", 1
TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"
LARGEST_MANIFEST = 64 << 20
# What facts mean that checkpoints of older versions do not name.
LATER = {"config.bias": True, "settings.problem_type": "single_label_classification"}
SLICE = 4 << 20  # bytes hashed and then written or after they were read: while they are in the cache

_NAME = re.compile(r"checkpoint-(\d{8,})")
_HASH = b'  "sha256": "'  # begins the manifest's last line but one
_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BOOL": "|b1", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1"},
}
_CODES = {np.dtype(code): name for name, code in _DTYPES.items()}
Found = tuple[int, dict[str, np.ndarray], dict[str, Any]]

log = logging.getLogger("pyllm.train")


class Checkpoints:
    """The checkpoints of a run folder, of which this process holds the lock until close(); as a context manager.

    `keep` newest stay. `refused` (step -> error) are those that newest() has found damaged. What killed writers left
    is removed. Raises CheckpointError naming file and reason; where a save fails, older checkpoints are as before.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"Checkpoints: keep={keep}; at least 1")
        self.keep = keep
        self.refused: dict[int, CheckpointError] = {}
        with _typed():
            self.folder = make_folder(folder)
        self._lock = RunLock(self.folder)
        try:
            with _typed():
                clear_unfinished(self.folder)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the folder."""
        self._lock.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, sound or not, ascending."""
        try:
            names = os.listdir(self.folder)
        except OSError as error:
            raise CheckpointError(self.folder, "", None, f"cannot be read: {error.strerror}") from error
        return sorted(int(match.group(1)) for match in map(_NAME.fullmatch, names) if match)

    def newest(self) -> Found | None:
        """(step, tensors, facts) of the newest checkpoint that verifies; a warning names each that was passed over.

        None where none verifies; steps() tells whether there was any. Raises LaterVersionError for a sound one that a
        later pyllm has written: going on from an older one would throw work away.
        """
        for step in reversed(self.steps()):
            try:
                found = read_checkpoint(self._path(step))
            except LaterVersionError:
                raise
            except CheckpointError as error:
                self.refused[step] = error
                log.warning("%s; this checkpoint is passed over", error)
            else:
                self.refused.pop(step, None)
                return found
        return None

    def save(self, step: int, tensors: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Write a checkpoint, read it back from the disk and compare every hash; then it gets its name.

        One of the same step is replaced. Only after that the older ones beyond `keep` are deleted, and the refused
        ones. A step before one that is there and not refused is an error: a run that began anew would lose its past.
        Raises CheckpointError; TypeError or ValueError for tensors and facts that cannot be stored.
        """
        step = operator.index(step)
        if step < 0:
            raise ValueError(f"save: step {step}; at least 0")
        path = self._path(step)
        if not self._lock.held:
            raise CheckpointError(path, "", None, "cannot be saved: the folder has been released", "before close()")
        later = [each for each in self.steps() if each > step and each not in self.refused]
        if later:
            found = f"cannot be saved: there is {os.path.basename(self._path(later[-1]))} already"
            raise CheckpointError(path, "", None, found, "a later step, or another folder")
        entries = [_entry(name, array) for name, array in tensors.items()]
        with _typed():
            _write(self.folder, os.path.basename(path), step, entries, plain(facts, "facts"))
            self.refused.pop(step, None)
            sound = [each for each in self.steps() if each not in self.refused]
            for each in self.steps():
                if each not in sound[-self.keep :]:
                    remove_folder(self._path(each))
                    self.refused.pop(each, None)

    def _path(self, step: int) -> str:
        return os.path.join(self.folder, f"checkpoint-{step:08d}")


def read_checkpoint(path: str | os.PathLike[str]) -> Found:
    """(step, tensors, facts) of one checkpoint folder, every byte verified. Needs no lock. Raises CheckpointError."""
    with _typed():
        path = os.fspath(path)
        manifest = _read_manifest(path)
        tensors = _read_tensors(os.path.join(path, TENSORS), manifest["files"][TENSORS])
        return manifest["step"], tensors, manifest["facts"]


def check_facts(
    saved: dict[str, Any], current: dict[str, Any], parts: Sequence[str] = ("config", "data", "tokenizer")
) -> None:
    """Refuse to go on with another config, data or tokenizer. Raises CheckpointError naming each field that differs."""
    wrong = [text for part in parts for text in _differences(part, saved.get(part), plain(current.get(part), part))]
    if wrong:
        shown = "; ".join(wrong[:20]) + (f"; and {len(wrong) - 20} more" if len(wrong) > 20 else "")
        raise CheckpointError(MANIFEST, "facts", None, shown, "the same as in the checkpoint, or a run of its own")


def _differences(where: str, saved: Any, current: Any) -> Iterator[str]:
    """What differs, field by field."""
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in [*saved, *(key for key in current if key not in saved)]:
            name = f"{where}.{key}"
            yield from _differences(name, saved.get(key, LATER.get(name)), current.get(key))
    elif saved != current:
        found, allowed = (printable(json.dumps(value), 80) for value in (current, saved))
        yield f"{where} is {found}, allowed is {allowed}"


@contextmanager
def _typed() -> Iterator[None]:
    """What the rooms below say about files, as the error of a checkpoint."""
    try:
        yield
    except CheckpointError:
        raise
    except ModelFileError as error:
        raise CheckpointError(error.file, error.field, error.offset, error.found, error.allowed) from error


def plain(value: Any, where: str) -> Any:
    """The value as JSON gives it back. Raises TypeError or ValueError naming the field that JSON cannot hold."""
    if isinstance(value, dict):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None:
            raise TypeError(f"{where}: the key {wrong!r} is of type {type(wrong).__name__}; text is allowed")
        return {key: plain(each, f"{where}.{key}") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, f"{where}[{i}]") for i, each in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: {value!r}; a finite number is allowed")
        return float(value)
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"{where}: is of type {type(value).__name__}; dict, list, str, int, float, bool, None are allowed")


def _entry(name: str, array: np.ndarray) -> NewTensor:
    """How a tensor will be written."""
    if not isinstance(array, np.ndarray) or array.dtype not in _CODES:
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"save: tensor '{name}' is {kind}; arrays of {', '.join(map(str, _CODES))} are allowed")
    if not isinstance(name, str) or name == "__metadata__":
        raise ValueError(f"save: {name!r}; any other text can name a tensor")
    return NewTensor(name, array.shape, _CODES[array.dtype], lambda: _slices(array))


def _slices(array: np.ndarray) -> Iterator[Any]:
    """The bytes of an array in C order, never all of them copied."""
    if array.flags.c_contiguous:
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, SLICE):
            yield flat[start : start + SLICE].data
        return
    count = SLICE // array.itemsize
    for piece in np.nditer(array, ["external_loop", "buffered", "zerosize_ok"], order="C", buffersize=count):
        yield np.ascontiguousarray(piece).data


def _write(folder: str, name: str, step: int, entries: list[NewTensor], facts: Any) -> None:
    """A checkpoint under its name; what is found when it is read back must be what was meant."""
    needed = sum(each.nbytes for each in entries)
    with NewFolder(folder, name, needed) as staging:
        with staging.create(TENSORS) as file:
            file.digest = hashlib.sha256()
            write_safetensors(file, entries)
            entry = {"bytes": file.at, "sha256": file.digest.hexdigest()}
        content = {"format": FORMAT, "version": VERSION, "step": step, "facts": facts, "files": {TENSORS: entry}}
        with staging.create(MANIFEST) as file:
            file.write(_sealed(content))
        found = _read_manifest(staging.work, staging.target)
        if found != content:
            raise CheckpointError(os.path.join(staging.target, MANIFEST), "", None, "reads back as something else")
        _check_hash(os.path.join(staging.work, TENSORS), os.path.join(staging.target, TENSORS), entry)


def _sealed(content: dict[str, Any]) -> bytes:
    """The manifest's text, which ends with the hash of what stands before it."""
    text = (json.dumps(content, indent=2, allow_nan=False)[:-2] + ",\n").encode()
    return text + _HASH + hashlib.sha256(text).hexdigest().encode() + b'"\n}\n'


def _read_manifest(path: str, called: str = "") -> dict[str, Any]:
    """The manifest of a checkpoint folder, which errors name `called`. Raises ModelFileError."""
    name = os.path.join(called or path, MANIFEST)
    with _open_as(os.path.join(path, MANIFEST), name) as disk:
        if disk.size > LARGEST_MANIFEST:
            raise CheckpointError(name, "", None, f"{disk.size:,} bytes", f"at most {LARGEST_MANIFEST:,}")
        data = bytes(disk.read(0, disk.size))
    text, _, end = data.rpartition(_HASH)
    if end != hashlib.sha256(text).hexdigest().encode() + b'"\n}\n':
        raise CheckpointError(name, "sha256", None, "does not fit the text before it", "the manifest as it was written")
    content: Any = parse_json(data, name)
    del content["sha256"]
    version = content.get("version")
    if content.get("format") != FORMAT or not isinstance(version, int) or version < 1:
        raise CheckpointError(name, "format", None, printable(content.get("format")), f"'{FORMAT}' with a version")
    if version > VERSION:
        raise LaterVersionError(name, "version", None, version, f"at most {VERSION}: a later pyllm has written it")
    step: Any = content.get("step")
    if not isinstance(step, int) or os.path.basename(called or path) != f"checkpoint-{step:08d}":
        raise CheckpointError(name, "step", None, printable(step), "the step that the folder is named after")
    files = content.get("files")
    entry = files.get(TENSORS) if isinstance(files, dict) else None
    sound = isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)
    if not sound or not isinstance(content.get("facts"), dict):
        raise CheckpointError(name, "", None, "without facts, or bytes and sha256 of its file", "all of them")
    return content


@contextmanager
def _open_as(path: str, name: str) -> Iterator[Disk]:
    """An open file that errors call `name`."""
    disk = Disk(path)
    disk.path = name
    try:
        yield disk
    finally:
        disk.close()


def _check_size(name: str, size: int, entry: dict[str, Any]) -> None:
    """Is the file as long as the manifest says?"""
    if size != entry["bytes"]:
        raise CheckpointError(name, "", None, f"has {size:,} bytes", f"{entry['bytes']:,} were written")


def _check_digest(name: str, digest: Any, entry: dict[str, Any]) -> None:
    """Are its bytes those that were written?"""
    if digest.hexdigest() != entry["sha256"]:
        raise CheckpointError(name, "sha256", None, digest.hexdigest(), f"{entry['sha256']} was written")


def _check_hash(path: str, name: str, entry: dict[str, Any]) -> None:
    """Read a file, from the disk where the system can be told to forget it, and compare size and hash."""
    with _open_as(path, name) as disk:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(disk.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        _check_size(name, disk.size, entry)
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(SLICE, disk.size)))
        for start in range(0, disk.size, SLICE):
            piece = buffer[: disk.size - start]
            disk.read_into(start, piece)
            digest.update(piece)
        _check_digest(name, digest, entry)


def _read_tensors(path: str, entry: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every tensor, freshly allocated; the bytes are hashed as they arrive."""
    with SafeTensors(path) as file:
        _check_size(path, file.size, entry)
        digest = hashlib.sha256()
        header = memoryview(bytearray(file.data_offset))
        file.read_raw(0, header)
        digest.update(header)
        tensors = {name: _read_tensor(file, info, digest) for name, info in file.tensors.items()}
    _check_digest(path, digest, entry)
    return tensors


def _read_tensor(file: SafeTensors, info: TensorInfo, digest: Any) -> np.ndarray:
    """One tensor; the digest is told its bytes."""
    field = f"tensor '{printable(info.name)}'"
    if info.dtype not in _DTYPES:
        raise CheckpointError(file.path, field, None, info.dtype, f"one of {', '.join(_DTYPES)}")
    array = np.empty(info.shape, _DTYPES[info.dtype])
    raw = array.reshape(-1).view(np.uint8)
    for start in range(0, raw.size, SLICE):
        piece = raw[start : start + SLICE].data
        file.read_raw(info.offset + start, piece, field)
        digest.update(piece)
    return array
