"""Translate GGUF metadata into Hugging Face's field names; config.py then checks them like any other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyllm.errors import ModelFileError, printable
from pyllm.formats.fields import Raw
from pyllm.formats.gguf import GGUF, StringArray

# Hugging Face's name -> GGUF's key after the architecture.
_LLAMA_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "value_dim": "attention.value_length",
    "rope_dim": "rope.dimension_count",
    "rope_scaling": "rope.scaling.type",
}
_WINDOW_KEYS = {"sliding_window": "attention.sliding_window"}
_GEMMA_2_KEYS = {
    **_LLAMA_KEYS,
    **_WINDOW_KEYS,
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_NEOX_KEYS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "rope_theta": "rope.freq_base",
    "rope_dim": "rope.dimension_count",
    "use_parallel_residual": "use_parallel_residual",
}
_GPT2_KEYS = {
    "n_embd": "embedding_length",
    "n_inner": "feed_forward_length",
    "n_layer": "block_count",
    "n_head": "attention.head_count",
    "n_positions": "context_length",
    "layer_norm_epsilon": "attention.layer_norm_epsilon",
}
_TOKENIZER_KEYS = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
}
SCALING_KEYS = {
    "factor": "rope.scaling.factor",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
    "attention_factor": "rope.scaling.attn_factor",
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
}
# By family: Hugging Face's name -> GGUF's key after the architecture.
KEYS = {
    "gpt2": _GPT2_KEYS,
    "llama": _LLAMA_KEYS,
    "mistral": _LLAMA_KEYS | _WINDOW_KEYS,
    "qwen2": _LLAMA_KEYS | _WINDOW_KEYS,
    "qwen3": _LLAMA_KEYS | _WINDOW_KEYS,
    "gemma": _LLAMA_KEYS,
    "gemma2": _GEMMA_2_KEYS,
    "gemma3_text": _GEMMA_2_KEYS | {"rope_local_base_freq": "rope.freq_base_swa"},
    "gpt_neox": _NEOX_KEYS,
}
# The architectures whose names are not their families'. Mistral's files say llama: see gguf_values.
ARCHITECTURES = {name: name for name in KEYS} | {
    "mistral": "llama",
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
}
IN_PAIRS = {"llama", "mistral"}  # families whose files have the rows of q and k in rotary pairs, not in halves
# Layers of the sizes that scale their scores by the width per head and not by the size of a head, as nothing else says.
_BY_WIDTH = {"gemma2": 46, "gemma3_text": 62}


def gguf_values(file: GGUF) -> tuple[Raw, str]:
    """(unchecked values under Hugging Face's names, family). Raises ModelFileError."""
    family, architecture = _family(file)
    names = {name: f"{architecture}.{key}" for name, key in KEYS[family].items()} | _TOKENIZER_KEYS
    names["vocab_size"] = f"{architecture}.vocab_size"
    found = {name: _one(file, key) for name, key in names.items()}
    values = {name: value for name, value in found.items() if value is not None}
    scaling_names = {name: f"{architecture}.{key}" for name, key in SCALING_KEYS.items()}
    names |= {f"rope_scaling.{name}": key for name, key in scaling_names.items()}
    raw = Raw(
        file.path,
        values,
        lambda name: f"metadata '{names.get(name, name)}'",
        lambda name: file.key_offsets.get(names.get(name, name)),
    )
    split = _one(file, "split.count")
    if split not in (None, 0, 1):
        raw.refuse("split.count", f"one of {printable(repr(split), 40)} files", "a model in one file: merge them first")
    values["vocab_size"] = _vocabulary(file, raw)
    values["tie_word_embeddings"] = "output.weight" not in file.tensors
    if family != "gpt2":
        _check_experts(file, raw, architecture)
        values["attention_bias"] = any(f"blk.0.{name}.bias" in file.tensors for name in ("attn_q", "attn_qkv"))
        values["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
        values["rope_interleaved"] = family in IN_PAIRS
        values["rope_scaling"] = _scaling(file, architecture, scaling_names)
    if family.startswith("qwen") and "sliding_window" in values:
        values |= {"use_sliding_window": True, "max_window_layers": 0}
    if family in _BY_WIDTH:
        values["query_pre_attn_scalar"] = score_scale(family, values)
    return raw, family


def _family(file: GGUF) -> tuple[str, str]:
    """(family, architecture): Mistral is a llama with a window."""
    architecture = _one(file, "general.architecture")
    families = {name: family for family, name in ARCHITECTURES.items() if family != "mistral"}
    if not isinstance(architecture, str) or architecture not in families:
        found = "missing" if architecture is None else printable(repr(architecture), 100)
        allowed = f"known are: {', '.join(families)}"
        raise ModelFileError(file.path, "metadata 'general.architecture'", None, found, allowed)
    window = architecture == "llama" and _one(file, "llama.attention.sliding_window") not in (None, 0)
    return "mistral" if window else families[architecture], architecture


def score_scale(family: str, values: dict[str, Any]) -> Any:
    """query_pre_attn_scalar, which GGUF has no key for; None where unchecked values are of a wrong type."""
    width, heads, size = (values.get(name) for name in ("hidden_size", "num_attention_heads", "head_dim"))
    if values.get("num_hidden_layers") == _BY_WIDTH[family] and isinstance(width, int) and isinstance(heads, int):
        return width // heads if heads > 0 else None
    return size


def _one(file: GGUF, key: str) -> Any:
    """A single value or None. Raises ModelFileError for an array, which some other architectures have per layer."""
    value = file.metadata.get(key)
    if isinstance(value, np.ndarray | StringArray):
        raise ModelFileError(
            file.path, f"metadata '{key}'", file.key_offsets[key], f"an array of {len(value):,}", "one value"
        )
    return value


def _vocabulary(file: GGUF, raw: Raw) -> int:
    """Rows of the embedding, which the token list and the stated size must equal."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        found = "missing" if embedding is None else f"shape {list(embedding.shape)}"
        raise ModelFileError(file.path, "tensor 'token_embd.weight'", None, found, "(vocabulary, hidden)")
    rows = embedding.shape[0]
    stated = raw.values.get("vocab_size")
    if stated is not None and stated != rows:
        raw.refuse("vocab_size", printable(repr(stated), 100), f"{rows:,}, the rows of 'token_embd.weight'")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if tokens is not None and (not isinstance(tokens, StringArray) or len(tokens) != rows):
        count = f"{len(tokens):,} tokens" if isinstance(tokens, StringArray) else "no array of strings"
        raw.refuse("tokenizer.ggml.tokens", count, f"{rows:,}, the rows of 'token_embd.weight'")
    return rows


def _check_experts(file: GGUF, raw: Raw, architecture: str) -> None:
    """A key that would make it another model than the one pyllm computes."""
    experts = _one(file, f"{architecture}.expert_count")
    if experts not in (None, 0):
        raw.refuse(f"{architecture}.expert_count", printable(repr(experts), 100), "0: no mixture of experts")


def _scaling(file: GGUF, architecture: str, keys: dict[str, str]) -> dict[str, Any] | None:
    """The rotary scaling in Hugging Face's spelling; per-frequency factors are tensors."""
    if "rope_freqs.weight" in file.tensors:
        return {"type": "frequencies", "factors": _factors(file, "rope_freqs.weight")}
    kind = _one(file, f"{architecture}.rope.scaling.type")
    scaling = {name: _one(file, key) for name, key in keys.items()}
    if scaling["factor"] is None:
        scaling["factor"] = _one(file, f"{architecture}.rope.scale_linear")
    if kind == "none" or (kind is None and scaling["factor"] is None):
        return None
    scaling["type"] = "linear" if kind is None else kind
    if kind == "longrope":
        one = scaling["attention_factor"] is None
        return scaling | {"attention_factor": 1.0 if one else scaling["attention_factor"]} | {
            f"{each}_factor": _factors(file, f"rope_factors_{each}.weight") for each in ("short", "long")
        }
    scaling["attention_factor"] = _attention_factor(scaling["attention_factor"], scaling["factor"])
    return scaling


def _attention_factor(value: Any, factor: Any) -> Any:
    """GGUF's attn_factor multiplies YaRN's 0.1 ln(factor) + 1; Hugging Face's attention_factor replaces it."""
    numbers = isinstance(value, float) and isinstance(factor, float) and factor >= 1
    return value * (0.1 * math.log(factor) + 1) if numbers else value


def _factors(file: GGUF, name: str) -> list[float]:
    """The numbers of a tensor that has one per pair of a head."""
    info = file.tensors.get(name)
    if info is None or info.dtype != "F32" or len(info.shape) != 1 or info.shape[0] > 4096:
        found = "missing" if info is None else f"{info.dtype} {list(info.shape)}"
        place = None if info is None else info.offset
        raise ModelFileError(file.path, f"tensor '{name}'", place, found, "F32, half of a head long")
    numbers: list[float] = file.read(info).view(np.dtype("<f4")).tolist()
    return numbers
