"""How fast an encoder-decoder says targets on this machine."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from pyllm import _core
from pyllm.auto import new_config, new_model
from pyllm.auto.weights import store_as
from pyllm.formats.memory import most_taken


def measure(shape: str, batch: int, source: int, new: int, beams: int, dtype: str, runs: int) -> dict[str, Any]:
    """Median of `runs` searches after one to warm up: `batch` sources of `source` tokens each, `new` target tokens.

    shape: a family or a published size, with random weights. The end token is held back. Raises ValueError for names.
    """
    _core.keep_freed()
    model = new_model(new_config(shape))
    model.eval()
    store_as(model, dtype)
    random = np.random.default_rng(0)
    ids = random.integers(3, model.config.vocab_size - 1, (batch, source))
    asked = {"num_beams": beams, "max_new_tokens": new, "min_new_tokens": new, "attention_mask": np.ones_like(ids)}
    seconds = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        out = model.generate(ids, eos_token_id=model.config.eos_token_id or 1, **asked)
        seconds.append(time.perf_counter() - begin)
    took = statistics.median(seconds[1:])
    most = most_taken()
    return {
        "model": shape,
        "parameters": model.num_parameters(),
        "batch": batch,
        "source": source,
        "new": out.shape[1] - 1,
        "beam": beams,
        "dtype": dtype,
        "threads": _core.threads(),
        "isa": _core.isa(),
        "tok_s": batch * new / took,
        "seconds": took,
        "peak_memory_MB": None if most is None else most / 1e6,
    }
