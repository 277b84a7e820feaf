"""Edits of scores that few models ask for, in Python; what is common is edited in C++. transformers' names."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import numpy as np

from .config import GenerationConfig

# (scores (vocabulary,) float32 to change, the tokens so far, how many of them were given)
Edit = Callable[[np.ndarray, "array[int]", int], None]


def first_edits(config: GenerationConfig, source: Sequence[int] | None) -> list[Edit]:
    """Those of the scores as the model gives them. source: what targets are made of; None: their own beginning."""
    found: list[Edit] = []
    if config.sequence_bias:

        def biased(row: np.ndarray, tokens: array[int], prompt: int) -> None:
            for (*before, last), amount in config.sequence_bias:
                if list(tokens[len(tokens) - len(before) :]) == before:
                    row[last] += amount

        found.append(biased)
    if config.encoder_repetition_penalty != 1:
        factor = np.float32(1 / config.encoder_repetition_penalty)

        def likened(row: np.ndarray, tokens: array[int], prompt: int) -> None:
            ids = list(set(tokens[:prompt] if source is None else source))
            row[ids] = np.where(row[ids] < 0, row[ids] * factor, row[ids] / factor)

        found.append(likened)
    size = config.encoder_no_repeat_ngram_size
    if size:

        def unlike(row: np.ndarray, tokens: array[int], prompt: int) -> None:
            given, said = list(tokens[:prompt] if source is None else source), list(tokens[len(tokens) + 1 - size :])
            places = range(size - 1, len(given))
            row[[given[i] for i in places if given[i + 1 - size : i] == said]] = -np.inf

        found.append(unlike)
    return found


def last_edits(config: GenerationConfig, source: Sequence[int] | None) -> list[Edit]:
    """Those of scores that all others have edited."""
    found: list[Edit] = []
    if config.exponential_decay_length_penalty is not None:
        start, factor = config.exponential_decay_length_penalty

        def ended(row: np.ndarray, tokens: array[int], prompt: int) -> None:
            late = len(tokens) - prompt - start
            for token in config.end_ids if late > 0 else ():
                if np.isfinite(row[token]):
                    row[token] += abs(row[token]) * np.float32(factor**late - 1)

        found.append(ended)
    if config.begin_suppress_tokens:

        def begun(row: np.ndarray, tokens: array[int], prompt: int) -> None:
            forced = prompt < 2 and bool(config.forced_bos_token_id)  # which comes before what is suppressed
            if len(tokens) == prompt + forced:
                row[config.begin_suppress_tokens] = -np.inf

        found.append(begun)
    return found
