"""Beam search: the `num_beams` best prefixes go on, each in its own fork of the state."""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _core
from .config import GenerationConfig
from .errors import GenerationError
from .output import GenerateOutput, joined
from .prompts import check_ids, check_length
from .sampler import Processor, Sampler
from .stopping import Criterion, StopRules

Continuation = tuple[float, int, int, float]  # score, parent, token, log-probability
NOTHING = -1e9  # the score of a beam that is none
BEAMS = 64  # beams of all prompts in one step, unless a single prompt has more: what bounds states and logits


@dataclass
class Beam:
    """A prefix: score is the sum of its processed log-probabilities; logprobs are those of the model alone."""

    tokens: array[int]
    score: float = 0.0
    logprobs: list[float] = field(default_factory=list)
    state: Any = None
    parents: list[int] = field(default_factory=list)  # which beam each token grew from
    reason: str | None = None

    @property
    def parent(self) -> int:
        """Which of the last step's beams this one grew from."""
        return self.parents[-1]

    def grown(self, parent: int, token: int, score: float, logprob: float) -> Beam:
        """This prefix and one token more."""
        said = self.tokens + array("q", [token])
        return Beam(said, score, [*self.logprobs, logprob], None, [*self.parents, parent])


class BeamSearch:
    """The search over one prompt.

    A finished beam is worth score / (new tokens ** length_penalty). early_stopping: True ends with num_beams finished
    ones; False when the best running beam, at its present length, can no longer beat the worst finished one; "never"
    when it cannot at any length. In every step the best (1 + end tokens) * num_beams continuations are looked at.
    """

    def __init__(
        self, tokens: list[int], config: GenerationConfig, sampler: Sampler, rules: StopRules, tokenizer: Any
    ) -> None:
        self.config, self.sampler, self.rules, self.tokenizer = config, sampler, rules, tokenizer
        self.prompt = len(tokens)
        self.running = [Beam(array("q", tokens))]
        self.finished: list[tuple[float, Beam]] = []  # the best first
        self.done = False

    @property
    def most(self) -> int:
        """How many continuations are looked at in a step."""
        return max(2, 1 + len(self.config.end_ids)) * self.config.num_beams

    def edited(self, rows: Any) -> np.ndarray:
        """What is chosen from, float32 (beams, vocabulary): log-probabilities after all edits."""
        shifted = [(row - _core.log_sum_exp(row)).astype(np.float32) for row in rows]
        pairs = zip(shifted, self.running, strict=True)
        return np.stack([self.sampler.edit(row, beam.tokens, self.prompt, self.rules.most) for row, beam in pairs])

    def continuations(self, rows: Many[np.ndarray]) -> list[Continuation]:
        """As `continued` says, of this search and with the caller's processors."""
        found: list[Continuation] = []
        for parent, (beam, row) in enumerate(zip(self.running, rows, strict=True)):
            plain = (row - _core.log_sum_exp(row)).astype(np.float32)
            edited = self.sampler.edit(plain, beam.tokens, self.prompt, self.rules.most)
            for token, _ in _core.likeliest(edited, self.most):
                found.append((beam.score + float(edited[token]), parent, token, float(plain[token])))
        found.sort(key=lambda each: -each[0])
        return found[: self.most]

    def reason(self, beam: Beam) -> str | None:
        """Why this continuation ends, or None."""
        found = self.rules.reason(beam.tokens)
        if found is None and self.rules.strings:
            text = self.tokenizer.decode(list(beam.tokens[self.prompt :]))
            found = "stop" if any(string in text for string in self.rules.strings) else None
        return found

    def advance(self, best: Many[Continuation]) -> list[Beam]:
        """One token further, by the best continuations; the beams to go on with, whose parents are the old ones."""
        config = self.config
        going: list[Beam] = []
        full = config.early_stopping is True and len(self.finished) == config.num_beams
        for place, (score, parent, token, logprob) in enumerate(best):
            if place >= config.num_beams == len(going):
                break
            beam = self.running[parent].grown(parent, token, score, logprob)
            beam.reason = self.reason(beam)
            if beam.reason is None and len(going) < config.num_beams:
                going.append(beam)
            elif beam.reason is not None and place < config.num_beams and not full:
                self.finished.append((score / len(beam.logprobs) ** config.length_penalty, beam))
        self.finished.sort(key=lambda pair: -pair[0])
        del self.finished[config.num_beams :]
        self.done = not going or self.settled(going[0])
        return [] if self.done else going

    def settled(self, leader: Beam) -> bool:
        """True when going on cannot improve what is finished, by the rule of early_stopping."""
        config = self.config
        if len(self.finished) < config.num_beams:
            return False
        if config.early_stopping is True:
            return True
        farthest = config.early_stopping == "never" and config.length_penalty > 0
        length = self.rules.most - self.prompt if farthest else len(leader.logprobs)
        return leader.score / length**config.length_penalty <= self.finished[-1][0]

    def fed(self) -> list[tuple[Any, list[int]]]:
        """What the model is to be fed: of each running beam the tokens that its state has not seen."""
        return [(beam.state, list(beam.tokens[beam.state.length :])) for beam in self.running]

    def replace(self, beams: list[Beam]) -> None:
        """Let `beams` run on: the first child of a beam takes its state over, others fork it, the rest is freed."""
        old = self.running
        self.running = old + beams  # so that free() reaches every state whatever fails here
        heirs: dict[int, Beam] = {}
        for beam in beams:
            if beam.parent in heirs:
                beam.state = heirs[beam.parent].state.fork()
            else:
                heirs[beam.parent] = beam
                beam.state, old[beam.parent].state = old[beam.parent].state, None
        for beam in old:
            if beam.state is not None:
                state, beam.state = beam.state, None
                state.free()
        self.running = beams

    def free(self) -> None:
        """Give all states back."""
        for beam in self.running:
            state, beam.state = beam.state, None
            if state is not None:
                state.free()


