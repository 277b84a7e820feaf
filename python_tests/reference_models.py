"""Whole models in float64: LLaMA and GPT-2 from a dict of weights and a config dict, both in Hugging Face's names.

Weights may be any mapping from names to arrays (a lazy reader keeps memory small). No cache, no batch: one sequence of
token ids gives the logits of every position. `keep` limits the rows that reach the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import reference as ref
from numpy.typing import NDArray

Weights = Mapping[str, NDArray]


def _heads(x: NDArray, heads: int) -> NDArray:
    """(length, heads * d) -> (1, heads, length, d)."""
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)[None]


def _joined(x: NDArray) -> NDArray:
    """(1, heads, length, d) -> (length, heads * d)."""
    return x[0].swapaxes(0, 1).reshape(x.shape[2], -1)


def _linear(x: NDArray, weights: Weights, name: str) -> NDArray:
    return ref.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def rope_of(config: Mapping[str, Any]) -> tuple[float, dict | None]:
    """theta and the scaling rule, from either spelling: rope_parameters, or rope_theta with rope_scaling."""
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = parameters.get("rope_theta", config.get("rope_theta", 10000.0))
    if parameters and "original_max_position_embeddings" not in parameters:
        parameters["original_max_position_embeddings"] = config["max_position_embeddings"]
    return theta, parameters or None


def llama(weights: Weights, config: Mapping[str, Any], ids: Sequence[int], keep: slice = slice(None)) -> NDArray:
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
        q = _heads(_linear(h, weights, f"{layer}.self_attn.q_proj"), heads)
        k = _heads(_linear(h, weights, f"{layer}.self_attn.k_proj"), groups)
        v = _heads(_linear(h, weights, f"{layer}.self_attn.v_proj"), groups)
        q = ref.rotary(q, positions, frequency, False, factor)
        k = ref.rotary(k, positions, frequency, False, factor)
        x = x + _linear(_joined(ref.attention(q, k, v, causal=True)), weights, f"{layer}.self_attn.o_proj")
        h = ref.rms_norm(x, weights[f"{layer}.post_attention_layernorm.weight"], eps)
        gate, up = _linear(h, weights, f"{layer}.mlp.gate_proj"), _linear(h, weights, f"{layer}.mlp.up_proj")
        x = x + _linear(ref.swiglu(gate, up), weights, f"{layer}.mlp.down_proj")
    x = ref.rms_norm(x[keep], weights["model.norm.weight"], eps)
    tied = "lm_head.weight" not in weights
    return ref.linear(x, weights["model.embed_tokens.weight" if tied else "lm_head.weight"])


ACTIVATIONS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "none"}


def _conv(x: NDArray, weights: Weights, name: str) -> NDArray:
    """GPT-2 stores its matrices as (inputs, outputs)."""
    return ref.matmul(x, weights[f"{name}.weight"]) + ref.f64(weights[f"{name}.bias"])


def gpt2(weights: Weights, config: Mapping[str, Any], ids: Sequence[int], keep: slice = slice(None)) -> NDArray:
    """Logits (kept rows, vocabulary) of one sequence."""
    heads, eps = config["n_head"], config["layer_norm_epsilon"]
    approximate = ACTIVATIONS[config["activation_function"]]
    table = ref.f64(weights["transformer.wte.weight"])

    def norm(x: NDArray, name: str) -> NDArray:
        return ref.layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    x = table[np.asarray(ids)] + ref.f64(weights["transformer.wpe.weight"])[: len(ids)]
    for index in range(config["n_layer"]):
        layer = f"transformer.h.{index}"
        parts = np.split(_conv(norm(x, f"{layer}.ln_1"), weights, f"{layer}.attn.c_attn"), 3, axis=-1)
        q, k, v = (_heads(part, heads) for part in parts)
        x = x + _conv(_joined(ref.attention(q, k, v, causal=True)), weights, f"{layer}.attn.c_proj")
        h = _conv(norm(x, f"{layer}.ln_2"), weights, f"{layer}.mlp.c_fc")
        x = x + _conv(ref.gelu(h, approximate), weights, f"{layer}.mlp.c_proj")
    x = norm(x[keep], "transformer.ln_f")
    return ref.linear(x, weights["lm_head.weight"]) if "lm_head.weight" in weights else x @ table.T
