"""Many texts through shared steps of the model: what scoring and embedding have in common."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..generate.prompts import check_ids, rows_of

STEP_ROWS = 512  # tokens of one step
STEP_STATES = 64  # texts of one step: short ones would each hold a page of keys and values


class Passage(NamedTuple):
    """Token ids to feed; hidden rows are wanted from the place `first` on."""

    tokens: list[int]
    first: int = 0


class Piece(NamedTuple):
    """Rows of one step: of which passage, from which place, how many."""

    passage: int
    place: int
    rows: int


@dataclass
class _Feed:
    """A passage on its way, or (passage -1) what several passages begin with."""

    passage: int
    tokens: list[int]
    first: int
    context: _Feed | None = None
    followers: int = 0
    fed: int = 0
    state: Any = None

    @property
    def waits(self) -> bool:
        """True while what it begins with has not been computed."""
        return self.context is not None and self.context.fed < len(self.context.tokens)

    def open(self, model: Any) -> None:
        """Start from an empty state, or from the context's; the last follower takes that one over."""
        if self.context is None:
            self.state = model.new_state()
            return
        self.fed = len(self.context.tokens)
        self.context.followers -= 1
        if self.context.followers:
            self.state = self.context.state.fork()
        else:
            self.state, self.context.state = self.context.state, None

    def free(self) -> None:
        """Give the state back."""
        state, self.state = self.state, None
        if state is not None:
            state.free()


def feeds_of(passages: Sequence[Passage]) -> list[_Feed]:
    """The passages in their order, before each group with the same tokens[:first] these tokens once."""
    shared = Counter(tuple(tokens[:first]) for tokens, first in passages)
    contexts: dict[tuple[int, ...], _Feed] = {}
    feeds = []
    for number, (tokens, first) in enumerate(passages):
        begin = tuple(tokens[:first])
        if begin and shared[begin] > 1 and begin not in contexts:
            contexts[begin] = _Feed(-1, list(begin), first, followers=shared[begin])
            feeds.append(contexts[begin])
        feeds.append(_Feed(number, tokens, first, contexts.get(begin)))
    return feeds


def hidden_rows(model: Any, passages: Sequence[Passage]) -> Iterator[tuple[NDArray[np.float32], list[Piece]]]:
    """Per step of the model (hidden rows (n, width), whose they are). Equal contexts are computed once.

    A passage's rows come in order, possibly over several steps. States live from a passage's first step to its last.
    """
    feeds = feeds_of(passages)
    queue = deque(feeds)
    try:
        while queue:
            chosen = plan(queue, model)
            pieces, batch, wants = [], [], []
            for feed, take in chosen:
                start, end = feed.fed, feed.fed + take
                place = min(end, max(start, feed.first))
                batch.append((feed.state, feed.tokens[start:end]))
                wants.append(end - place)
                pieces.append(Piece(feed.passage, place, end - place))
            rows = model.hidden(batch, wants)
            for feed, take in chosen:
                feed.fed += take
                if feed.fed == len(feed.tokens) and not feed.followers:
                    feed.free()
            yield rows, [piece for piece in pieces if piece.rows]
    finally:
        for feed in feeds:
            feed.free()


def plan(queue: deque[_Feed], model: Any) -> list[tuple[_Feed, int]]:
    """Who is fed how many tokens in the next step; what is not finished by it stays in front of the queue."""
    chosen: list[tuple[_Feed, int]] = []
    later = []
    room = STEP_ROWS
    while queue and room and len(chosen) < STEP_STATES:
        feed = queue.popleft()
        if feed.waits:
            later.append(feed)
            continue
        if feed.state is None:
            feed.open(model)
        take = min(room, len(feed.tokens) - feed.fed)
        chosen.append((feed, take))
        room -= take
        if feed.fed + take < len(feed.tokens):
            later.append(feed)
    queue.extendleft(reversed(later))
    return chosen


def ids_of(model: Any, inputs: Any, tokenizer: Any = None) -> list[list[int]]:
    """Token ids of one text, of texts, or ids as `generate` takes them. Raises ValueError for a text without tokens."""
    texts = [inputs] if isinstance(inputs, str | bytes) else inputs
    if isinstance(texts, list | tuple) and texts and all(isinstance(text, str | bytes) for text in texts):
        tokenizer = model.tokenizer if tokenizer is None else tokenizer
        found = [tokenizer.encode(text) for text in texts]
    else:
        found = [row.tolist() for row in rows_of(texts)]
    for number, ids in enumerate(found):
        if not ids:
            raise ValueError(f"texts[{number}]: no tokens; at least 1 is needed")
        check_ids(ids, model.config.vocab_size, number)
    return found
