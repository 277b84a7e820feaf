"""Sequences that share the model's steps. They join and leave between steps, and none changes another's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Many
from typing import Any

import numpy as np

from .. import _core
from .sequence import Event, Sequence

PROMPT_ROWS = 64  # rows of logits held at once for the log-probabilities of a prompt: 12 MB at 49,152 tokens


class Batch:
    """Running sequences over one model; use as a context manager, which frees every state also on errors and Ctrl-C.

    budget: prompt tokens fed per step; sequences that only need their last token fed always take part.
    """

    def __init__(self, model: Any, budget: int = 512) -> None:
        self.model = model
        self.budget = budget
        self.running: list[Sequence] = []
        self.siblings: dict[int, list[Sequence]] = {}

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, first: Sequence, *siblings: Sequence) -> None:
        """Let a sequence take part from the next step on; siblings continue the same prompt, which is computed once."""
        self.running.append(first)
        self.siblings[id(first)] = list(siblings)
        if first.state is None:
            first.state = self.model.new_state()

    def remove(self, sequence: Sequence) -> None:
        """Let a sequence leave; its state is freed."""
        self.running = [other for other in self.running if other is not sequence]
        self.siblings.pop(id(sequence), None)
        sequence.free()

    def close(self) -> None:
        """Let all leave."""
        for sequence in list(self.running):
            self.remove(sequence)

    def plan(self) -> list[tuple[Sequence, Many[int]]]:
        """Who is fed what in the next step."""
        left = self.budget
        chosen = []
        for sequence in self.running:
            waiting = len(sequence.tokens) - sequence.state.length
            take = 1 if waiting == 1 else min(waiting, left)
            if take > 0:
                chosen.append((sequence, sequence.pending(take)))
                left -= take if waiting > 1 else 0
        return chosen

    def step(self) -> list[Event]:
        """One step of the model for everybody; the new tokens. A sequence that ends leaves.

        An error that concerns one sequence ends that one (Event.error); an error of the step itself is raised, and
        then no sequence has moved.
        """
        for sequence in self.running:
            if sequence.wants.prompt and sequence.prompt_logprobs is None:
                score_prompt(self.model, sequence)
        chosen = self.plan()
        logits = self.model.step([(sequence.state, ids) for sequence, ids in chosen], logits="last")
        events = []
        for (sequence, _), row in zip(chosen, logits, strict=True):
            if sequence.state.length < len(sequence.tokens):
                continue  # more of its prompt follows
            for each in self.branch(sequence):
                events.append(self.advance(each, row))
        return events

    def branch(self, sequence: Sequence) -> list[Sequence]:
        """The sequence and, when its prompt has just been computed, its siblings, which start from a fork."""
        siblings = self.siblings.pop(id(sequence), [])
        for sibling in siblings:
            sibling.state = sequence.state.fork()
            sibling.prompt_logprobs = sequence.prompt_logprobs
            self.running.append(sibling)
        return [sequence, *siblings]

    def advance(self, sequence: Sequence, row: np.ndarray) -> Event:
        """The next token of one sequence."""
        try:
            event = sequence.advance(row)
        except Exception as error:
            event = sequence.fail(error)
        if event.finish_reason is not None:
            self.remove(sequence)
        return event

    def run(self) -> Iterator[Event]:
        """Step until nobody is left; closing the iterator stops at once and frees the states."""
        with self:
            while self.running:
                yield from self.step()


def score_prompt(model: Any, sequence: Sequence) -> None:
    """Feed all but the last prompt token; prompt_logprobs (prompt,) float64, NaN first: nothing comes before it."""
    tokens = np.array(sequence.tokens, dtype=np.int64)
    scores = np.full(tokens.size, np.nan)
    for start in range(0, tokens.size - 1, PROMPT_ROWS):
        end = min(start + PROMPT_ROWS, tokens.size - 1)
        rows = model.step([(sequence.state, tokens[start:end].tolist())], logits="all")
        scores[start + 1 : end + 1] = _core.log_softmax_at(rows, tokens[start + 1 : end + 1])
    sequence.prompt_logprobs = scores
