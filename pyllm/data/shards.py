"""Shards of tokens, mapped into memory: any range of the stream, any document, without reading the rest."""

from __future__ import annotations

import bisect
import itertools
import mmap
import os
from hashlib import sha256
from typing import Any

import numpy as np

from pyllm.data import manifest
from pyllm.data.fingerprint import check_tokenizer, open_tokenizer
from pyllm.errors import DataError, ModelFileError
from pyllm.formats.disk import Disk

_SLICE = 1 << 20  # bytes hashed, or starts checked, at a time


class _File:
    """One mapped file whose size is what the manifest says, and still is whenever it is read."""

    def __init__(self, folder: str, name: str, count: int, dtype: str, what: str) -> None:
        self.path = os.path.join(folder, name)
        try:
            self._disk = Disk(self.path)
        except ModelFileError as error:
            raise DataError(error.file, what, None, error.found, error.allowed) from error
        self._what, self._bytes, self._open = what, count * np.dtype(dtype).itemsize, True
        self._check(self._disk.size)
        try:
            pages = mmap.mmap(self._disk.fd, self._bytes, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DataError(self.path, what, None, f"cannot be mapped: {error}") from error
        self.items = np.frombuffer(pages, np.dtype(dtype))

    def _check(self, size: int) -> None:
        if size != self._bytes:
            raise DataError(self.path, self._what, min(size, self._bytes), f"{size:,} bytes", f"{self._bytes:,}")

    def __getitem__(self, part: slice) -> np.ndarray:
        """Some items, as a view. Raises DataError when the file has been cut meanwhile: its pages would be gone."""
        if not self._open:
            raise DataError(self.path, self._what, None, "the shards have been closed")
        self._check(os.fstat(self._disk.fd).st_size)
        found: np.ndarray = self.items[part]
        return found

    def verify(self, expected: str) -> None:
        """Raises DataError unless the bytes have this sha256."""
        digest = sha256()
        for at in range(0, self._bytes, _SLICE):
            digest.update(self._disk.read(at, min(_SLICE, self._bytes - at), self._what))
        if digest.hexdigest() != expected:
            raise DataError(self.path, self._what, None, f"sha256 {digest.hexdigest()[:16]}...", f"{expected[:16]}...")

    def close(self) -> None:
        """Let go of the file."""
        self._open = False
        self._disk.close()


class Shards:
    """The tokens of one split of a folder that prepare() wrote, as one stream.

    tokens, documents: how many. vocabulary, eos, fingerprint: of the tokenizer. folder, manifest: where from.
    identity: sha256 of the manifest, by which a run that is taken up again knows its data.
    Opening compares sizes; verify=True also hashes, document starts, and ids. Raises DataError that names the shard,
    and where known its document and byte, for files that are missing, cut, foreign or of another version.
    """

    def __init__(
        self, folder: str | os.PathLike[str], split: str = "train", *, verify: bool = False, tokenizer: Any = None
    ) -> None:
        self.folder, self.split = os.fspath(folder), split
        self.manifest = manifest.read(folder)
        self.vocabulary, self.eos = self.manifest.vocabulary, self.manifest.eos
        self.fingerprint = self.manifest.tokenizer
        self.identity = sha256(self.manifest.written()).hexdigest()
        self._shards = [shard for shard in self.manifest.shards if shard.split == split]
        if not self._shards:
            splits = ", ".join(sorted({shard.split for shard in self.manifest.shards}))
            raise DataError(self.manifest.path, f"split '{split}'", None, "has no tokens", f"there are {splits}")
        if tokenizer is not None:
            check_tokenizer(self.manifest.path, self.fingerprint, open_tokenizer(tokenizer))
        kind = np.dtype(self.manifest.dtype).newbyteorder("<").str
        self._tokens = [_File(self.folder, s.file, s.tokens, kind, f"tokens of {s.file}") for s in self._shards]
        self._starts = [
            _File(self.folder, s.starts_file, s.documents, "<u8", f"document starts of {s.file}") for s in self._shards
        ]
        self._first = [0, *itertools.accumulate(s.tokens for s in self._shards)]
        self._first_document = [0, *itertools.accumulate(s.documents for s in self._shards)]
        self.tokens, self.documents = self._first[-1], self._first_document[-1]
        if verify:
            self.verify()

    def __len__(self) -> int:
        return self.documents

    def __repr__(self) -> str:
        return f"Shards({self.folder!r}, {self.split!r}, {self.documents:,} documents, {self.tokens:,} tokens)"

    def read(self, start: int, count: int) -> np.ndarray:
        """`count` tokens from `start` of the stream, (count,) int32. Raises DataError for an id that is no token."""
        if not 0 <= start <= start + count <= self.tokens:
            raise DataError(self.folder, "tokens", None, f"{start:,} to {start + count:,}", f"0 to {self.tokens:,}")
        out = np.empty(count, np.int32)
        shard, done = bisect.bisect_right(self._first, start) - 1, 0
        while done < count:
            at = start + done - self._first[shard]
            ids = self._tokens[shard][at : at + count - done]
            if len(ids):
                self._check_ids(shard, at, ids)
            out[done : done + len(ids)] = ids
            done += len(ids)
            shard += 1
        return out

    def _check_ids(self, shard: int, at: int, ids: np.ndarray) -> None:
        if int(ids.max()) < self.vocabulary:
            return
        place = at + int(np.argmax(ids >= self.vocabulary))
        file = self._tokens[shard]
        document = int(np.searchsorted(self._starts[shard][:], np.uint64(place), "right"))
        found = f"token id {int(file.items[place]):,}"
        where = f"token {place:,}, document {document:,}"
        raise DataError(file.path, where, place * file.items.itemsize, found, f"0 to {self.vocabulary - 1:,}")

    def starts(self, start: int, stop: int) -> np.ndarray:
        """Positions of the stream in [start, stop) at which a document begins, int64, in order."""
        found = []
        for shard in range(max(0, bisect.bisect_right(self._first, start) - 1), len(self._shards)):
            first = self._first[shard]
            if first >= stop:
                break
            all_starts = self._starts[shard][:]
            low, high = np.searchsorted(all_starts, np.array([max(start - first, 0), stop - first], np.uint64))
            some = all_starts[low:high].astype(np.int64)
            self._check_starts(shard, int(low), some)
            found.append(some + first)
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _check_starts(self, shard: int, low: int, starts: np.ndarray) -> None:
        """Raises DataError unless they ascend inside the shard."""
        last = -1 if low == 0 else int(self._starts[shard].items[low - 1])
        steps = np.diff(starts, prepend=last)
        wrong = (steps <= 0) | (starts >= self._shards[shard].tokens)
        if low == 0 and len(starts) and starts[0] != 0:
            wrong[0] = True
        if wrong.any():
            at = int(np.argmax(wrong))
            allowed = f"ascending from 0, below {self._shards[shard].tokens:,}"
            place = f"start of document {low + at + 1:,}"
            raise DataError(self._starts[shard].path, place, 8 * (low + at), f"{int(starts[at]):,}", allowed)

    def document(self, number: int) -> np.ndarray:
        """The tokens of a document, (n,) int32, the end-of-text token included; `number` from 0."""
        first, last = self.extent(number)
        return self.read(first, last - first)

    def extent(self, number: int) -> tuple[int, int]:
        """Where in the stream a document begins and ends; `number` from 0."""
        if not 0 <= number < self.documents:
            raise DataError(self.folder, "document", None, f"{number:,}", f"0 to {self.documents - 1:,}")
        shard = bisect.bisect_right(self._first_document, number) - 1
        inside = number - self._first_document[shard]
        ends = self._starts[shard][inside : inside + 2].astype(np.int64)
        self._check_starts(shard, inside, ends)
        stop = int(ends[1]) if len(ends) > 1 else self._shards[shard].tokens
        return self._first[shard] + int(ends[0]), self._first[shard] + stop

    def number_at(self, place: int) -> int:
        """The number of the document that a place of the stream lies in."""
        if not 0 <= place < self.tokens:
            raise DataError(self.folder, "tokens", None, f"{place:,}", f"0 to {self.tokens - 1:,}")
        shard = bisect.bisect_right(self._first, place) - 1
        inside = np.searchsorted(self._starts[shard][:], np.uint64(place - self._first[shard]), "right")
        return self._first_document[shard] + int(inside) - 1

    def verify(self) -> None:
        """Read everything: hashes, document starts, ids. Raises DataError."""
        for shard, facts in enumerate(self._shards):
            self._tokens[shard].verify(facts.sha256)
            self._starts[shard].verify(facts.starts_sha256)
            for low in range(0, facts.documents, _SLICE):
                self._check_starts(shard, low, self._starts[shard][low : low + _SLICE].astype(np.int64))
            for at in range(0, facts.tokens, _SLICE):
                self._check_ids(shard, at, self._tokens[shard][at : at + _SLICE])

    def close(self) -> None:
        """Let go of the files."""
        for file in [*self._tokens, *self._starts]:
            file.close()

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
