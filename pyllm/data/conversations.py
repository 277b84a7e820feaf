"""Conversations to learn from: tokens with targets where the assistant speaks, in an order by position."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np

from pyllm.data.fingerprint import open_tokenizer
from pyllm.data.packed import IGNORED, Batch
from pyllm.data.readers import json_lines
from pyllm.data.rendering import Rendered, render_record
from pyllm.data.rows import Rows, Store
from pyllm.data.sources import find
from pyllm.errors import DataError, printable

TOO_LONG = ("cut", "drop")
DROPPED = ("bad_record", "too_long", "no_answer")


class Conversations(Rows):
    """Rows of at most `length` ids from records, of which render_record tells the kinds.

    records: a jsonl file (or several, or folders, also packed), or an iterable of mappings. too_long: what becomes of
    a row with more than length + 1 tokens: "cut" keeps its beginning, "drop" leaves it out. A row in which nothing is
    wanted, or nothing after the cut, is left out as "no_answer". report counts: records, kept, cut, dropped by name,
    tokens, targets. All tokens are held, in 5 bytes each.

    Raises DataError that names file and line for a bad record (with skip_bad_records it is counted), and where no row
    is left.
    """

    def __init__(
        self,
        records: str | os.PathLike[str] | Iterable[Any],
        tokenizer: Any,
        length: int,
        seed: int = 0,
        *,
        too_long: str = "cut",
        skip_bad_records: bool = False,
    ) -> None:
        if length < 1 or too_long not in TOO_LONG:
            found = f"length {length}, too_long {too_long!r}"
            raise DataError("conversations", "", None, found, f"at least 1, {' or '.join(TOO_LONG)}")
        self.length = length
        self._dropped: Counter[str] = Counter()
        self._records = self._cut = 0
        store = self._read(records, open_tokenizer(tokenizer), too_long, skip_bad_records)
        super().__init__(store, seed, "conversations")

    def _read(self, records: Any, tokenizer: Any, too_long: str, skip: bool) -> Store:
        ids, wanted, first, keys = array("i"), bytearray(), array("q", [0]), array("Q")
        for where, record in _numbered(records):
            self._records += 1
            try:
                row = render_record(record, tokenizer)
            except ValueError as error:
                if not skip:
                    raise DataError(*where, printable(error, 1000)) from error
                self._dropped["bad_record"] += 1
                continue
            fitted = self._fit(row, too_long)
            if fitted is not None:
                ids.frombytes(fitted.ids.tobytes())
                wanted += fitted.wanted.tobytes()
                first.append(len(ids))
                keys.append(_key(fitted))
        if not keys:
            why = ", ".join(f"{count} {name}" for name, count in self._dropped.items()) or "there are none"
            raise DataError("conversations", "", None, f"no record is left of {self._records}: {why}", "at least one")
        counts = np.frombuffer(first, np.int64), np.frombuffer(keys, np.uint64)
        return Store(np.frombuffer(ids, np.int32), np.frombuffer(wanted, bool), *counts)

    def _fit(self, row: Rendered, too_long: str) -> Rendered | None:
        """The row as it is kept, None (and counted) when it is not."""
        most = self.length + 1
        if len(row.ids) > most and too_long == "drop":
            self._dropped["too_long"] += 1
            return None
        if not row.wanted[1:most].any():
            self._dropped["no_answer"] += 1
            return None
        self._cut += len(row.ids) > most
        return Rendered(row.ids[:most], row.wanted[:most])

    @property
    def report(self) -> dict[str, Any]:
        """What became of the records. tokens and targets are those of the rows here, after held_out too."""
        rows = [slice(self.store.first[row], self.store.first[row + 1]) for row in self.rows]
        return {
            "records": self._records,
            "kept": len(self),
            "cut": self._cut,
            "dropped": {name: self._dropped[name] for name in DROPPED},
            "tokens": int(sum(part.stop - part.start for part in rows)),
            "targets": sum(int(self.store.wanted[part][1:].sum()) for part in rows),
        }

    def row(self, number: int) -> Batch:
        """A row by its place in the input (among those kept)."""
        ids, wanted = self.whole(number)
        targets = np.where(wanted[1:], ids[1:], np.int32(IGNORED))
        return Batch(ids[:-1].copy(), targets, np.array([0, len(targets)], np.int32))


def has_messages(records: Any) -> bool:
    """Whether the first record is {"messages": ...}, for which a chat template is needed. Raises DataError."""
    first = next((record for _, record in _numbered(records)), None)
    return isinstance(first, Mapping) and "messages" in first


def _numbered(records: Any) -> Iterator[tuple[tuple[str, str, int | None], Any]]:
    """((file, line or row, offset), record) of each."""
    if isinstance(records, Mapping):
        raise DataError("conversations", "records", None, "one mapping", "an iterable of them, or a path")
    rows = [records] if isinstance(records, str | os.PathLike) else list(records)
    if rows and all(isinstance(row, str | os.PathLike) for row in rows):
        for source in find(rows):
            if source.kind != "jsonl":
                raise DataError(source.path, "", None, "is no jsonl", "a file ending .jsonl, also packed")
            for line, offset, value in json_lines(source):
                yield (source.path, f"line {line}", offset), value
    else:
        for number, row in enumerate(rows):
            yield ("conversations", f"row {number}", None), row


def _key(row: Rendered) -> int:
    """A hash of a row's content."""
    digest = blake2b(row.ids.tobytes() + row.wanted.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
