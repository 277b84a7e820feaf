"""SentencePiece's model files (.spm, .model): a checked reader of the fields that cutting a text needs.

The files are protocol buffers (sentencepiece_model.proto); fields not named here are passed over.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from pyllm.errors import TokenizerError, printable

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BYTE_PAIRS = 1, 2
LIMIT = 64 << 20  # bytes of a file
MOST, LONGEST, CHARACTERS = 1 << 20, 256, 1 << 23  # pieces, characters of a piece and of all of them
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT = struct.Struct("<f")
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}


class SentencePieces(NamedTuple):
    """A model: of each id its piece, score and kind; how pieces are chosen; how text is normalised before."""

    file: str
    pieces: list[str]
    scores: list[float]
    kinds: list[int]
    model_type: int = UNIGRAM
    byte_fallback: bool = False
    suffix: bool = False  # the mark of a space stands behind a word, not before it
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True

    @property
    def unknown(self) -> int:
        """The id of what no piece spells."""
        return self.kinds.index(UNKNOWN)


class _Message:
    """A part of a file that holds fields."""

    def __init__(self, file: str, data: bytes, start: int, end: int) -> None:
        self.file, self.data, self.start, self.end = file, data, start, end

    def refuse(self, at: int, found: str) -> TokenizerError:
        """The error of a place."""
        return TokenizerError(f"{self.file}: at 0x{at:x}: {found}; a model of SentencePiece")

    def varint(self, at: int) -> tuple[int, int]:
        """(a number of seven bits a byte, where it ends)."""
        value = 0
        for i in range(10):
            if at + i >= self.end:
                break
            byte = self.data[at + i]
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                return value, at + i + 1
        raise self.refuse(at, "a number without an end")

    def fields(self) -> Iterator[tuple[int, int, int, int]]:
        """(number, kind of value, start, end) of each field; of a varint where it stands."""
        at = self.start
        while at < self.end:
            begin = at
            key, at = (self.data[at], at + 1) if self.data[at] < 128 else self.varint(at)
            kind, number = key & 7, key >> 3
            if kind == _VARINT:
                start, end = at, self.varint(at)[1]
            elif kind == _BYTES:
                size, start = self.varint(at)
                end = start + size
            elif kind in _WIDTHS:
                start, end = at, at + _WIDTHS[kind]
            else:
                raise self.refuse(begin, f"a field of the kind {kind}")
            if end > self.end or number == 0:
                found = f"field {number} of {end - start:,} bytes, {self.end - start:,} are left"
                raise self.refuse(begin, found)
            yield number, kind, start, end
            at = end

    def part(self, kind: int, start: int, end: int) -> _Message:
        """The message inside a field."""
        self.expect(kind, _BYTES, start)
        return _Message(self.file, self.data, start, end)

    def expect(self, kind: int, wanted: int, at: int) -> None:
        """Raise TokenizerError where a field is of another kind."""
        if kind != wanted:
            raise self.refuse(at, f"a value of the kind {kind} instead of {wanted}")

    def numbers(self, names: dict[int, str]) -> dict[str, int]:
        """The named whole numbers."""
        found = {}
        for number, kind, start, _ in self.fields():
            if number in names:
                self.expect(kind, _VARINT, start)
                found[names[number]] = self.varint(start)[0]
        return found


def read(file: str, data: bytes) -> SentencePieces:
    """The model in the bytes of a file, whose name errors bear. Raises TokenizerError."""
    whole = _Message(file, data, 0, len(data))
    pieces: list[str] = []
    scores: list[float] = []
    kinds: list[int] = []
    settings: dict[str, int] = {}
    charsmap, total = b"", 0
    for number, kind, start, end in whole.fields():
        if number == 1:
            piece, score, what = _usual(data, start, end) or _piece(whole.part(kind, start, end))
            pieces.append(piece)
            scores.append(score)
            kinds.append(what)
            total += len(piece)
            if len(pieces) > MOST or len(piece) > LONGEST or total > CHARACTERS:
                sizes = f"{len(pieces):,} pieces of {total:,} characters, the last of {len(piece):,}"
                raise whole.refuse(start, f"{sizes}; at most {MOST:,}, {CHARACTERS:,}, {LONGEST:,}")
        elif number == 2:
            settings |= whole.part(kind, start, end).numbers({3: "model_type", 24: "suffix", 35: "byte_fallback"})
        elif number == 3:
            part = whole.part(kind, start, end)
            spaces = {3: "add_dummy_prefix", 4: "remove_extra_whitespaces", 5: "escape_whitespaces"}
            settings |= part.numbers(spaces)
            charsmap = next((data[a:b] for n, k, a, b in part.fields() if n == 2 and k == _BYTES), b"")
    model_type = settings.pop("model_type", UNIGRAM)
    flags = {name: bool(value) for name, value in settings.items()}
    found = SentencePieces(file, pieces, scores, kinds, model_type, charsmap=charsmap, **flags)
    _check(found)
    return found


def _usual(data: bytes, start: int, end: int) -> tuple[str, float, int] | None:
    """What _piece() gives where fields stand as SentencePiece writes them: ten times as fast; None for others."""
    at = start + 2 + data[start + 1] if end - start > 6 and data[start] == 0x0A else 0
    if not at or data[start + 1] > 127 or end - at not in (5, 7) or data[at] != 0x15:
        return None
    what = NORMAL
    if end - at == 7:
        what = data[at + 6] if data[at + 5] == 0x18 else 0
    score: float = _FLOAT.unpack_from(data, at + 1)[0]
    try:
        text = data[start + 2 : at].decode("utf-8")
    except UnicodeDecodeError:
        return None
    return (text, score, what) if text and math.isfinite(score) and NORMAL <= what <= BYTE else None


def _piece(part: _Message) -> tuple[str, float, int]:
    """(text, score, kind) of one piece."""
    text, score, what = "", 0.0, NORMAL
    for number, kind, start, end in part.fields():
        if number == 1:
            part.expect(kind, _BYTES, start)
            try:
                text = part.data[start:end].decode("utf-8")
            except UnicodeDecodeError:
                raise part.refuse(start, "a piece that is not UTF-8") from None
        elif number == 2:
            part.expect(kind, _FIXED32, start)
            score = _FLOAT.unpack_from(part.data, start)[0]
        elif number == 3:
            part.expect(kind, _VARINT, start)
            what = part.varint(start)[0]
    if not text or not math.isfinite(score) or not NORMAL <= what <= BYTE:
        raise part.refuse(part.start, f"the piece {printable(text)!r}, score {score}, kind {what}")
    return text, score, what


def _check(model: SentencePieces) -> None:
    """Raise TokenizerError where a model contradicts itself."""
    if model.kinds.count(UNKNOWN) != 1:
        found = f"{len(model.pieces):,} pieces, of which {model.kinds.count(UNKNOWN)} are for unknown text"
        raise TokenizerError(f"{model.file}: {found}; one")
    twice, count = Counter(model.pieces).most_common(1)[0]
    if count > 1:
        raise TokenizerError(f"{model.file}: the piece {printable(twice)!r} stands twice; once")
    if model.model_type not in (UNIGRAM, BYTE_PAIRS):
        raise TokenizerError(f"{model.file}: model_type {model.model_type}; 1 (unigram) or 2 (BPE)")
    wanted = {f"<0x{byte:02X}>" for byte in range(256)} if model.byte_fallback else set()
    known = {piece for piece, kind in zip(model.pieces, model.kinds, strict=True) if kind == BYTE}
    if not wanted <= known:
        lacking = min(wanted - known)
        raise TokenizerError(f"{model.file}: byte_fallback without a piece for {lacking}; one for each byte")
