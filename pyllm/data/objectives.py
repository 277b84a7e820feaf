"""What models learn from plain text: tasks whose answers the text itself holds. Hidden words, the rest of a text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pyllm.data.draws import Draws
from pyllm.data.lexicon import Flags, Ids, Lexicon
from pyllm.data.packed import IGNORED
from pyllm.data.shards import Shards
from pyllm.errors import DataError

LEAST = 8  # tokens of text in a window


class Piece(NamedTuple):
    """Tokens of one document, nothing around them; its number; the tokens with what stands around them there."""

    ids: Ids
    document: int
    stream: Ids


class Posed(NamedTuple):
    """Sequences of one piece, each (ids, targets) int32 of one length, and targets of all of it: (0,) or more."""

    sequences: list[tuple[Ids, Ids]]
    whole: Sequence[int] = ()


class Objective(ABC):
    """Poses a piece as a task. name: as it is asked for. extra: ids that a sequence has beside the text's.

    kind: which models learn it, "decoder", "encoder", or "pairs" (encoder-decoders: source and target in turn).
    """

    name = ""
    kind = ""
    extra = 0

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon

    @property
    def least(self) -> int:
        """Ids that a sequence must have room for."""
        return LEAST + self.extra

    @abstractmethod
    def pose(self, piece: Piece, draws: Draws, shards: Shards) -> Posed:
        """The task of a piece, which may be empty."""

    def check(self, shards: Shards, length: int) -> None:
        """Raises DataError for shards or windows of `length` tokens that it cannot pose."""
        if shards.vocabulary > self.lexicon.size:
            found = f"{self.lexicon.size:,} tokens"
            raise DataError(shards.folder, "tokenizer", None, found, f"{shards.vocabulary:,}, those of the shards")

    @property
    def facts(self) -> dict[str, Any]:
        """What defines the tasks, for a run that is taken up again."""
        plain = {name: value for name, value in vars(self).items() if isinstance(value, int | float | str)}
        return {"name": self.name, **plain}


class PrefixLM(Objective):
    """The tokens after a prefix of random length; attention stays causal, in the prefix too.

    A decoder reads both and learns the second part. Liu et al. 2018, arXiv:1801.10198.
    """

    name, kind = "prefix", "decoder"

    def pose(self, piece: Piece, draws: Draws, shards: Shards) -> Posed:
        """The tokens of the stream, targets those that follow, except within the prefix."""
        row = piece.stream
        if len(row) < 2:
            return Posed([])
        targets = row[1:].copy()
        targets[: int(draws.below(len(targets))[0])] = IGNORED  # the prefix has this many tokens and one
        return Posed([(row[:-1], targets)])


class PrefixPairs(Objective):
    """As PrefixLM of an encoder-decoder, which reads the prefix in both directions. arXiv:1910.10683, 3.3.1."""

    name, kind, extra = "prefix", "pairs", 1

    def __init__(self, lexicon: Lexicon, start_id: int) -> None:
        super().__init__(lexicon)
        self.start_id = start_id

    def pose(self, piece: Piece, draws: Draws, shards: Shards) -> Posed:
        """The prefix, and what follows it."""
        n = len(piece.ids)
        if n < 2:
            return Posed([])
        cut = 1 + int(draws.below(n - 1)[0])
        after = self.lexicon.after[-1:]
        return Posed(paired(np.append(piece.ids[:cut], after), np.append(piece.ids[cut:], after), self.start_id))


class MaskedLM(Objective):
    """Words that were hidden: `rate` of the tokens, whole words, of which 80 % become the mask token, 10 % any token
    of text and 10 % stay; the targets are those tokens, nothing else.

    Devlin et al. 2019, arXiv:1810.04805; other masks in each epoch, Liu et al. 2019, arXiv:1907.11692. Special tokens
    are never hidden. Raises DataError for a tokenizer without a mask token.
    """

    name, kind = "mlm", "encoder"

    def __init__(self, lexicon: Lexicon, rate: float = 0.15) -> None:
        super().__init__(lexicon)
        self.mask = lexicon.need_mask(self.name)
        self.rate = rate
        self.extra = len(lexicon.before) + len(lexicon.after)

    def pose(self, piece: Piece, draws: Draws, shards: Shards) -> Posed:
        """[CLS] text [SEP]."""
        return Posed([self.hidden([piece.ids], draws)] if len(piece.ids) else [])

    def hidden(self, segments: Sequence[Ids], draws: Draws) -> tuple[Ids, Ids]:
        """(ids, targets) of segments, each with an end after it, words hidden in all of them."""
        parts = [self.lexicon.before, *(each for part in segments for each in (part, self.lexicon.after))]
        row = np.concatenate(parts).astype(np.int32)
        chosen = self._chosen(row, draws)
        targets = np.where(chosen, row, np.int32(IGNORED))
        how, other = draws.uniform(len(row)), self.lexicon.plain[draws.below(len(self.lexicon.plain), len(row))]
        row[chosen & (how < 0.8)] = self.mask
        swapped = chosen & (how >= 0.9)
        row[swapped] = other[swapped]
        return row, targets

    def _chosen(self, row: Ids, draws: Draws) -> Flags:
        """Whole words in random order, as many as fit into the share that is wanted."""
        open_ = ~self.lexicon.special[row]
        starts = self.lexicon.words(row) | ~open_
        word = np.cumsum(starts) - 1
        sizes = np.bincount(word, open_, minlength=int(word[-1]) + 1).astype(np.int64)
        left, chosen = draws.rounded(self.rate * int(open_.sum())), np.zeros(len(sizes), bool)
        for i in draws.order(len(sizes)).tolist():
            if 0 < sizes[i] <= left:
                chosen[i] = True
                left -= int(sizes[i])
            if not left:
                break
        return chosen[word] & open_


class NextSentence(MaskedLM):
    """MaskedLM of two segments, and whether the second follows the first in its document (0), as half of them do, or
    comes from another one (1). Devlin et al. 2019, arXiv:1810.04805.

    Raises DataError for shards of fewer than two documents.
    """

    name = "mlm+nsp"

    def __init__(self, lexicon: Lexicon, rate: float = 0.15) -> None:
        super().__init__(lexicon, rate)
        self.extra += len(lexicon.after)

    def check(self, shards: Shards, length: int) -> None:
        """Another document is needed."""
        super().check(shards, length)
        if shards.documents < 2:
            raise DataError(shards.folder, self.name, None, "one document", "two: half of the segments are another's")

    def pose(self, piece: Piece, draws: Draws, shards: Shards) -> Posed:
        """[CLS] A [SEP] B [SEP]; a piece of one token has no second segment, and no question."""
        ids, n = piece.ids, len(piece.ids)
        if n < 2:
            return Posed([self.hidden([ids], draws)] if n else [], [IGNORED] if n else [])
        cut = self._cut(ids, draws)
        other = int(draws.uniform(1)[0] < 0.5)
        second = self._elsewhere(piece.document, n - cut, draws, shards) if other else ids[cut:]
        if not len(second):
            other, second = 0, ids[cut:]
        return Posed([self.hidden([ids[:cut], second], draws)], [other])

    def _cut(self, ids: Ids, draws: Draws) -> int:
        """Where a sentence begins, else a word, else anywhere, but not at the start."""
        for begins in (self.lexicon.sentences(ids), self.lexicon.words(ids), np.ones(len(ids), bool)):
            places = np.flatnonzero(begins[1:]) + 1
            if len(places):
                return int(places[draws.below(len(places))[0]])
        raise AssertionError("a piece of two tokens has a place between them")

    def _elsewhere(self, document: int, most: int, draws: Draws, shards: Shards) -> Ids:
        """Up to `most` tokens of another document."""
        chosen = (document + 1 + int(draws.below(shards.documents - 1)[0])) % shards.documents
        first, last = shards.extent(chosen)
        begin = first + int(draws.below(max(last - first - most, 0) + 1)[0])
        return self.lexicon.inner(shards.read(begin, min(most, last - begin)))


def paired(source: Ids, target: Ids, start_id: int) -> list[tuple[Ids, Ids]]:
    """Source and target as encoder-decoders take them: the target read one place later, after a start."""
    ids = np.concatenate([[start_id], target[:-1]]).astype(np.int32)
    nothing = np.full(len(source), IGNORED, np.int32)
    return [(source.astype(np.int32), nothing), (ids, target.astype(np.int32))]
