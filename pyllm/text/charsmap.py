"""How SentencePiece changes a text before it cuts it: replaced characters, spaces, marks. Kudo & Richardson 2018,
arXiv:1808.06226.
"""

from __future__ import annotations

import re

import numpy as np

from pyllm.errors import TokenizerError
from pyllm.text.sentence_piece import USER_DEFINED, SentencePieces

SPACE = "\u2581"
_REMEMBERED = 1 << 16  # pairs of characters
_KEY, _CHANGE = 64, 1024  # bytes of what is replaced, of what replaces it, at most


class Charsmap:
    """What a precompiled map replaces by what: a double array (Darts) of keys, then the replacements, each ended by 0.

    A unit's bits: 0 to 7 its label, 8 whether a value hangs below, 9 to 30 how far its children are, 31 set in values.
    Raises TokenizerError for a map whose parts lie outside of it.
    """

    def __init__(self, file: str, data: bytes) -> None:
        size = int.from_bytes(data[:4], "little")
        if len(data) < 4 or size % 4 or size == 0 or 4 + size > len(data):
            raise TokenizerError(f"{file}: charsmap: a table of {size:,} bytes in {len(data):,}; units of 4 within it")
        self.file, self.texts = file, data[4 + size :]
        units = np.frombuffer(data, "<u4", size // 4, 4).astype(np.int64)
        offsets = (units >> 10) << ((units & 512) >> 6)
        self.texts_at = {start: self._text(start) for start in self._values(units, offsets)}
        self.units: list[int] = units.tolist()
        self.offsets: list[int] = offsets.tolist()

    def _values(self, units: np.ndarray, offsets: np.ndarray) -> list[int]:
        """Where replacements begin, of every unit that can be reached."""
        homes = np.arange(len(units)) ^ (units & 0xFF)  # the node of which a unit is a child
        known = np.zeros(len(units), bool)
        new, values = np.array([0]), [np.array([], np.int64)]
        order = np.argsort(homes, kind="stable")
        labels = units[order] & 0x800000FF
        order = order[(labels > 0) & (labels < 256)]
        sorted_homes = homes[order]
        for depth in range(_KEY + 1):
            if depth == _KEY and len(new):
                raise TokenizerError(f"{self.file}: charsmap: a key of more than {_KEY} bytes; at most those")
            known[new] = True
            nodes = new ^ offsets[new]
            ends = nodes[(units[new] >> 8) & 1 == 1]
            if len(ends) and int(ends.max()) >= len(units):
                raise TokenizerError(f"{self.file}: charsmap: a value at {int(ends.max()):,}; 0 to {len(units) - 1:,}")
            values.append(units[ends] & 0x7FFFFFFF)
            first = np.searchsorted(sorted_homes, nodes, "left")
            counts = np.searchsorted(sorted_homes, nodes, "right") - first
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            children = np.unique(order[np.repeat(first, counts) + within])
            new = children[~known[children]]
        found: list[int] = np.unique(np.concatenate(values)).tolist()
        return found

    def _text(self, start: int) -> str:
        end = self.texts.find(b"\0", start, start + _CHANGE)
        if end < 0:
            found = f"a replacement at {start:,}; 0 to {len(self.texts) - 1:,}, ended by 0 within {_CHANGE:,}"
            raise TokenizerError(f"{self.file}: charsmap: {found}")
        try:
            return self.texts[start:end].decode("utf-8")
        except UnicodeDecodeError:
            raise TokenizerError(f"{self.file}: charsmap: the replacement at {start:,} is not UTF-8") from None

    def longest(self, text: str, at: int) -> tuple[int, str] | None:
        """(where it ends, what replaces it) of the longest key that begins there."""
        found, node = None, self.offsets[0]
        for i in range(at, min(len(text), at + _KEY)):
            unit = 0
            for byte in text[i].encode():
                place = node ^ byte
                unit = self.units[place] if place < len(self.units) else 0
                if unit & 0x800000FF != byte:
                    return found
                node = place ^ self.offsets[place]
            if unit >> 8 & 1:
                found = i + 1, self.texts_at[self.units[node] & 0x7FFFFFFF]
        return found

    def begins(self, two: str) -> bool:
        """Whether a key may begin with the first of two characters, or of one at the end of a text."""
        node = self.offsets[0]
        for i, character in enumerate(two):
            for byte in character.encode():
                place = node ^ byte
                if place >= len(self.units) or self.units[place] & 0x800000FF != byte:
                    return False
                node = place ^ self.offsets[place]
            if i == 0 and self.units[place] >> 8 & 1:
                return True
        return len(two) == 2


class Normalizer:
    """A text as a model wants it; pieces that the model's user defined stay as they are."""

    def __init__(self, model: SentencePieces) -> None:
        self.model = model
        self.charsmap = Charsmap(model.file, model.charsmap) if model.charsmap else None
        kept = [piece for piece, kind in zip(model.pieces, model.kinds, strict=True) if kind == USER_DEFINED]
        self.first = {piece[0] for piece in kept}
        self.kept = re.compile("|".join(map(re.escape, sorted(kept, key=len, reverse=True)))) if kept else None
        self.known: dict[str, bool] = {}  # two characters -> whether they need a closer look

    def _looks(self, two: str) -> bool:
        if len(self.known) > _REMEMBERED:
            self.known.clear()
        found = two[0] in self.first or (self.charsmap is not None and self.charsmap.begins(two))
        self.known[two] = found
        return found

    def _replaced(self, text: str) -> str:
        """The text after the map of characters: from left to right the longest key."""
        if self.charsmap is None:
            return text
        found, done, at, known = [], 0, 0, self.known
        while at < len(text):
            two = text[at : at + 2]
            looks = known.get(two)
            if not (self._looks(two) if looks is None else looks):
                at += 1
                continue
            kept = self.kept.match(text, at) if self.kept is not None else None
            change = None if kept else self.charsmap.longest(text, at)
            if change is not None:
                found += [text[done:at], change[1]]
                done = change[0]
            at = kept.end() if kept else done if change is not None else at + 1
        return "".join([*found, text[done:]])

    def __call__(self, text: str) -> str:
        """The text replaced, its spaces put in order and marked; "" for one of spaces alone, if these are removed."""
        model, given = self.model, text
        text = self._replaced(text)
        if model.remove_extra_whitespaces:
            text = re.sub(" {2,}", " ", text).strip(" ")
        if not text and all(model.remove_extra_whitespaces and self._replaced(each) == " " for each in given):
            return ""
        mark = SPACE if model.escape_whitespaces else " "
        text = text.replace(" ", mark)
        text = mark + text if model.add_dummy_prefix and not model.suffix else text
        if model.remove_extra_whitespaces:
            text = text.rstrip(mark)
        return text + mark if model.add_dummy_prefix and model.suffix else text
