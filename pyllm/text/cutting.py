"""How SentencePiece cuts normalised text into pieces: the likeliest ones (Kudo 2018, arXiv:1804.10959), or by merging
(Sennrich et al. 2016, arXiv:1508.07909).
"""

from __future__ import annotations

import heapq
import math
import re
from ctypes import c_float

from pyllm.text.charsmap import Normalizer
from pyllm.text.sentence_piece import NORMAL, UNIGRAM, UNUSED, USER_DEFINED, SentencePieces

_ABSENT = float("nan")  # told from scores as an object
_PENALTY = 10.0  # of a character without a piece, beside the least likely piece


class SentencePiece:
    """A text's pieces, as SentencePiece's encode(text, out_type=str) gives them."""

    def __init__(self, model: SentencePieces) -> None:
        self.normal = Normalizer(model)
        self.cut = Likeliest(model) if model.model_type == UNIGRAM else Merging(model)
        self.byte_fallback = model.byte_fallback

    def __call__(self, text: str) -> list[str]:
        """Neighbouring characters without a piece are one, or with byte_fallback a piece for each byte."""
        found: list[str] = []
        scores, before = self.cut.scores, False
        for piece in self.cut(self.normal(text)):
            unknown = scores.get(piece) is None
            if unknown and self.byte_fallback:
                found += [f"<0x{byte:02X}>" for byte in piece.encode()]
            elif unknown and before:
                found[-1] += piece
            else:
                found.append(piece)
            before = unknown
        return found


class Likeliest:
    """The pieces whose scores have the greatest sum, of which earlier ones are longer among equals.

    Sums are rounded to float32 as SentencePiece's are: by that it tells equals apart, such as "aaa" as "aa a", "a aa".
    """

    def __init__(self, model: SentencePieces) -> None:
        rows = list(zip(model.pieces, model.scores, model.kinds, strict=True))
        plain = [score for _, score, kind in rows if kind == NORMAL]
        self.unknown = _rounded(min(plain, default=0.0) - _PENALTY)
        best = max([0.0, *plain])
        self.scores: dict[str, float | None] = {}  # of pieces; None for the beginning of one
        for piece, score, kind in rows:
            if kind in (NORMAL, USER_DEFINED, UNUSED):
                for size in range(1, len(piece)):
                    self.scores.setdefault(piece[:size], None)
            if kind == NORMAL:
                self.scores[piece] = score
            elif kind == USER_DEFINED:
                self.scores[piece] = _rounded(len(piece.encode()) * best - 0.1)

    def __call__(self, text: str) -> list[str]:
        """The pieces of a text; characters without one by themselves."""
        scores, size = self.scores, len(text)
        sums, starts = [0.0] + [-math.inf] * size, [0] * (size + 1)
        for start in range(size):
            here, alone = sums[start], False
            for end in range(start + 1, size + 1):
                piece = text[start:end]
                score = scores.get(piece, _ABSENT)
                if score is None:
                    continue
                if score is _ABSENT:
                    break
                total = _rounded(here + score)
                if total > sums[end]:
                    sums[end], starts[end] = total, start
                alone = alone or end == start + 1
            if not alone and (total := _rounded(here + self.unknown)) > sums[start + 1]:
                sums[start + 1], starts[start + 1] = total, start
        found = []
        while size:
            found.append(text[starts[size] : size])
            size = starts[size]
        return found[::-1]


class Merging:
    """Characters, of which the two whose sum has the best score become one, the left ones among equals."""

    def __init__(self, model: SentencePieces) -> None:
        rows = list(zip(model.pieces, model.scores, model.kinds, strict=True))
        known = (NORMAL, USER_DEFINED, UNUSED)
        self.scores: dict[str, float | None] = {piece: score for piece, score, kind in rows if kind in known}
        self.unused = {piece for piece, _, kind in rows if kind == UNUSED}
        kept = sorted((piece for piece, _, kind in rows if kind == USER_DEFINED), key=len, reverse=True)
        self.kept = set(kept)
        self.symbols = re.compile("|".join([*map(re.escape, kept), "."]), re.DOTALL)

    def __call__(self, text: str) -> list[str]:
        """The pieces of a text; characters without one by themselves."""
        symbols = self.symbols.findall(text)
        after, before = list(range(1, len(symbols) + 1)), list(range(-1, len(symbols) - 1))
        queue: list[tuple[float, int, int, str]] = []
        made: dict[str, tuple[str, str]] = {}

        def offer(left: int, right: int) -> None:
            if left < 0 or right >= len(symbols) or {symbols[left], symbols[right]} & self.kept:
                return
            merged = symbols[left] + symbols[right]
            score = self.scores.get(merged)
            if score is not None:
                heapq.heappush(queue, (-score, left, right, merged))
                if merged in self.unused:
                    made[merged] = symbols[left], symbols[right]

        for left in range(len(symbols) - 1):
            offer(left, left + 1)
        while queue:
            _, left, right, merged = heapq.heappop(queue)
            if not symbols[left] or not symbols[right] or symbols[left] + symbols[right] != merged:
                continue
            symbols[left], symbols[right] = merged, ""
            after[left] = after[right]
            if after[right] < len(symbols):
                before[after[right]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [part for symbol in symbols if symbol for part in self._used(symbol, made)]

    def _used(self, symbol: str, made: dict[str, tuple[str, str]]) -> list[str]:
        """A piece that is not used, as those that it was made of."""
        found, stack = [], [symbol]
        while stack:
            each = stack.pop()
            if each in made:
                stack += reversed(made[each])
            else:
                found.append(each)
        return found


def _rounded(value: float) -> float:
    return c_float(value).value
