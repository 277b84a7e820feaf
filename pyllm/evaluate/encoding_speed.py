"""How fast an encoder turns tokens into rows on this machine."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any

import numpy as np

from pyllm import _core
from pyllm.auto.encoders import AutoModel
from pyllm.auto.new import ENCODERS, SHAPES, new_config
from pyllm.auto.weights import store_as

_SHORTEST = 8  # tokens of ragged sequences


def measure(
    name: str, batch: int, length: int, dtype: str, runs: int, ragged: bool = False, threads: int | None = None
) -> dict[str, Any]:
    """Median of `runs` passes over random tokens, after two to warm up: of a folder, or of a named shape with random
    weights. ragged: lengths from 8 to `length`, evenly spread. Raises ValueError for names that are neither.
    """
    if threads is not None:
        _core.set_threads(threads)
    model = model_of(name, dtype)
    random = np.random.default_rng(0)
    lengths = random.integers(min(_SHORTEST, length), length + 1, batch) if ragged else np.full(batch, length)
    texts = [random.integers(0, model.config.vocab_size, each).astype(np.int32) for each in lengths]
    seconds = []
    for _ in range(runs + 2):
        begin = time.perf_counter()
        model(texts)
        seconds.append(time.perf_counter() - begin)
    took = statistics.median(seconds[2:])
    return {
        "model": name,
        "parameters": model.num_parameters(),
        "batch": batch,
        "length": length,
        "ragged": ragged,
        "dtype": dtype,
        "threads": _core.threads(),
        "isa": _core.isa(),
        "tokens": int(lengths.sum()),
        "tok_s": float(lengths.sum() / took),
        "seconds": took,
    }


def model_of(name: str, dtype: str) -> Any:
    """The model of a folder, or of a named shape with random weights, ready to run. Raises ValueError for names."""
    if os.path.exists(name):
        return AutoModel.from_pretrained(name, dtype=dtype)
    shape = SHAPES.get(name.lower(), {}).get("model_type")
    if shape not in ENCODERS:
        known = ", ".join(each for each, fields in SHAPES.items() if fields["model_type"] in ENCODERS)
        raise ValueError(f"bench encode: {name!r} is no folder and no shape; shapes are {known}")
    _core.keep_freed()  # as from_pretrained does
    model = AutoModel.from_config(new_config(name.lower())).eval()
    store_as(model, dtype)
    return model
