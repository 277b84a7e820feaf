"""Repair a document's text, and the named rules by which a document is left out."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from pyllm.errors import DataError

RULES = (
    *("bad_record", "too_long", "bad_encoding", "empty", "too_short", "repeated_lines", "not_text"),
    "duplicate",
)
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline; \r is a newline by then
_SURROGATES = re.compile("[\ud800-\udfff]")
_WORDS = re.compile(r"[\w\s]+")
_ASCII_WORDS = bytes(i for i in range(128) if _WORDS.match(chr(i)))
_REPLACED = "\ufffd"


class Rules(NamedTuple):
    """Which documents stay. Lengths are in characters, shares are of a document's characters.

    min_chars, max_chars: shortest and longest document. max_bad: share that was no UTF-8. max_repeated: share in
    lines that already stand earlier in the document. max_symbols: share that is neither letter, digit nor space.
    nfc: whether letters and their accents are composed (Unicode's form NFC) before anything is counted.
    """

    min_chars: int = 1
    max_chars: int = 10_000_000
    max_bad: float = 0.01
    max_repeated: float = 0.5
    max_symbols: float = 0.5
    nfc: bool = False

    def check(self) -> None:
        """Raises DataError for a rule that no document or every document breaks by mistake."""
        if not 0 <= self.min_chars <= self.max_chars:
            found = f"min_chars {self.min_chars}, max_chars {self.max_chars}"
            raise DataError("prepare", "rules", None, found, "0 <= min_chars <= max_chars")
        for name in ("max_bad", "max_repeated", "max_symbols"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError("prepare", name, None, str(getattr(self, name)), "a share from 0 to 1")


class Repaired(NamedTuple):
    """A text that is clean, how many bytes of it were no UTF-8, how many control characters were dropped."""

    text: str
    bad: int
    controls: int


def repair(raw: str | bytes, nfc: bool = False) -> Repaired:
    """Text with U+FFFD for what is no UTF-8, one kind of newline, no byte order mark and no control characters."""
    bad = 0
    if isinstance(raw, bytes):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("utf-8", "replace")
            bad = text.count(_REPLACED) - raw.count(_REPLACED.encode())  # those that stood there are not counted
    else:
        text, bad = _SURROGATES.subn(_REPLACED, raw)
    text = text.removeprefix("\ufeff")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text, controls = _CONTROLS.subn("", text)
    return Repaired(unicodedata.normalize("NFC", text) if nfc else text, bad, controls)


def broken_rule(document: Repaired, rules: Rules) -> str:
    """The first of RULES that the document breaks, "" for none. Duplicates are found elsewhere."""
    text = document.text
    size = len(text)
    if size > rules.max_chars:
        return "too_long"
    if document.bad > rules.max_bad * size:
        return "bad_encoding"
    if not text or text.isspace():
        return "empty"
    if size < rules.min_chars:
        return "too_short"
    if repeated(text) > rules.max_repeated * size:
        return "repeated_lines"
    return "not_text" if symbols(text) > rules.max_symbols * size else ""


def repeated(text: str) -> int:
    """Characters in lines that stand earlier in the text already; blank lines do not count."""
    lines = text.split("\n")
    if len(set(lines)) == len(lines):
        return 0
    seen: set[str] = set()
    count = 0
    for line in lines:
        if line in seen:
            count += len(line)
        elif line:
            seen.add(line)
    return count


def symbols(text: str) -> int:
    """Characters that are neither letters, digits, underscores nor spaces."""
    if text.isascii():  # ten times as fast
        return len(text.encode().translate(None, _ASCII_WORDS))
    return len(_WORDS.sub("", text))
