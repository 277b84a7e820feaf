"""Whole models in float64: every family from a dict of weights and a config dict, both in Hugging Face's names.

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


class Look(NamedTuple):
    """How queries look at keys: the scale of scores, how many of the last positions are seen, the cap of scores."""

    scale: float | None = None
    window: int | None = None
    cap: float | None = None


def _attention(q: NDArray, k: NDArray, v: NDArray, rounding: Rounding, look: Look = Look()) -> NDArray:  # noqa: B008
    """Causal attention with q scaled before it is rounded, and the sum of probabilities taken before they are."""
    if rounding.cache is ref.f64:
        return ref.attention(q, k, v, True, *look)
    scale = 1 / math.sqrt(q.shape[-1]) if look.scale is None else look.scale
    q, k, v = (rounding.cache(x) for x in (q * scale, k, v))
    scores = q @ np.repeat(k, q.shape[1] // k.shape[1], axis=1).swapaxes(2, 3)
    scores = scores if look.cap is None else ref.softcap(scores, look.cap)
    scores = np.where(ref.visible(q.shape[2], k.shape[2], True, look.window), scores, -np.inf)
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


def _windows(config: Mapping[str, Any]) -> list[int | None]:
    """What each layer's queries see, from layer_types or the rule of the family."""
    layers, family = config["num_hidden_layers"], config.get("model_type", "llama")
    rule = {
        "mistral": lambda i: True,
        "qwen2": lambda i: config.get("use_sliding_window", False) and i >= config.get("max_window_layers", 28),
        "qwen3": lambda i: config.get("use_sliding_window", False) and i >= config.get("max_window_layers", 28),
        "gemma2": lambda i: i % 2 == 0,
        "gemma3_text": lambda i: (i + 1) % config.get("sliding_window_pattern", 6) != 0,
    }.get(family, lambda i: False)
    types = config.get("layer_types") or ["sliding_attention" if rule(i) else "full_attention" for i in range(layers)]
    return [config.get("sliding_window") if each == "sliding_attention" else None for each in types]


def _turning(config: Mapping[str, Any], head_dim: int, windows: list[int | None]) -> list[tuple[NDArray, float]]:
    """Frequencies and magnitude of each layer; Gemma 3 has others where there is a window."""
    theta, scaling = rope_of(config)
    full = ref.rotary_frequencies(head_dim, theta, scaling)
    local = config.get("rope_local_base_freq")
    inside = full if local is None else ref.rotary_frequencies(head_dim, local)
    return [full if window is None else inside for window in windows]


def decoder(weights: Weights, config: Mapping[str, Any], ids: Sequence[int], keep: slice = slice(None),
            rounding: Rounding = EXACT) -> NDArray:
    """Logits (kept rows, vocabulary) of one sequence through LLaMA or one of its relatives, by the names of weights."""
    gemma = config.get("model_type", "llama").startswith("gemma")
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    windows, positions, eps = _windows(config), np.arange(len(ids)), config["rms_norm_eps"]
    turning = _turning(config, head_dim, windows)
    scale, cap = config.get("query_pre_attn_scalar", head_dim) ** -0.5, config.get("attn_logit_softcapping")

    def norm(x: NDArray, name: str) -> NDArray:
        return ref.rms_norm(x, ref.f64(weights[f"{name}.weight"]) + gemma, eps)

    def linear(x: NDArray, name: str) -> NDArray:
        return _linear(x, weights, name, rounding)

    x = ref.f64(weights["model.embed_tokens.weight"])[np.asarray(ids)]
    x = x * math.sqrt(config["hidden_size"]) if gemma else x
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        sandwich = f"{layer}.pre_feedforward_layernorm.weight" in weights
        h = norm(x, f"{layer}.input_layernorm")
        q, k, v = (linear(h, f"{layer}.self_attn.{name}_proj") for name in "qkv")
        q, k, v = _heads(q, heads), _heads(k, k.shape[1] // head_dim), _heads(v, v.shape[1] // head_dim)
        if f"{layer}.self_attn.q_norm.weight" in weights:
            q, k = norm(q, f"{layer}.self_attn.q_norm"), norm(k, f"{layer}.self_attn.k_norm")
        frequency, factor = turning[index]
        q, k = (ref.rotary(each, positions, frequency, False, factor) for each in (q, k))
        seen = _joined(_attention(q, k, v, rounding, Look(scale, windows[index], cap)))
        y = linear(seen, f"{layer}.self_attn.o_proj")
        x = x + (norm(y, f"{layer}.post_attention_layernorm") if sandwich else y)
        h = norm(x, f"{layer}.{'pre_feedforward' if sandwich else 'post_attention'}_layernorm")
        gate, up = linear(h, f"{layer}.mlp.gate_proj"), linear(h, f"{layer}.mlp.up_proj")
        y = linear(ref.gelu(gate, "tanh") * up if gemma else ref.swiglu(gate, up), f"{layer}.mlp.down_proj")
        x = x + (norm(y, f"{layer}.post_feedforward_layernorm") if sandwich else y)
    x = norm(x[keep], "model.norm")
    head = weights.get("lm_head.weight", weights.get("model.embed_tokens.weight"))
    logits = ref.linear(rounding.inputs(x), head)
    final = config.get("final_logit_softcapping")
    return logits if final is None else ref.softcap(logits, final)


llama = mistral = qwen2 = qwen3 = gemma = gemma2 = gemma3_text = decoder


def gpt_neox(weights: Weights, config: Mapping[str, Any], ids: Sequence[int], keep: slice = slice(None),
             rounding: Rounding = EXACT) -> NDArray:
    """Logits (kept rows, vocabulary) of one sequence."""
    heads, eps, positions = config["num_attention_heads"], config["layer_norm_eps"], np.arange(len(ids))
    turned = int(config["hidden_size"] // heads * config["rotary_pct"])
    frequency, factor = ref.rotary_frequencies(turned, config["rotary_emb_base"])

    def norm(x: NDArray, name: str) -> NDArray:
        return ref.layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    def turn(x: NDArray) -> NDArray:
        return np.concatenate([ref.rotary(x[..., :turned], positions, frequency, False, factor), x[..., turned:]], -1)

    x = ref.f64(weights["gpt_neox.embed_in.weight"])[np.asarray(ids)]
    for index in range(config["num_hidden_layers"]):
        layer = f"gpt_neox.layers.{index}"
        mixed = _linear(norm(x, f"{layer}.input_layernorm"), weights, f"{layer}.attention.query_key_value", rounding)
        q, k, v = (part.swapaxes(0, 1)[None] for part in np.split(mixed.reshape(len(x), heads, -1), 3, axis=-1))
        y = _linear(_joined(_attention(turn(q), turn(k), v, rounding)), weights, f"{layer}.attention.dense", rounding)
        before = x if config["use_parallel_residual"] else x + y
        h = _linear(norm(before, f"{layer}.post_attention_layernorm"), weights, f"{layer}.mlp.dense_h_to_4h", rounding)
        h = ref.gelu(h, ACTIVATIONS[config["hidden_act"]])
        x = x + y + _linear(h, weights, f"{layer}.mlp.dense_4h_to_h", rounding)
    x = norm(x[keep], "gpt_neox.final_layer_norm")
    return ref.linear(rounding.inputs(x), weights.get("embed_out.weight", weights["gpt_neox.embed_in.weight"]))


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