def beam_search(
    model: Any,
    padded: np.ndarray,
    prompts: list[list[int]],
    config: GenerationConfig,
    lengths: tuple[int, int],
    tokenizer: Any = None,
    processors: Many[Processor] = (),
    criteria: Many[Criterion] = (),
) -> np.ndarray | GenerateOutput:
    """The num_return_sequences best finished beams of each prompt, best first.

    All beams of a prompt are one step of the model, which prompts share while they have BEAMS beams together.
    """
    for name in ("top_logprobs", "prompt_logprobs", "output_scores", "output_logits"):
        if getattr(config, name):
            raise GenerationError(name, getattr(config, name), "not with num_beams > 1")
    context = model.context_length
    least, most = lengths
    sampler = Sampler(config.update(min_new_tokens=least), processors)
    deadline = None if config.max_time is None else time.monotonic() + config.max_time
    searches: list[BeamSearch] = []
    for number, prompt in enumerate(prompts):
        check_ids(prompt, model.config.vocab_size, number)
        check_length(len(prompt), context)
        ends, strings = frozenset(config.end_ids), config.stop_strings or ()
        rules = StopRules(ends, min(len(prompt) + most, context), strings, criteria, deadline)
        searches.append(BeamSearch(prompt, config, sampler, rules, tokenizer))
    try:
        run(model, searches, max(1, BEAMS // config.num_beams))
    finally:
        for search in searches:
            search.free()
    return result(padded, searches, config)


def run(model: Any, searches: list[BeamSearch], most: int) -> None:
    """Search to the end, `most` searches at a time; where one ends the next begins."""
    waiting = deque(searches)
    going: list[BeamSearch] = []
    while waiting or going:
        while waiting and len(going) < most:
            going.append(waiting.popleft())
            going[-1].running[0].state = model.new_state()
        step(model, going)
        going = [search for search in going if not search.done]


def step(model: Any, searches: list[BeamSearch]) -> None:
    """One step of the model for all beams of all searches."""
    fed = [search.fed() for search in searches]
    rows = model.step([pair for pairs in fed for pair in pairs], logits="last")
    for search, best in zip(searches, continued(searches, rows), strict=True):
        search.replace(search.advance(best))


def continued(searches: list[BeamSearch], rows: Any) -> list[list[Continuation]]:
    """Of every search the best continuations of all its running beams, in descending order, from one row of logits for
    each beam: (score, which of the running beams, token, the model's own log-probability).
    """
    ends = np.cumsum([len(search.running) for search in searches])
    starts = [0, *ends[:-1].tolist()]
    sampler, most = searches[0].sampler, searches[0].most
    if sampler.in_python:
        parts = zip(searches, starts, ends.tolist(), strict=True)
        return [search.continuations(rows[first:end]) for search, first, end in parts]
    beams = [(search, beam) for search in searches for beam in search.running]
    said = [(beam.tokens, search.prompt, search.rules.most) for search, beam in beams] if sampler.core.edits else []
    logits = np.ascontiguousarray(rows, np.float32)
    found = _core.continuations(sampler.core, logits, [beam.score for _, beam in beams], [0, *ends], most, said)
    return [
        [(score, row - first, token, logprob) for score, row, token, logprob in best]
        for first, best in zip(starts, found, strict=True)
    ]


def answers(search: BeamSearch, config: GenerationConfig) -> list[tuple[float, Beam]]:
    """The num_return_sequences best; where fewer are possible (a forced end) the best again, worth next to nothing
    (transformers' score; its third such row may hold padding instead)."""
    found = search.finished[: config.num_return_sequences]
    again = found[0][1]
    worth = NOTHING / len(again.logprobs) ** config.length_penalty
    return found + [(worth, again)] * (config.num_return_sequences - len(found))


def result(padded: np.ndarray, searches: list[BeamSearch], config: GenerationConfig) -> np.ndarray | GenerateOutput:
    """What `generate` returns, from finished searches."""
    best = [pair for search in searches for pair in answers(search, config)]
    new = [list(beam.tokens[len(beam.tokens) - len(beam.logprobs) :]) for _, beam in best]
    whole = joined(padded, new, config.num_return_sequences, config)
    if not config.return_dict_in_generate:
        return whole
    out = GenerateOutput(whole, new, [beam.reason for _, beam in best], [None] * len(best))
    out.sequences_scores = np.array([worth for worth, _ in best])
    out.beam_indices = np.full((len(best), max(map(len, new))), -1, np.int64)
    for row, (i, (_, beam)) in zip(out.beam_indices, enumerate(best), strict=True):
        row[: len(beam.parents)] = beam.parents
        row[: len(beam.parents)] += i // config.num_return_sequences * config.num_beams
    if config.logprobs is not False:
        out.logprobs = [np.array(beam.logprobs) for _, beam in best]
    return out
