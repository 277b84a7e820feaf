"""How well a language model predicts shards of tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyllm.data import IGNORED, Packed, Shards
from pyllm.formats.progress import Progress


def measure(
    model: Any,
    tokenizer: Any,
    folder: str,
    split: str = "valid",
    context: int | None = None,
    samples: int | None = None,
) -> dict[str, Any]:
    """{"loss", "perplexity", "bits_per_byte", "tokens", "bytes"} over windows of `context` tokens, each read anew.

    loss: mean -log p of a token in nats; bits per byte: over the bytes that the tokens stand for. Raises DataError for
    shards of another tokenizer.
    """
    shards = Shards(folder, split, tokenizer=tokenizer)
    length = min(context or 1024, model.context_length, max(shards.tokens - 1, 1))
    data = Packed(shards, length)
    sizes = np.array([_bytes(tokenizer, i) for i in range(shards.vocabulary)])
    loss, count, nbytes = 0.0, 0, 0
    many = min(len(data), samples or len(data))
    with Progress(folder, many, ("reading", "read"), unit="samples") as bar:
        for position in range(many):
            batch = data.batch(position, 1)
            for first, last in zip(batch.starts, batch.starts[1:], strict=False):
                ids, targets = batch.ids[first:last], batch.targets[first:last]
                wanted = targets != IGNORED
                state = model.new_state()
                logits = model.step([(state, ids)], "all")[wanted].astype(np.float64)
                state.free()
                top = logits.max(axis=1, initial=-math.inf)
                total = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
                loss += float((total - logits[np.arange(len(logits)), targets[wanted]]).sum())
                count += len(logits)
                nbytes += int(sizes[targets[wanted]].sum())
            bar.show(position + 1)
    mean = loss / count if count else math.nan
    return {
        "loss": mean,
        "perplexity": math.exp(mean),
        "bits_per_byte": loss / math.log(2) / nbytes if nbytes else math.nan,
        "tokens": count,
        "bytes": nbytes,
    }


def _bytes(tokenizer: Any, token: int) -> int:
    """Bytes of text that a token stands for; 0 for special ones."""
    return 0 if tokenizer.coder.special(token) else len(tokenizer.coder.bytes(token))
