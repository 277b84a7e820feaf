"""Windows of a stream, posed as the tasks of an objective, in an order that is a function of the position."""

from __future__ import annotations

import numpy as np

from pyllm.data.denoising import Denoising, SpanCorruption
from pyllm.data.draws import Draws
from pyllm.data.lexicon import Ids, Lexicon
from pyllm.data.objectives import LEAST, MaskedLM, NextSentence, Objective, Piece, PrefixLM, PrefixPairs
from pyllm.data.packed import Batch, shuffled
from pyllm.data.shards import Shards
from pyllm.errors import DataError

NEXT = "next"  # pyllm.data.Packed
# Of each kind of model the objectives that it learns, the usual one first.
OBJECTIVES = {
    "decoder": (NEXT, "prefix"),
    "encoder": ("mlm", "mlm+nsp"),
    "pairs": ("span", "denoise", "prefix"),
}
NAMES = (NEXT, "mlm", "mlm+nsp", "span", "denoise", "prefix")
_ENCODERS = {"mlm": MaskedLM, "mlm+nsp": NextSentence}
_PAIRS = {"span": SpanCorruption, "denoise": Denoising, "prefix": PrefixPairs}


def objective(name: str, kind: str, lexicon: Lexicon, start_id: int = 0, rate: float | None = None) -> Objective:
    """An objective by its name for a kind of model; start_id: what stands before a target of pairs; rate: the share of
    tokens that is hidden, the paper's unless given.

    Raises ValueError for one that this kind does not learn, and for a rate that is none or of an objective without,
    DataError for a tokenizer that lacks what it needs.
    """
    if name not in OBJECTIVES[kind] or name == NEXT:
        raise ValueError(f"objective: {name!r} of a model that is {kind}, allowed are {', '.join(OBJECTIVES[kind])}")
    hidden = {} if rate is None else {"rate": rate}
    if name == "prefix" and hidden:
        raise ValueError(f"objective: a rate of {rate:g} for 'prefix', allowed is one of mlm, mlm+nsp, span, denoise")
    if rate is not None and not 0 < rate < 1:
        raise ValueError(f"objective: {name} with a rate of {rate:g}, allowed are shares above 0 and below 1")
    if kind == "pairs":
        return _PAIRS[name](lexicon, start_id, **hidden)
    return PrefixLM(lexicon) if kind == "decoder" else _ENCODERS[name](lexicon, **hidden)


class Tasks:
    """Samples of an objective: windows of shards, at most `length` ids a sequence, in an order by position.

    As pyllm.data.Packed, but what is hidden of a window is drawn for its position: in each epoch something else.
    Each document in a window is a piece of its own. batch: targets are those of all ids, then those of the pieces
    (of NextSentence, one each). Raises DataError for windows too short and for what the objective refuses.
    """

    def __init__(self, shards: Shards, length: int, objective: Objective, seed: int = 0) -> None:
        self.shards, self.length, self.objective, self.seed = shards, length, objective, seed
        self.window = length - objective.extra
        if length < objective.least:
            allowed = f"at least {objective.least}: {LEAST} of text and {objective.extra} around them"
            raise DataError(objective.name, "length", None, f"{length}", allowed)
        self._windows = shards.tokens // self.window
        if not self._windows:
            found = f"{shards.tokens:,} tokens in split '{shards.split}'"
            raise DataError(shards.folder, "length", None, found, f"at least {self.window:,} for a window")
        objective.check(shards, self.window)

    def __len__(self) -> int:
        """Windows in an epoch."""
        return self._windows

    def batch(self, position: int, size: int) -> Batch:
        """The tasks at positions position to position + size - 1, end to end."""
        if position < 0 or size < 1:
            raise DataError(self.shards.folder, "batch", None, f"position {position}, size {size}", "0, 1 or more")
        sequences: list[tuple[Ids, Ids]] = []
        whole: list[int] = []
        for i, window in enumerate(shuffled(position, size, self._windows, self.seed).tolist()):
            draws = Draws(self.seed, self.objective.name, position + i)
            for piece in self.pieces(window):
                posed = self.objective.pose(piece, draws, self.shards)
                sequences += posed.sequences
                whole += posed.whole
        starts = np.cumsum([0, *(len(ids) for ids, _ in sequences)]).astype(np.int32)
        nothing = np.empty(0, np.int32)
        ids, targets = (np.concatenate([nothing, *(each[i] for each in sequences)]).astype(np.int32) for i in (0, 1))
        return Batch(ids, np.concatenate([targets, np.array(whole, np.int32)]), starts)

    def pieces(self, window: int) -> list[Piece]:
        """What the documents of a window have in it, without what stands around documents; empty ones too."""
        at = window * self.window
        tokens, first = self.shards.read(at, self.window), self.shards.number_at(at)
        begins = self.shards.starts(at + 1, at + self.window) - at
        parts = np.split(tokens, begins)
        return [Piece(self.objective.lexicon.inner(part), first + i, part) for i, part in enumerate(parts)]
