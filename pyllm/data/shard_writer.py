"""Write shards: tokens and document starts of each split, file after file, and the manifest last."""

from __future__ import annotations

import os
from contextlib import ExitStack
from hashlib import sha256

import numpy as np

from pyllm.data import manifest
from pyllm.errors import DataError, printable
from pyllm.formats.writing import NewFile, Staging

_BUFFER = 1 << 19  # tokens held before they are written


class _Hashed:
    """A new file and the hash of what was written to it."""

    def __init__(self, file: NewFile) -> None:
        self._file = file
        self._sum = sha256()

    def write(self, data: np.ndarray) -> None:
        """Append an array's bytes."""
        self._sum.update(data.view(np.uint8).data)
        self._file.write(data)

    def digest(self) -> str:
        """In hexadecimal."""
        return self._sum.hexdigest()


class SplitWriter:
    """Documents of one split; a new shard begins with the first document after `shard_tokens` tokens."""

    def __init__(self, staging: Staging, split: str, vocabulary: int, shard_tokens: int) -> None:
        self.split, self.tokens, self.documents = split, 0, 0
        self.shards: list[manifest.Shard] = []
        self._staging, self._limit, self._vocabulary = staging, shard_tokens, vocabulary
        self._type = np.dtype(manifest.dtype_for(vocabulary)).newbyteorder("<")
        self._stack = ExitStack()
        self._files: tuple[_Hashed, _Hashed] | None = None
        self._ids: list[np.ndarray] = []
        self._starts: list[int] = []
        self._held = self._in_shard = self._documents_in_shard = 0

    def add(self, ids: np.ndarray) -> None:
        """Append a document of at least one token. Raises DataError for an id beyond the vocabulary."""
        if int(ids.min()) < 0 or int(ids.max()) >= self._vocabulary:
            found = f"gives the ids {int(ids.min())} to {int(ids.max())}"
            raise DataError("prepare", "tokenizer", None, found, f"0 to {self._vocabulary - 1}")
        if self._files is None:
            self._open()
        self._ids.append(ids)
        self._starts.append(self._in_shard)
        self._in_shard += len(ids)
        self._held += len(ids)
        if self._held >= _BUFFER:
            self._flush()
        if self._in_shard >= self._limit:
            self.finish()

    def _open(self) -> None:
        stem = f"{self.split}-{len(self.shards):05d}"
        tokens, starts = (self._stack.enter_context(self._staging.create(stem + end)) for end in (".bin", ".idx"))
        self._files = (_Hashed(tokens), _Hashed(starts))

    def _flush(self) -> None:
        if self._files is not None and self._ids:
            self._files[0].write(np.concatenate(self._ids).astype(self._type))
            self._files[1].write(np.array(self._starts, "<u8"))
        self._documents_in_shard += len(self._starts)
        self._held = 0
        self._ids.clear()
        self._starts.clear()

    def finish(self) -> None:
        """Complete the shard that is open, if one is."""
        if self._files is None:
            return
        self._flush()
        self._stack.close()
        file, (ids, starts) = f"{self.split}-{len(self.shards):05d}.bin", (each.digest() for each in self._files)
        self.shards.append(manifest.Shard(file, self._in_shard, self._documents_in_shard, ids, starts, self.split))
        self.tokens += self._in_shard
        self.documents += self._documents_in_shard
        self._files, self._in_shard, self._documents_in_shard = None, 0, 0

    def abandon(self) -> None:
        """Close what is open after an error."""
        self._stack.close()


def check_output(path: str | os.PathLike[str], overwrite: bool) -> str:
    """The folder to write, links resolved. Raises DataError when something is in the way: only shards are replaced."""
    folder = os.path.realpath(path)
    if not os.path.lexists(folder):
        return folder
    if not os.path.isdir(folder):
        raise DataError(path, "", None, "exists and is no folder", "another name")
    names = sorted(os.listdir(folder))
    if names and not overwrite:
        raise DataError(path, "", None, f"holds {len(names)} files already", "an empty folder, or overwrite")
    mine = (manifest.NAME, manifest.TOKENIZER)
    foreign = [name for name in names if name not in mine and not manifest.FILES.fullmatch(name)]
    if foreign:
        raise DataError(path, f"'{printable(foreign[0])}'", None, "is no file of shards and would be lost", "move it")
    if names and manifest.NAME not in names:
        raise DataError(path, "", None, f"{len(names)} files without a {manifest.NAME}", "an empty folder")
    return folder
