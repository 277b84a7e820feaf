"""How fast a model reads and writes, and how much of the machine's measured limits that is."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

# Tables of which a token reads one row; the token table counts when it is also the output matrix.
TOKEN_TABLES = (
    "token_embd.weight",
    "model.embed_tokens.weight",
    "transformer.wte.weight",
    "wte.weight",
    "encoder.weight",
)
POSITION_TABLES = ("position_embd.weight", "transformer.wpe.weight", "wpe.weight")
OUTPUTS = ("output.weight", "lm_head.weight", "decoder.weight")


def work(tensors: dict[str, Any]) -> tuple[int, int]:
    """What one new token costs: (bytes of weights read as stored in the file, multiply-add operations x 2)."""
    skipped = set(POSITION_TABLES)
    if any(name in tensors for name in OUTPUTS):
        skipped.update(TOKEN_TABLES)
    matrices = [t for name, t in tensors.items() if len(t.shape) == 2 and name not in skipped]
    return sum(t.nbytes for t in matrices), 2 * sum(math.prod(t.shape) for t in matrices)


def tokens(count: int, vocabulary: int) -> list[int]:
    """`count` ids spread over the vocabulary, the same each time."""
    low = min(500, vocabulary // 2)
    return [low + (i * 7919 + 13) % (vocabulary - low) for i in range(count)]


def median_rate(count: int, runs: int, once: Callable[[], float]) -> float:
    """Tokens per second: `count` over the median of `runs` timings, after one that is not counted."""
    once()
    return count / statistics.median(once() for _ in range(runs))


def prompt_seconds(model: Any, ids: list[int]) -> float:
    """Seconds for reading `ids` into a fresh state in one step."""
    state = model.new_state()
    start = time.perf_counter()
    model.step([(state, ids)], logits="last")
    seconds = time.perf_counter() - start
    state.free()
    return seconds


def decode_seconds(model: Any, ids: list[int], fill: int, sequences: int) -> float:
    """Seconds for `len(ids)` steps of `sequences` states side by side, each holding `fill` tokens before."""
    first = model.new_state()
    model.step([(first, [ids[i % len(ids)] for i in range(fill)])], logits="last")
    states = [first] + [first.fork() for _ in range(sequences - 1)]
    start = time.perf_counter()
    for step in range(len(ids)):
        model.step([(state, [ids[(step + s) % len(ids)]]) for s, state in enumerate(states)], logits="last")
    seconds = time.perf_counter() - start
    for state in states:
        state.free()
    return seconds


def measure(
    model: Any, tensors: dict[str, Any], prompt: int, new: int, parallel: list[int], runs: int
) -> dict[str, Any]:
    """Tokens per second: reading a prompt, writing alone, writing side by side; GB/s and GOP/s that they mean.

    GB/s counts the bytes of the file's weights once per step, GOP/s 2 operations per weight and token; neither
    counts keys and values. Side-by-side runs start from 128 tokens and take 64 steps, as the peers' script does. Where
    the model's context is shorter, all of them are.
    """
    most = model.context_length
    prompt, new, steps = min(prompt, most), min(new, most - 1), min(64, most // 2)
    fill = min(128, most - steps)
    ids = tokens(max(prompt, new, 64), model.config.vocab_size)
    nbytes, operations = work(tensors)
    prompt_rate = median_rate(prompt, runs, partial(prompt_seconds, model, ids[:prompt]))
    decode_rate = median_rate(new, runs, partial(decode_seconds, model, ids[:new], 1, 1))
    side = {n: median_rate(n * steps, runs, partial(decode_seconds, model, ids[:steps], fill, n)) for n in parallel}
    return {
        "prompt": prompt,
        "new": new,
        "prompt_tok_s": round(prompt_rate, 2),
        "decode_tok_s": round(decode_rate, 2),
        "parallel_tok_s": {str(n): round(rate, 2) for n, rate in side.items()},
        "prompt_GOPs": round(prompt_rate * operations / 1e9, 2),
        "decode_GBs": round(decode_rate * nbytes / 1e9, 2),
        "bytes_per_token": nbytes,
        "operations_per_token": operations,
    }
