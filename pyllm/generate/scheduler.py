"""Who takes part in the next step of the model, and with how many tokens: continuous batching in a fixed memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Sequence as Many
from itertools import count
from typing import Any

import numpy as np

from .cache import MOST_AT_ONCE, PagedCache
from .sequence import Event, Sequence

DRAFTS = 64  # drafted tokens of all sequences that a step checks
Work = tuple[Sequence, Many[int], int]  # a sequence, the tokens it is fed, of how many of them logits are wanted


class Scheduler:
    """Sequences that share the model's steps. They join and leave between steps, and none changes another's tokens.

    They are admitted in the order of arrival, each when the cache has pages for its prompt and one to grow. When pages
    run out, the youngest gives its own back and waits in front; later it is computed again from its tokens, to the same
    bytes. The oldest therefore always goes on. Prompts are fed `chunk` tokens a step, an eighth of that while others
    wait for their next token. A sequence that begins like an earlier one waits until that has computed the page.

    Use as a context manager, which frees every state also on errors and Ctrl-C.
    """

    def __init__(
        self, model: Any, cache: PagedCache | None = None, *, chunk: int = 512, max_sequences: int = MOST_AT_ONCE
    ) -> None:
        self.model = model
        self.cache = PagedCache(model) if cache is None else cache
        self.chunk, self.max_sequences = chunk, max_sequences
        self.waiting: OrderedDict[Sequence, None] = OrderedDict()
        self.running: dict[Sequence, None] = {}
        self.tickets = count()
        self.preemptions = 0

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, sequence: Sequence) -> None:
        """Let a sequence take part as soon as there is room. Raises CacheBudgetError when there never will be."""
        if sequence.own:
            self.cache.check_fits(sequence)
        for each in (sequence, *sequence.siblings):
            each.ticket = next(self.tickets)
        self.waiting[sequence] = None

    def remove(self, sequence: Sequence) -> None:
        """Let a sequence leave, with siblings that have not begun; its state is freed. Nothing if it has left."""
        self.waiting.pop(sequence, None)
        self.running.pop(sequence, None)
        if sequence.state is not None:
            self.cache.end(sequence)

    def close(self) -> None:
        """Let all leave."""
        for sequence in [*self.waiting, *self.running]:
            self.remove(sequence)

    def step(self) -> list[Event]:
        """One step of the model for everybody; the new tokens. A sequence that ends leaves.

        An error that concerns one sequence ends that one (Event.error). An interrupt is raised, and then no sequence
        has moved.
        """
        self.admit()
        work = self.with_pages(self.plan())
        events: list[Event] = []
        for sequence, rows in self.compute(work) if work else ():
            events += self.fail(sequence, rows) if isinstance(rows, Exception) else self.advance(sequence, rows)
        return events

    def run(self) -> Iterator[Event]:
        """Step until nobody is left; closing the iterator stops at once and frees the states."""
        with self:
            while self.running or self.waiting:
                yield from self.step()

    def admit(self) -> None:
        """Let those who wait begin, the first first, while there are pages."""
        while self.waiting and len(self.running) < self.max_sequences:
            sequence = next(iter(self.waiting))
            if sequence.own and not self.cache.begin(sequence):
                break
            del self.waiting[sequence]
            self.running[sequence] = None

    def plan(self) -> list[Work]:
        """Who is fed what in the next step."""
        decoding = any(len(each.tokens) - each.state.length == 1 for each in self.running)
        left = max(1, self.chunk // 8) if decoding else self.chunk
        drafts = DRAFTS
        begun: set[Any] = set()
        chosen: list[Work] = []
        for sequence in self.running:
            if len(sequence.tokens) - sequence.state.length == 1:
                ids, rows = sequence.feed(1 + drafts)
                chosen.append((sequence, ids, rows))
                drafts -= len(ids) - 1
            elif left > 0 and not self.computed_by_another(sequence, begun):
                ids, rows = sequence.feed(left)
                chosen.append((sequence, ids, rows))
                left -= len(ids)
        return chosen

    def computed_by_another(self, sequence: Sequence, begun: set[Any]) -> bool:
        """Whether the sequence had better wait for a page that another computes; else notes the page it computes."""
        if not sequence.own:
            return False
        self.cache.extend(sequence)
        page = self.cache.next_page(sequence)
        if page in begun and self.cache.shareable(sequence):
            return True
        begun.add(page)
        return False

    def with_pages(self, work: list[Work]) -> list[Work]:
        """The work that there are pages for; the youngest give theirs up for the others."""
        for sequence, ids, _ in work:
            while sequence.own and sequence in self.running:
                if self.cache.reserve(sequence, sequence.state.length + len(ids)):
                    break
                self.preempt(max((each for each in self.running if each.own), key=lambda each: each.ticket))
        return [each for each in work if each[0] in self.running]

    def preempt(self, sequence: Sequence) -> None:
        """Take a sequence's pages; it is the next to be admitted."""
        del self.running[sequence]
        self.cache.end(sequence)
        self.waiting[sequence] = None
        self.waiting.move_to_end(sequence, last=False)
        self.preemptions += 1

    def compute(self, work: list[Work]) -> list[tuple[Sequence, np.ndarray | Exception]]:
        """The step itself: each one's logits, or the error that it alone causes."""
        try:
            logits = self.model.step([(sequence.state, ids) for sequence, ids, _ in work], [rows for *_, rows in work])
        except Exception as error:
            if len(work) == 1:
                return [(work[0][0], error)]
            return [found for each in work for found in self.compute([each])]
        ends = np.cumsum([rows for *_, rows in work])
        return [(each[0], logits[end - each[2] : end]) for each, end in zip(work, ends, strict=True)]

    def advance(self, sequence: Sequence, rows: np.ndarray) -> list[Event]:
        """What the logits bring to one sequence, and to its siblings when the prompt has just been computed."""
        siblings: Many[Sequence] = ()
        if sequence.siblings and sequence.state.length == len(sequence.tokens):
            siblings, sequence.siblings = sequence.siblings, ()
            for each in siblings:
                each.state, each.chain = sequence.state.fork(), list(sequence.chain)
                self.running[each] = None
        events = self.take(sequence, rows)
        for each in siblings:
            each.prompt_logprobs, each.scored = sequence.prompt_logprobs, sequence.scored
            events += self.take(each, rows[-1:])
        return events

    def take(self, sequence: Sequence, rows: np.ndarray) -> list[Event]:
        """What the logits bring to one sequence."""
        try:
            events = sequence.take(rows)
        except Exception as error:
            return self.fail(sequence, error)
        if sequence.own:
            self.cache.keep(sequence)
        if sequence.finish_reason is not None:
            self.remove(sequence)
        return events

    def fail(self, sequence: Sequence, error: Exception) -> list[Event]:
        """End a sequence, and siblings that have not begun, with an error."""
        self.remove(sequence)
        return [each.fail(error) for each in (sequence, *sequence.siblings)]
