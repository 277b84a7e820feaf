"""Pairs of texts to learn from: a source, and the target that belongs to it, in an order by position."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from pyllm.data.fingerprint import as_array, open_tokenizer
from pyllm.data.packed import IGNORED, Batch
from pyllm.data.readers import json_lines, lines
from pyllm.data.rows import Rows, Store
from pyllm.data.sources import Source, find
from pyllm.errors import DataError, printable

SIDES = (("source", "target"), ("prompt", "completion"))  # as jsonl names them


class Pair(NamedTuple):
    """Two texts."""

    source: str
    target: str


class Pairs(Rows):
    """Token pairs of at most `length` ids a side; a row is two sequences: the source, and the target after a start.

    pairs: a file (or several) of lines "source TAB target" (.tsv, .txt) or of objects {"source", "target"} or
    {"prompt", "completion"} (.jsonl), also packed; or an iterable of Pair. Each begins with what the tokenizer of its
    side puts before a text, as its language; the source ends with what it puts behind, the target with the end token.
    The target is read behind start_id. Too long ones are dropped, and pairs with an empty side. report counts.
    parallel: pairs is two files, of which line i of the first belongs to line i of the second.

    Raises DataError that names file and line for a bad record, and where no pair is left.
    """

    def __init__(
        self,
        pairs: str | os.PathLike[str] | Iterable[Any],
        tokenizer: Any,
        length: int,
        start_id: int,
        seed: int = 0,
        *,
        parallel: bool = False,
    ) -> None:
        tokenizer = open_tokenizer(tokenizer)
        end = tokenizer.eos_token_id
        if length < 2 or end is None:
            found = f"length {length}" if length < 2 else "a tokenizer without an end token"
            raise DataError("pairs", "", None, found, "at least 2, and one with an end token")
        self.length, self.start_id, self.end_id = length, start_id, int(end)
        self.records = 0
        self.dropped = {"empty": 0, "too_long": 0}
        super().__init__(self._read(read_pairs(pairs, parallel), (tokenizer, tokenizer.target)), seed, "pairs")

    def _read(self, pairs: Iterator[Pair], sides: tuple[Any, Any]) -> Store:
        ids, wanted, first, keys = array("i"), bytearray(), array("q", [0]), array("Q")
        ends = sides[0].ending, [sides[1].eos_token_id]
        around = [(side.coder.before, end) for side, end in zip(sides, ends, strict=True)]
        for pair in pairs:
            self.records += 1
            both = [as_array(side.coder, text) for side, text in zip(sides, pair, strict=True)]
            parts = ((before, said, end) for said, (before, end) in zip(both, around, strict=True))
            source, target = (np.concatenate(part).astype(np.int32) for part in parts)
            if not all(map(len, both)):
                self.dropped["empty"] += 1
            elif max(len(source), len(target)) > self.length:
                self.dropped["too_long"] += 1
            else:
                row = np.concatenate([source, target]).astype(np.int32)
                ids.frombytes(row.tobytes())
                wanted += bytes(len(source)) + b"\1" * len(target)
                first.append(len(ids))
                keys.append(int.from_bytes(blake2b(row.tobytes(), digest_size=8).digest(), "little"))
        if not keys:
            why = ", ".join(f"{count} {name}" for name, count in self.dropped.items())
            raise DataError("pairs", "", None, f"no pair is left of {self.records}: {why}", "at least one")
        counts = np.frombuffer(first, np.int64), np.frombuffer(keys, np.uint64)
        return Store(np.frombuffer(ids, np.int32), np.frombuffer(wanted, bool), *counts)

    @property
    def report(self) -> dict[str, Any]:
        """What became of the records; tokens of both sides, of the rows here."""
        tokens = sum(int(self.store.first[row + 1] - self.store.first[row]) for row in self.rows)
        return {"records": self.records, "kept": len(self), "dropped": dict(self.dropped), "tokens": tokens}

    def sides(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(source, target) ids of a pair, each with its end token."""
        ids, wanted = self.whole(number)
        at = int(np.argmax(wanted))
        return ids[:at], ids[at:]

    def row(self, number: int) -> Batch:
        """A pair by its place in the input (among those kept): two sequences, of which the second has targets."""
        source, target = self.sides(number)
        ids = np.concatenate([source, [self.start_id], target[:-1]]).astype(np.int32)
        targets = np.concatenate([np.full(len(source), IGNORED), target]).astype(np.int32)
        return Batch(ids, targets, np.array([0, len(source), len(ids)], np.int32))


def read_pairs(pairs: Any, parallel: bool = False) -> Iterator[Pair]:
    """The pairs of files or of an iterable, in order. Raises DataError naming file and line."""
    given = [pairs] if isinstance(pairs, str | os.PathLike) else list(pairs)
    if given and all(isinstance(each, str | os.PathLike) for each in given):
        sources = find(given)
        if parallel:
            yield from _parallel(sources)
        else:
            for source in sources:
                yield from _json(source) if source.kind == "jsonl" else _tabbed(source)
        return
    for number, each in enumerate(given):
        if not isinstance(each, Sequence) or len(each) != 2 or not all(isinstance(text, str) for text in each):
            raise DataError("pairs", f"pair {number}", None, printable(repr(each)), "two texts")
        yield Pair(*each)


def _json(source: Source) -> Iterator[Pair]:
    for line, offset, value in json_lines(source):
        names = next((each for each in SIDES if isinstance(value, dict) and each[0] in value), SIDES[0])
        sides = [value.get(name) for name in names] if isinstance(value, dict) else [None]
        if not all(isinstance(side, str) for side in sides):
            found = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            allowed = "an object with the texts source and target, or prompt and completion"
            raise DataError(source.path, f"line {line}", offset, printable(found), allowed)
        yield Pair(*sides)


def _tabbed(source: Source) -> Iterator[Pair]:
    for line, offset, text in lines(source):
        if not text.strip():
            continue
        sides = text.split("\t")
        if len(sides) != 2:
            found = f"{len(sides)} fields between tabs"
            raise DataError(source.path, f"line {line}", offset, found, "two, source and target")
        yield Pair(*sides)


def _parallel(sources: list[Source]) -> Iterator[Pair]:
    if len(sources) != 2:
        raise DataError("pairs", "", None, f"{len(sources)} files", "two, of sources and of targets")
    for number, both in enumerate(zip_longest(*map(lines, sources)), 1):
        if None in both:
            short = sources[both.index(None)]
            found = f"{number - 1:,} lines, the other file has more"
            raise DataError(short.path, "", None, found, "as many lines in both")
        yield Pair(both[0][2], both[1][2])
