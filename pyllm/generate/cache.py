"""The states of sequences in pages from one memory budget, and pages that they share because their tokens are equal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from pyllm.formats import memory as machine

from .errors import CacheBudgetError
from .prefix import PrefixIndex
from .sequence import Sequence

MOST_AT_ONCE = 256  # sequences that run together
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def bytes_of(memory: int | str) -> int:
    """2_000_000_000, "2GB" or "1.5 GiB" as bytes. Raises CacheBudgetError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", str(memory).strip())
    unit = UNITS.get(found[2].upper()) if found else None
    if isinstance(memory, bool) or found is None or unit is None or float(found[1]) <= 0:
        raise CacheBudgetError(f"memory: {memory!r}; allowed are bytes above 0, or a text such as '2GB' or '512MiB'")
    return int(float(found[1]) * unit)


class PagedCache:
    """Keys and values of many sequences, in pages of one pool of fixed size.

    memory: bytes, or a text such as "2GB"; None takes half of what this process may still take, and no more than
    `MOST_AT_ONCE` full contexts need. Raises CacheBudgetError for a budget without a page.
    hits: sequences that began with pages computed by others; reused: their tokens, which were not computed again.
    """

    def __init__(self, model: Any, memory: int | str | None = None) -> None:
        self.model = model
        page = model.new_pool().page_bytes
        limit = self.sensible(page) if memory is None else bytes_of(memory)
        if limit < page:
            raise CacheBudgetError(f"memory: {limit:,} bytes; a page of this model has {page:,}")
        self.pool = model.new_pool(limit)
        self.page_length = self.pool.page_length
        self.index = PrefixIndex(self.page_length)
        self.hits = self.reused = 0

    def sensible(self, page: int) -> int:
        """Bytes to take when nothing is said."""
        positions = MOST_AT_ONCE * self.model.context_length
        free = machine.available()
        enough = max(1, positions // self.model.new_pool().page_length) * page
        return enough if free is None else min(enough, free // 2)

    @property
    def used(self) -> int:
        """Pages that are not free: in use, or kept because their prefix may come again."""
        return self.pool.pages - self.pool.free_pages  # type: ignore[no-any-return]

    def pages(self, positions: int) -> int:
        """Pages that hold so many positions."""
        return -(-positions // self.page_length)

    def check_fits(self, sequence: Sequence) -> None:
        """Refuse a sequence that would not fit if it ran alone."""
        need, have = self.pages(sequence.positions), self.pool.pages
        if need > have:
            raise CacheBudgetError(
                f"generate: {sequence.positions:,} tokens need {need:,} pages of {self.page_length}, the memory budget "
                f"has {have:,}; shorten the prompt, lower max_new_tokens or give more memory"
            )

    def begin(self, sequence: Sequence) -> bool:
        """Give a state with the pages of all known tokens and one to grow; False when they are not to be had."""
        sequence.state = self.model.new_state(self.pool)
        reused = self.place(sequence)
        length = min(len(sequence.tokens) + self.page_length, sequence.positions)
        need, free = self.pages(length) - sequence.state.pages, self.pool.free_pages
        if need > free and need > free + self.index.idle():
            self.end(sequence)
            return False
        self.count(sequence, reused)
        return self.reserve(sequence, length)

    def end(self, sequence: Sequence) -> None:
        """Take the state away; its full pages stay until their memory is needed."""
        self.index.touch(sequence.chain)
        sequence.chain = []
        sequence.free()

    def reserve(self, sequence: Sequence, length: int) -> bool:
        """Pages to write up to length, at the cost of prefixes that nobody uses; False when all are in use."""
        while not sequence.state.reserve(length):
            if not self.index.evict():
                return False
        return True

    def extend(self, sequence: Sequence) -> None:
        """Place pages that others computed from the same tokens behind the state, as far as there are any.

        Ends before the first position whose logits are wanted, and where the state does not end with a page.
        """
        self.count(sequence, self.place(sequence))

    def count(self, sequence: Sequence, reused: int) -> None:
        """Note tokens that need not be computed."""
        self.hits += reused > 0 and sequence.reused == 0
        sequence.reused += reused
        self.reused += reused

    def place(self, sequence: Sequence) -> int:
        """The work of `extend`; the number of tokens."""
        chain, start = sequence.chain, sequence.state.length
        while self.shareable(sequence) and (node := self.index.find(sequence.tokens, chain)) is not None:
            sequence.state.place(len(chain), node.page)
            chain.append(node)
        self.index.touch(chain)
        return int(sequence.state.length - start)

    def shareable(self, sequence: Sequence) -> bool:
        """Whether the state is at the beginning of a page that could come from elsewhere."""
        done = len(sequence.chain) * self.page_length
        return bool(sequence.state.length == done and done + self.page_length <= sequence.first_row)

    def next_page(self, sequence: Sequence) -> tuple[Any, bytes]:
        """What names the page that the sequence computes next."""
        return self.index.last(sequence.chain), self.index.key(sequence.tokens, len(sequence.chain))

    def keep(self, sequence: Sequence) -> None:
        """Enter the pages that have become full; one that is here already takes the place of its twin."""
        chain, state = sequence.chain, sequence.state
        full = min(state.length, len(sequence.tokens)) // self.page_length
        while len(chain) < full:
            node = self.index.find(sequence.tokens, chain)
            if node is not None:
                state.place(len(chain), node.page)
            else:
                node = self.index.put(sequence.tokens, chain, state.page(len(chain)))
            if node is None:
                break
            chain.append(node)

    def clear(self) -> None:
        """Forget all prefixes."""
        self.index.clear()


_lending = Lock()


@contextmanager
def borrowed(model: Any) -> Iterator[PagedCache]:
    """A cache of default size for one call. The model keeps it for the next; a call at the same time gets another."""
    with _lending:
        cache, model.idle_cache = getattr(model, "idle_cache", None), None
    cache = cache or PagedCache(model)
    try:
        yield cache
    finally:
        cache.clear()
        model.idle_cache = cache
