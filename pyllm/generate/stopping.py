"""When a sequence ends."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Criterion = Callable[[np.ndarray, Any], Any]


@dataclass
class StopRules:
    """What ends the sequences of one request.

    end_ids: these tokens end it. most: tokens at most, prompt included. criteria: callables (input_ids (1, length),
    scores (1, vocabulary) or None) -> truthy to stop. deadline: seconds of time.monotonic().
    """

    end_ids: frozenset[int] = frozenset()
    most: int = 0
    strings: Sequence[str] = ()
    criteria: Sequence[Criterion] = field(default_factory=tuple)
    deadline: float | None = None

    def reason(self, tokens: array[int], scores: np.ndarray | None = None) -> str | None:
        """Why the sequence ends with its last token: stop, length, time or criteria; None to go on."""
        if tokens[-1] in self.end_ids:
            return "stop"
        if self.criteria:
            history = np.array(tokens, dtype=np.int64)[None]
            if any(np.all(rule(history, None if scores is None else scores[None])) for rule in self.criteria):
                return "criteria"
        if len(tokens) >= self.most:
            return "length"
        return "time" if self.deadline is not None and time.monotonic() >= self.deadline else None


class StopText:
    """Text on its way to the reader: holds back what may become a stop string, and ends at the first that is complete.

    matched: the stop string that was found, else None; it is not part of the text.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = list(strings)
        self.held = ""
        self.matched: str | None = None

    def put(self, piece: str) -> str:
        """The text that is now certain."""
        if self.matched is not None:
            return ""
        text = self.held + piece
        found = [(text.find(s), -len(s), s) for s in self.strings if s in text]
        if found:
            at, _, self.matched = min(found)
            self.held = ""
            return text[:at]
        keep = max((overlap(text, s) for s in self.strings), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """The text still held back, when nothing more comes."""
        held, self.held = self.held, ""
        return held


def overlap(text: str, string: str) -> int:
    """How many characters at the end of text begin string, but are not all of it."""
    for length in range(min(len(text), len(string) - 1), 0, -1):
        if text.endswith(string[:length]):
            return length
    return 0
