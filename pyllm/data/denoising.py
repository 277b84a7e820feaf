"""Texts that were damaged, for encoder-decoders to mend: spans that were cut out, sentences out of order."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pyllm.data.draws import Draws
from pyllm.data.lexicon import SENTINEL, Flags, Ids, Lexicon
from pyllm.data.objectives import Objective, Piece, Posed, paired
from pyllm.data.shards import Shards
from pyllm.errors import DataError


class SpanCorruption(Objective):
    """Spans that were cut out: `rate` of the tokens in spans of `mean` tokens, each replaced by a sentinel.

    source: x <0> x x <1> x </s>; target: <0> y y <1> y y y <2> </s>, <i> the tokenizer's <extra_id_i>. Raffel et al.
    2020, arXiv:1910.10683, 3.1.4. Spans of all sizes and places are as likely. Raises DataError for too few sentinels.
    """

    name, kind, extra = "span", "pairs", 1

    def __init__(self, lexicon: Lexicon, start_id: int, rate: float = 0.15, mean: float = 3.0) -> None:
        super().__init__(lexicon)
        self.start_id, self.rate, self.mean = start_id, rate, mean

    def check(self, shards: Shards, length: int) -> None:
        """A sentinel for every span of a window, and one that ends the target."""
        super().check(shards, length)
        needed = math.ceil(math.ceil(self.rate * length) / self.mean) + 1
        if len(self.lexicon.sentinels) < needed:
            found = f"{len(self.lexicon.sentinels)} sentinels in the tokenizer"
            allowed = f"{needed} for windows of {length}: pyllm tokenizer train --sentinels {needed}"
            raise DataError(self.name, SENTINEL.format("N"), None, found, allowed)

    def pose(self, piece: Piece, draws: Draws, shards: Shards) -> Posed:
        """The text without spans, and the spans."""
        n = len(piece.ids)
        if not n:
            return Posed([])
        noise = min(max(draws.rounded(self.rate * n), 1), n)
        spans = min(max(draws.rounded(noise / self.mean), 1), n - noise + 1)
        lengths = draws.parts(noise, spans, np.ones(spans, np.int64))
        between = np.ones(spans + 1, np.int64)
        between[[0, -1]] = 0
        kept = draws.parts(n - noise, spans + 1, between)
        source, target, at = [], [], 0
        for i, (before, cut) in enumerate(zip(kept, lengths, strict=False)):
            sentinel = self.lexicon.sentinels[i : i + 1]
            source += [piece.ids[at : at + before], sentinel]
            at += int(before)
            target += [sentinel, piece.ids[at : at + cut]]
            at += int(cut)
        after = self.lexicon.after[-1:]
        target += [self.lexicon.sentinels[spans : spans + 1], after]
        return Posed(paired(np.concatenate([*source, piece.ids[at:], after]), np.concatenate(target), self.start_id))


class Denoising(Objective):
    """The whole text, from one with `rate` of its tokens hidden and its sentences in another order.

    Text infilling: spans with lengths from the Poisson distribution of `mean` become one mask token each; a span of no
    token puts a mask between two. Sentence permutation: any order is as likely. Special tokens are never hidden. Raises
    DataError for a tokenizer without a mask token. Lewis et al. 2020, arXiv:1910.13461, 2.2 and 4.2.
    """

    name, kind = "denoise", "pairs"

    def __init__(
        self, lexicon: Lexicon, start_id: int, rate: float = 0.3, mean: float = 3.0, permute: bool = True
    ) -> None:
        super().__init__(lexicon)
        self.mask, self.start_id = lexicon.need_mask(self.name), start_id
        self.rate, self.mean, self.permute = rate, mean, permute
        self.extra = len(lexicon.opening) + 1

    def pose(self, piece: Piece, draws: Draws, shards: Shards) -> Posed:
        """What is left of the text, and the text; both as pyllm.data.Pairs has sources and targets."""
        if not len(piece.ids):
            return Posed([])
        damaged = self._infilled(self._permuted(piece.ids, draws) if self.permute else piece.ids, draws)
        around = self.lexicon.opening, self.lexicon.after[-1:]
        source, target = (np.concatenate([around[0], x, around[1]]) for x in (damaged, piece.ids))
        return Posed(paired(source, target, self.start_id))

    def _permuted(self, ids: Ids, draws: Draws) -> Ids:
        sentences = np.split(ids, np.flatnonzero(self.lexicon.sentences(ids))[1:])
        return np.concatenate([sentences[i] for i in draws.order(len(sentences))])

    def _infilled(self, ids: Ids, draws: Draws) -> Ids:
        """Never longer than it was: masks of no token are put in while others have made room."""
        open_ = ~self.lexicon.special[ids]
        wanted = draws.rounded(self.rate * int(open_.sum()))
        if not wanted:
            return ids
        lengths = draws.poisson(self.mean, 4 * len(ids) + 16)
        sums = np.cumsum(lengths)
        lengths = lengths[: int(np.searchsorted(sums, wanted)) + 1]
        lengths[-1] -= lengths.sum() - wanted
        spans, empty = lengths[lengths > 0], int((lengths == 0).sum())
        hidden, first = self._placed(open_, spans, draws)
        kept = ~hidden | first
        out = np.where(first, np.int32(self.mask), ids)[kept]
        places = draws.below(len(out) + 1, min(empty, len(ids) - len(out)))
        return np.insert(out, places, np.int32(self.mask))

    def _placed(self, open_: Flags, spans: NDArray[np.int64], draws: Draws) -> tuple[Flags, Flags]:
        """(tokens that spans of these lengths hide, those at which a span begins): spans lie apart by chance alone, and
        end where a special token stands."""
        n, count = len(open_), len(spans)
        kept = draws.parts(n - int(spans.sum()), count + 1, np.zeros(count + 1, np.int64))
        begins = np.cumsum(kept[:-1]) + np.concatenate([[0], np.cumsum(spans)[:-1]])
        owner = np.full(n, -1)
        for i, (begin, size) in enumerate(zip(begins.tolist(), spans.tolist(), strict=True)):
            owner[begin : begin + size] = i
        owner[~open_] = -1
        first = (owner >= 0) & np.concatenate([[True], owner[1:] != owner[:-1]])
        return owner >= 0, first
