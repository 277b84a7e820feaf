"""Texts as vectors: the hidden rows of a decoder, pooled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ContextError
from .passages import Passage, hidden_rows, ids_of

POOLINGS = ("mean", "last", "none")
Vectors = NDArray[np.float32]


def embed(
    model: Any, texts: Any, tokenizer: Any = None, *, pooling: str = "mean", normalize: bool = True
) -> Vectors | list[Vectors]:
    """One vector per text, float32 (texts, width): hidden states after the final norm, pooled over the text's tokens.

    texts: a text, texts, or token ids (a list, lists, an integer array). pooling: "mean", "last" (token), or "none": a
    list of (tokens, width). normalize: to length 1. Raises ContextError for a text that is longer than the context,
    ValueError for an empty one, GenerationError for unknown ids.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"embed: pooling is {pooling!r}, allowed are {', '.join(POOLINGS)}")
    ids = ids_of(model, texts, tokenizer)
    for number, row in enumerate(ids):
        if len(row) > model.context_length:
            context = model.context_length
            raise ContextError(f"embed: texts[{number}] has {len(row):,} tokens, the context holds {context:,}")
    passages = [Passage(row, len(row) - 1 if pooling == "last" else 0) for row in ids]
    parts: list[list[Vectors]] = [[] for _ in ids]
    sums: list[Any] = [None] * len(ids)
    for rows, pieces in hidden_rows(model, passages):
        start = 0
        for number, _, count in pieces:
            own = rows[start : start + count]
            start += count
            if pooling == "mean":  # row after row, so that the sum does not depend on how a text was cut into steps
                before = [] if sums[number] is None else [sums[number][None]]
                sums[number] = np.add.reduce(np.concatenate([*before, own.astype(np.float64)]), axis=0)
            else:
                parts[number].append(own)
    if pooling == "none":
        return [unit(np.concatenate(part)) if normalize else np.concatenate(part) for part in parts]
    if pooling == "last":
        found = np.concatenate([part[0] for part in parts])
    else:
        found = np.stack([total / len(row) for total, row in zip(sums, ids, strict=True)]).astype(np.float32)
    return unit(found) if normalize else found


def unit(rows: Vectors) -> Vectors:
    """x / |x| of each row; a row of zeros stays."""
    lengths = np.sqrt(np.square(rows.astype(np.float64)).sum(axis=1, keepdims=True))
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def similarities(vectors: Vectors) -> list[list[float]]:
    """Cosines between rows of length 1."""
    found: list[list[float]] = (vectors.astype(np.float64) @ vectors.astype(np.float64).T).tolist()
    return found


def save(path: str, vectors: Vectors) -> None:
    """Write a .npy file of exactly this name."""
    with open(path, "wb") as file:
        np.save(file, vectors, allow_pickle=False)
