"""How fast a model learns on this machine: whole steps, from batch to changed weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pyllm import _core, ops
from pyllm.auto import new_config, new_model
from pyllm.formats.memory import most_taken
from pyllm.optim import AdamW


def measure(
    family: str,
    fields: dict[str, Any],
    batch: int,
    context: int,
    dtype: str,
    runs: int,
    peak: Callable[[], float],
    checkpointing: bool = False,
) -> dict[str, Any]:
    """Median of `runs` steps of AdamW with a clipped gradient, after two to warm up, on random weights and tokens.

    share_of_peak: 6 FLOP for each number and token, and attention's, over peak() FLOP/s, which is asked for after the
    steps: it may take memory of its own. peak_memory_MB: None where the system does not say.
    """
    _core.keep_freed()
    config = new_config(family, **fields)
    model = new_model(config)
    if checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = AdamW(model.parameters(), lr=1e-4)
    random = np.random.default_rng(0)
    ids, targets = random.integers(0, config.vocab_size, (2, batch, context))
    seconds = []
    for _ in range(runs + 2):
        begin = time.perf_counter()
        optimizer.zero_grad()
        with ops.autocast(dtype):
            loss = model.loss(ids, targets)
        loss.backward()
        norm = optimizer.grad_norm()
        optimizer.step(min(1.0, 1.0 / (norm + 1e-6)))
        seconds.append(time.perf_counter() - begin)
    took = statistics.median(seconds[2:])
    heads = getattr(config, "num_attention_heads", 0) or getattr(config, "n_head", 0)
    layers, _, width = model.cache
    flop = batch * context * (model.training_flops() + 6.0 * layers * heads * width * context)
    most = most_taken()
    return {
        "model": family,
        "parameters": model.num_parameters(),
        "batch": batch,
        "context": context,
        "dtype": dtype,
        "gradient_checkpointing": checkpointing,
        "threads": _core.threads(),
        "isa": _core.isa(),
        "tok_s": batch * context / took,
        "seconds": took,
        "loss": loss.item(),
        "share_of_peak": flop / took / max(peak(), flop / took),  # beside other programs peak() may find less
        "peak_memory_MB": None if most is None else most / 1e6,
    }
