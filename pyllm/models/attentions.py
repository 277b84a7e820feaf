"""What a model computes on its way, by the definition, for who asks to see it: where its heads look, hidden rows."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import nn
from pyllm.autograd import no_grad

Weights = NDArray[np.float32]
_NAMED = re.compile(r"^(?:(encoder|decoder)\.)?(?:.+\.)?(attention|cross)\.weights$")


def traced(model: Any, *given: Any) -> dict[str, list[Weights]]:
    """What `model.forward(*given)` looks at, of every layer (heads, queries, keys), each row with sum 1.

    Keys are "decoder" for a model that has no encoder; else "encoder", "decoder" and "cross", the decoder's over the
    encoder. Empty for a model without attention.
    """
    with no_grad(), nn.trace(model) as found:
        model.forward(*given)
    kinds: dict[str, list[Weights]] = {}
    for name in found.names():
        match = _NAMED.match(name)
        if match is not None:
            weights = found[name] if found[name].ndim == 3 else found[name][None]
            kind = "cross" if match[2] == "cross" else match[1] or "decoder"
            kinds.setdefault(kind, []).append(weights)
    return kinds


def causal_attentions(model: Any, ids: NDArray[np.int32]) -> list[Weights]:
    """Of every layer (heads, length, length), one sequence. Raises ValueError for a model without attention."""
    found = traced(model, ids).get("decoder")
    if not found:
        raise ValueError(f"output_attentions: {type(model).__name__} has no attention, allowed are models with it")
    return found


def batched(model: Any, ids: NDArray[Any], seen: NDArray[np.bool_]) -> tuple[Weights, ...]:
    """Of every layer (batch, heads, length, length) for ids and what of them is seen, both (batch, length).

    Rows and columns of what is not seen are 0.
    """
    rows = [causal_attentions(model, row[mask].astype(np.int32)) for row, mask in zip(ids, seen, strict=True)]
    many, length = ids.shape
    layers = []
    for each in zip(*rows, strict=True):
        out = np.zeros((many, each[0].shape[0], length, length), np.float32)
        for target, weights, mask in zip(out, each, seen, strict=True):
            places = np.flatnonzero(mask)
            target[:, places[:, None], places[None]] = weights
        layers.append(out)
    return tuple(layers)


def hidden_states(model: Any, ids: NDArray[Any], seen: NDArray[np.bool_]) -> tuple[NDArray[np.float32], ...]:
    """The embeddings, what every layer but the last gives, and the last one's after the final norm.

    Each (batch, length, width), zeros where nothing is seen. Raises ValueError for a model without a stack of layers.
    """
    if not hasattr(model, "layers"):
        raise ValueError(f"output_hidden_states: {type(model).__name__}, allowed are decoders of layers")
    names = ["embedding", *(f"layers.{i}" for i in range(len(model.layers) - 1)), "normalised"]
    out = [np.zeros((*ids.shape, model.width), np.float32) for _ in names]
    for number, (row, mask) in enumerate(zip(ids, seen, strict=True)):
        with no_grad(), nn.trace(model) as found:
            model.forward(row[mask].astype(np.int32))
        for target, name in zip(out, names, strict=True):
            target[number, mask] = found[name]
    return tuple(out)
