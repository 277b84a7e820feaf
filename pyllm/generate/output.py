"""What `generate` returns with return_dict_in_generate=True."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .config import GenerationConfig
from .prompts import padding
from .sequence import Event, Sequence


@dataclass
class GenerateOutput:
    """The result of a call; the lists have one entry per returned sequence.

    sequences: int64 (batch * num_return_sequences, length), prompts included.
    logprobs: float64 (new tokens,) each, log-softmax of the model's own logits, before any penalty or temperature.
    top_logprobs: per new token [(id, logprob), ...]. prompt_logprobs: float64 (prompt,) each, NaN for the first.
    finish_reasons: stop, length, time, criteria. stopped_by: the end token or stop string, where there is one.
    scores, logits: per step float32 (sequences, vocabulary), as chosen from and as computed; -inf after the end.
    sequences_scores: of beams. beam_indices: int64 (sequences, new tokens), from which of all rows of a step's beams
    each token came, -1 after the end. encoder_attentions, decoder_attentions, cross_attentions: of encoder-decoders,
    for every sequence an array (heads, queries, keys) of each layer. seed: repeats the call.
    """

    sequences: np.ndarray
    new_tokens: list[list[int]]
    finish_reasons: list[str | None]
    stopped_by: list[int | str | None]
    texts: list[str] | None = None
    logprobs: list[np.ndarray] | None = None
    top_logprobs: list[list[list[tuple[int, float]]]] | None = None
    prompt_logprobs: list[np.ndarray] | None = None
    scores: tuple[np.ndarray, ...] | None = None
    logits: tuple[np.ndarray, ...] | None = None
    sequences_scores: np.ndarray | None = None
    beam_indices: np.ndarray | None = None
    encoder_attentions: list[tuple[np.ndarray, ...]] | None = None
    decoder_attentions: list[tuple[np.ndarray, ...]] | None = None
    cross_attentions: list[tuple[np.ndarray, ...]] | None = None
    seed: int | list[int] | None = None

    def __getitem__(self, name: str) -> Any:
        """output["sequences"]. Raises KeyError for a name that has no value."""
        found = getattr(self, name, None) if name in self.__dataclass_fields__ else None
        if found is None:
            raise KeyError(f"GenerateOutput: no {name!r}")
        return found


@dataclass
class Collected:
    """The events of one sequence."""

    sequence: Sequence
    texts: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Keep what an event brings."""
        self.texts.append(event.text)
        if event.logprob is not None:
            self.logprobs.append(event.logprob)
        if event.top is not None:
            self.top.append(event.top)
        if event.scores is not None:
            self.scores.append(event.scores)
        if event.logits is not None:
            self.logits.append(event.logits)


def joined(padded: np.ndarray, new: list[list[int]], copies: int, config: GenerationConfig) -> np.ndarray:
    """int64 (batch * copies, length): each padded prompt, its new tokens, then padding."""
    longest = max(len(tokens) for tokens in new)
    whole = np.full((len(new), padded.shape[1] + longest), padding(config), dtype=np.int64)
    whole[:, : padded.shape[1]] = np.repeat(padded, copies, axis=0)
    for row, tokens in zip(whole, new, strict=True):
        row[padded.shape[1] : padded.shape[1] + len(tokens)] = tokens
    return whole


def per_step(rows: list[list[np.ndarray]]) -> tuple[np.ndarray, ...]:
    """Rows of each sequence as one array (sequences, vocabulary) per step."""
    nothing = np.full_like(rows[0][0], -np.inf)
    steps = max(len(of) for of in rows)
    return tuple(np.stack([of[t] if t < len(of) else nothing for of in rows]) for t in range(steps))


def output_of(
    padded: np.ndarray, found: list[Collected], config: GenerationConfig, seed: int | list[int]
) -> GenerateOutput:
    """The output object, from everything that was collected."""
    new = [one.sequence.generated for one in found]
    copies = len(found) // len(padded)
    out = GenerateOutput(
        joined(padded, new, copies, config),
        new,
        [one.sequence.finish_reason for one in found],
        [one.sequence.stopped_by for one in found],
        seed=seed,
    )
    if found[0].sequence.tokenizer is not None:
        out.texts = ["".join(one.texts) for one in found]
    if config.logprobs is not False:
        out.logprobs = [np.array(one.logprobs) for one in found]
    if config.top_logprobs:
        out.top_logprobs = [one.top for one in found]
    if config.prompt_logprobs:
        scores = [one.sequence.prompt_logprobs for one in found[::copies]]
        out.prompt_logprobs = [row for row in scores if row is not None]
    if config.output_scores:
        out.scores = per_step([one.scores for one in found])
    if config.output_logits:
        out.logits = per_step([one.logits for one in found])
    return out
