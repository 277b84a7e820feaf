"""The likeliest continuations of a text by one token."""

from __future__ import annotations

from typing import Any

import numpy as np


def next_words(model: Any, tokenizer: Any, text: str, count: int = 10) -> list[tuple[str, int, float]]:
    """The `count` likeliest next tokens after `text`, best first: (text, id, probability).

    p = exp(x - max x) / sum exp(x - max x) over the last position's logits x (vocab,), in float64; equal
    probabilities keep the order of their ids. Raises ValueError when the text has no token.
    """
    ids = tokenizer.encode(text)
    if not ids:
        raise ValueError("next_words: text gives no token: at least 1 is needed")
    state = model.new_state()
    try:
        logits = model.step([(state, ids)], logits="last")[0].astype(np.float64)
    finally:
        state.free()
    weights = np.exp(logits - logits.max())
    shares = weights / weights.sum()
    best = np.argsort(-shares, kind="stable")[:count]
    return [(tokenizer.decode([int(i)]), int(i), float(shares[i])) for i in best]
