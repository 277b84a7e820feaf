"""A GGUF file through PyPI's `gguf`, as float32 weights and a config in Hugging Face's names: an oracle's view of it.

`names` is the map between the two namings; LLaMA's q and k rows stand in rotary pair order in GGUF and are put back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import reference_blocks as blocks
from numpy.typing import NDArray

LLAMA_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
LLAMA_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
GPT2_LAYER = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
GPT2_TOP = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
}


HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
MORE = {"qwen3": HEAD_NORMS, "gemma2": SANDWICH, "gemma3_text": SANDWICH | HEAD_NORMS}
NEOX_LAYER = {
    "input_layernorm": "attn_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
NEOX_TOP = {"gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm", "embed_out": "output"}


def names(family: str, layers: int) -> dict[str, str]:
    """Hugging Face's module name -> GGUF's, without `.weight` and `.bias`."""
    top, layer, prefix = {
        "gpt2": (GPT2_TOP, GPT2_LAYER, "transformer.h"),
        "gpt_neox": (NEOX_TOP, NEOX_LAYER, "gpt_neox.layers"),
    }.get(family, (LLAMA_TOP, LLAMA_LAYER | MORE.get(family, {}), "model.layers"))
    return dict(top) | {f"{prefix}.{i}.{a}": f"blk.{i}.{b}" for i in range(layers) for a, b in layer.items()}


def to_pairs(rows: NDArray, heads: int) -> NDArray:
    """Rows of q or k, (heads * d, ...): from halves (i, i + d / 2) to neighbours (2 i, 2 i + 1)."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def to_halves(rows: NDArray, heads: int) -> NDArray:
    """The inverse of to_pairs."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def unmixed(rows: NDArray, heads: int) -> list[NDArray]:
    """GPT-NeoX's rows, head by head q, k and v, as all of q, all of k, all of v."""
    each = rows.reshape(heads, 3, -1, *rows.shape[1:])
    return [each[:, i].reshape(-1, *rows.shape[1:]) for i in range(3)]


def read(path: str | Path) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """(weights by Hugging Face name, config); block types dequantised to float32 as the format defines."""
    reader = gguf.GGUFReader(path)
    field = {key: value.contents() for key, value in reader.fields.items() if not key.startswith("tokenizer.")}
    tensors = {t.name: t for t in reader.tensors}
    family = field["general.architecture"]
    config = (_llama_config if family == "llama" else _gpt2_config)(field)
    layers = field[f"{family}.block_count"]
    weights = {}
    for ours, theirs in names(family, layers).items():
        for part in ("weight", "bias"):
            if f"{theirs}.{part}" in tensors:
                weights[f"{ours}.{part}"] = _values(tensors[f"{theirs}.{part}"])
    if family == "llama":
        _restore_llama(weights, config, tensors)
    else:
        for name in [name for name in weights if ".c_" in name and name.endswith(".weight")]:
            weights[name] = weights[name].T
    return weights, config


def vocabulary(path: str | Path) -> int:
    """The number of rows of the token embedding."""
    return next(int(t.shape[1]) for t in gguf.GGUFReader(path).tensors if t.name == "token_embd.weight")


def _values(tensor: gguf.ReaderTensor) -> NDArray:
    """float32 in numpy order; written by our own twin, which a test compares with `gguf.dequantize`."""
    shape = tuple(int(n) for n in tensor.shape[::-1])
    raw = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(shape[0] if len(shape) > 1 else 1, -1)
    return blocks.dequantise(tensor.tensor_type.name, raw).reshape(shape)


def _restore_llama(weights: dict[str, NDArray], config: dict[str, Any], tensors: dict[str, Any]) -> None:
    for name in weights:
        if ".q_proj." in name:
            weights[name] = to_halves(weights[name], config["num_attention_heads"])
        if ".k_proj." in name:
            weights[name] = to_halves(weights[name], config["num_key_value_heads"])
    if "rope_freqs.weight" in tensors:
        divisors = _values(tensors["rope_freqs.weight"])
        config["rope_scaling"] = {"rope_type": "divisors", "divisors": divisors}


def _llama_config(field: dict[str, Any]) -> dict[str, Any]:
    heads = field["llama.attention.head_count"]
    config = {
        "hidden_size": field["llama.embedding_length"],
        "num_hidden_layers": field["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": field.get("llama.attention.head_count_kv", heads),
        "head_dim": field.get("llama.attention.key_length", field["llama.embedding_length"] // heads),
        "rms_norm_eps": field["llama.attention.layer_norm_rms_epsilon"],
        "max_position_embeddings": field["llama.context_length"],
        "rope_theta": field.get("llama.rope.freq_base", 10000.0),
    }
    kind = field.get("llama.rope.scaling.type", "none")
    if kind != "none":
        trained = field.get("llama.rope.scaling.original_context_length", field["llama.context_length"])
        config["rope_scaling"] = {
            "rope_type": kind,
            "factor": field["llama.rope.scaling.factor"],
            "original_max_position_embeddings": trained,
        }
    return config


def _gpt2_config(field: dict[str, Any]) -> dict[str, Any]:
    return {
        "n_embd": field["gpt2.embedding_length"],
        "n_layer": field["gpt2.block_count"],
        "n_head": field["gpt2.attention.head_count"],
        "n_positions": field["gpt2.context_length"],
        "layer_norm_epsilon": field["gpt2.attention.layer_norm_epsilon"],
        "activation_function": "gelu_new",
    }
