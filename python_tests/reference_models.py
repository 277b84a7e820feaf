"""Whole models in float64: LLaMA and GPT-2 from a dict of weights and a config dict, both in Hugging Face's names.

Weights may be any mapping from names to arrays (a lazy reader keeps memory small). No cache, no batch: one sequence of
token ids gives the logits of every position. `keep` limits the rows that reach the vocabulary. A `Rounding` imitates an
engine's storage: inputs of every matrix, and queries, keys, values and unnormalised probabilities, are rounded first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import reference as ref
import reference_blocks as blocks
from numpy.typing import NDArray

Weights = Mapping[str, NDArray]


class Rounding(NamedTuple):
    """What is rounded to storage types on the way; both functions give back arrays of the same shape."""

    inputs: Callable[[NDArray], NDArray] = ref.f64
    cache: Callable[[NDArray], NDArray] = ref.f64


EXACT = Rounding()


def rounding_of(dtype: str, precision: str = "default") -> Rounding:
    """pyllm's storage for weights of a type: int8 activations per 32 in one or two terms, bf16 inputs, bf16 cache."""
    terms = 2 if precision == "high" else 1

    def int8(x: NDArray) -> NDArray:
        return np.sum(blocks.rounded_activations(x.astype(np.float32), terms), axis=0)

    def bf16(x: NDArray) -> NDArray:
        return ref.f64(blocks.round_bf16(x.astype(np.float32)))

    inputs = bf16 if dtype == "BF16" else int8 if dtype in blocks.BLOCKS else ref.f64
    return Rounding(inputs, ref.f64 if dtype == "F32" or precision == "high" else bf16)


def _attention(q: NDArray, k: NDArray, v: NDArray, rounding: Rounding) -> NDArray:
    """Causal attention with q scaled before it is rounded, and the sum of probabilities taken before they are."""
    if rounding.cache is ref.f64:
        return ref.attention(q, k, v, causal=True)
    q, k, v = (rounding.cache(x) for x in (q / math.sqrt(q.shape[-1]), k, v))
    scores = q @ np.repeat(k, q.shape[1] // k.shape[1], axis=1).swapaxes(2, 3)
    scores = np.where(ref.visible(q.shape[2], k.shape[2], True, None), scores, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return rounding.cache(e) @ np.repeat(v, q.shape[1] // v.shape[1], axis=1) / e.sum(axis=-1, keepdims=True)


def _heads(x: NDArray, heads: int) -> NDArray:
    """(length, heads * d) -> (1, heads, length, d)."""
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)[None]


def _joined(x: NDArray) -> NDArray:
    """(1, heads, length, d) -> (length, heads * d)."""
    return x[0].swapaxes(0, 1).reshape(x.shape[2], -1)


def _linear(x: NDArray, weights: Weights, name: str, rounding: Rounding) -> NDArray:
    return ref.linear(rounding.inputs(x), weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def rope_of(config: Mapping[str, Any]) -> tuple[float, dict | None]:
    """theta and the scaling rule, from either spelling: rope_parameters, or rope_theta with rope_scaling."""
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = parameters.get("rope_theta", config.get("rope_theta", 10000.0))
    if parameters and "original_max_position_embeddings" not in parameters:
        parameters["original_max_position_embeddings"] = config["max_position_embeddings"]
    return theta, parameters or None


def llama(weights: Weights, config: Mapping[str, Any], ids: Sequence[int], keep: slice = slice(None),
          rounding: Rounding = EXACT) -> NDArray:
    """Logits (kept rows, vocabulary) of one sequence."""
    heads = config["num_attention_heads"]
    groups = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    theta, scaling = rope_of(config)
    frequency, factor = ref.rotary_frequencies(head_dim, theta, scaling)
    positions, eps = np.arange(len(ids)), config["rms_norm_eps"]
    x = ref.f64(weights["model.embed_tokens.weight"])[np.asarray(ids)]
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        h = ref.rms_norm(x, weights[f"{layer}.input_layernorm.weight"], eps)
        q = _heads(_linear(h, weights, f"{layer}.self_attn.q_proj", rounding), heads)
        k = _heads(_linear(h, weights, f"{layer}.self_attn.k_proj", rounding), groups)
        v = _heads(_linear(h, weights, f"{layer}.self_attn.v_proj", rounding), groups)
        q = ref.rotary(q, positions, frequency, False, factor)
        k = ref.rotary(k, positions, frequency, False, factor)
        x = x + _linear(_joined(_attention(q, k, v, rounding)), weights, f"{layer}.self_attn.o_proj", rounding)
        h = ref.rms_norm(x, weights[f"{layer}.post_attention_layernorm.weight"], eps)
        gate, up = (_linear(h, weights, f"{layer}.mlp.{name}_proj", rounding) for name in ("gate", "up"))
        x = x + _linear(ref.swiglu(gate, up), weights, f"{layer}.mlp.down_proj", rounding)
    x = ref.rms_norm(x[keep], weights["model.norm.weight"], eps)
    tied = "lm_head.weight" not in weights
    return ref.linear(rounding.inputs(x), weights["model.embed_tokens.weight" if tied else "lm_head.weight"])


ACTIVATIONS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}


def _conv(x: NDArray, weights: Weights, name: str, rounding: Rounding) -> NDArray:
    """GPT-2 stores its matrices as (inputs, outputs)."""
    return ref.matmul(rounding.inputs(x), weights[f"{name}.weight"]) + ref.f64(weights[f"{name}.bias"])


def gpt2(weights: Weights, config: Mapping[str, Any], ids: Sequence[int], keep: slice = slice(None),
         rounding: Rounding = EXACT) -> NDArray:
    """Logits (kept rows, vocabulary) of one sequence."""
    heads, eps = config["n_head"], config["layer_norm_epsilon"]
    approximate = ACTIVATIONS[config["activation_function"]]
    table = ref.f64(weights["transformer.wte.weight"])

    def norm(x: NDArray, name: str) -> NDArray:
        return ref.layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    x = table[np.asarray(ids)] + ref.f64(weights["transformer.wpe.weight"])[: len(ids)]
    for index in range(config["n_layer"]):
        layer = f"transformer.h.{index}"
        parts = np.split(_conv(norm(x, f"{layer}.ln_1"), weights, f"{layer}.attn.c_attn", rounding), 3, axis=-1)
        q, k, v = (_heads(part, heads) for part in parts)
        x = x + _conv(_joined(_attention(q, k, v, rounding)), weights, f"{layer}.attn.c_proj", rounding)
        h = _conv(norm(x, f"{layer}.ln_2"), weights, f"{layer}.mlp.c_fc", rounding)
        x = x + _conv(ref.gelu(h, approximate), weights, f"{layer}.mlp.c_proj", rounding)
    x = norm(x[keep], "transformer.ln_f")
    return ref.linear(rounding.inputs(x), weights.get("lm_head.weight", table))
