"""One running continuation of a prompt: its tokens, its state in the model, its text and why it ended."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import _core
from .lookup import PromptLookup
from .sampler import Sampler
from .stopping import StopRules, StopText


@dataclass
class Event:
    """One new token of one sequence.

    text: what the token adds to the readable text ("" without a tokenizer, or while a character or a possible stop
    string is incomplete). finish_reason: None, or stop, length, time, criteria, error. error: what was raised.
    """

    sequence: Sequence = field(repr=False)
    index: int
    token: int | None
    text: str = ""
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None
    scores: np.ndarray | None = None
    logits: np.ndarray | None = None
    finish_reason: str | None = None
    error: Exception | None = None


@dataclass
class Wants:
    """What is to be reported with each token."""

    logprob: bool = False
    top: int = 0
    scores: bool = False
    logits: bool = False
    prompt: bool = False  # the log-probabilities of the prompt


PROMPT_ROWS = 64  # rows of logits held at once for the log-probabilities of a prompt: 12 MB at 49,152 tokens


@dataclass(eq=False)
class Sequence:
    """A prompt and what follows it: what a step is to compute for it (`feed`) and what becomes of that (`take`).

    The tokens after the first `state.length` are not in the state yet. With own=False the state belongs to somebody
    else, who frees it. siblings continue the same prompt from forks of this state, once it is computed. A draw depends
    on (seed, stream, number of tokens so far) only, so a state may be dropped at any time and computed again.
    """

    tokens: array[int]
    sampler: Sampler
    rules: StopRules
    state: Any = None
    index: int = 0
    seed: int = 0
    stream: int = 0
    own: bool = True
    tokenizer: Any = None
    skip_special_tokens: bool = False
    wants: Wants = field(default_factory=Wants)
    siblings: Many[Sequence] = ()
    lookup: PromptLookup | None = None  # drafts of what may come next, checked together with the last token
    prompt: int = 0
    finish_reason: str | None = None
    prompt_logprobs: np.ndarray | None = None
    stopped_by: int | str | None = None

    def __post_init__(self) -> None:
        self.prompt = len(self.tokens)
        if self.wants.prompt:
            self.prompt_logprobs = np.full(self.prompt, np.nan)
        self.decoder = None
        if self.tokenizer is not None:
            self.decoder = self.tokenizer.stream(skip_special_tokens=self.skip_special_tokens)
        self.watch = StopText(self.rules.strings)
        self.scored = 0  # prompt tokens whose log-probabilities are known
        self.chain: list[Any] = []  # the pages of the state that are in the prefix index
        self.reused = 0  # tokens whose keys and values came from other sequences
        self.ticket = 0  # the order of arrival
        self.drafted: list[int] = []  # of the last feed

    @property
    def generated(self) -> list[int]:
        """The tokens after the prompt."""
        return list(self.tokens[self.prompt :])

    @property
    def positions(self) -> int:
        """Positions that the state will have at most: the last token is never fed."""
        return max(self.rules.most - 1, len(self.tokens))

    @property
    def first_row(self) -> int:
        """The first position whose logits are wanted; the state may get those before it from elsewhere."""
        if self.wants.prompt and self.scored < self.prompt - 1:
            return self.scored
        return len(self.tokens) - 1

    def feed(self, most: int) -> tuple[Many[int], int]:
        """Up to `most` tokens that the state has not seen, and of how many of them, the last ones, logits are wanted.

        Tokens may be fed that are not in `tokens`; `take` then cuts the state back to what it keeps of them.
        """
        start = self.state.length
        self.drafted = []
        if self.lookup is not None and start == len(self.tokens) - 1 == self.first_row and not self.siblings:
            self.drafted = self.lookup.drafts(self.tokens, min(most, self.rules.most - len(self.tokens)) - 1)
            return [self.tokens[-1], *self.drafted], 1 + len(self.drafted)
        first, end = self.first_row, min(start + most, len(self.tokens))
        if first < len(self.tokens) - 1:  # many rows are wanted: none of them with the tokens before
            end = min(end, start + PROMPT_ROWS if start >= first else first)
        return self.tokens[start:end], max(0, end - max(start, first))

    def take(self, rows: np.ndarray) -> list[Event]:
        """The logits (rows, vocabulary) that were wanted of the last `feed`; the tokens that come of them.

        Each token is chosen as it would be without drafts; as long as it is the draft, the next row is its successor's.
        """
        if self.drafted:
            return self.check(rows)
        end = self.state.length
        if self.wants.prompt:
            self.score(rows, end - len(rows))
        return [self.advance(rows[-1])] if len(rows) and end == len(self.tokens) else []

    def check(self, rows: np.ndarray) -> list[Event]:
        """The tokens that come of the rows of the last token and of its drafts; the state keeps what was right."""
        events: list[Event] = []
        try:
            for row, draft in zip(rows, [*self.drafted, None], strict=True):
                events.append(self.advance(row))
                if self.finish_reason is not None or self.tokens[-1] != draft:
                    break
        except Exception as error:
            if not events:
                raise
            events.append(self.fail(error))
        finally:
            self.state.truncate(min(self.state.length, len(self.tokens) - 1))
        if self.lookup is not None:
            self.lookup.learn(len(self.drafted), len(events) - 1)
        return events

    def score(self, rows: np.ndarray, start: int) -> None:
        """Log-probabilities of the prompt's tokens from the rows before them; NaN first: nothing comes before it."""
        rows = rows[: max(0, self.prompt - 1 - start)]
        if len(rows) and self.prompt_logprobs is not None:
            self.scored = start + len(rows)
            tokens = np.array(self.tokens[start + 1 : self.scored + 1], dtype=np.int64)
            self.prompt_logprobs[start + 1 : self.scored + 1] = _core.log_softmax_at(rows, tokens)

    def advance(self, logits: np.ndarray) -> Event:
        """Choose the next token from logits (vocabulary,) float32, and tell what it brings."""
        wants = self.wants
        choice = self.sampler(
            logits,
            self.tokens,
            self.prompt,
            seed=self.seed,
            sequence=self.stream,
            logprob=wants.logprob,
            top=wants.top,
            scores=wants.scores,
            most=self.rules.most,
        )
        self.tokens.append(choice.token)
        reason = self.rules.reason(self.tokens, choice.scores)
        text = self.read(choice.token, reason)
        if self.watch.matched is not None and self.stopped_by is None:
            self.stopped_by = self.watch.matched
            reason = "stop"
        elif reason == "stop":
            self.stopped_by = choice.token
        self.finish_reason = reason
        copy = logits.copy() if wants.logits else None
        return Event(self, self.index, choice.token, text, choice.logprob, choice.top, choice.scores, copy, reason)

    def read(self, token: int, reason: str | None) -> str:
        """The text that becomes certain with this token; an end token has none."""
        if self.decoder is None:
            return ""
        piece = "" if token in self.rules.end_ids else self.decoder.put(token)
        text = self.watch.put(piece)
        if reason is not None and self.watch.matched is None:
            text += self.watch.put(self.decoder.end())
            text += self.watch.end()
        return text

    def fail(self, error: Exception) -> Event:
        """End with an error."""
        self.finish_reason = "error"
        return Event(self, self.index, None, finish_reason="error", error=error)

    def free(self) -> None:
        """Give the state back; may be called twice."""
        state, self.state = self.state, None
        if state is not None and self.own:
            state.free()
