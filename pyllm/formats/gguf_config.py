"""Translate GGUF metadata into Hugging Face's field names; config.py then checks them like any other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyllm.errors import ModelFileError, printable
from pyllm.formats.config import FAMILIES, Raw
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
    "factor": "llama.rope.scaling.factor",
    "original_max_position_embeddings": "llama.rope.scaling.original_context_length",
    "attention_factor": "llama.rope.scaling.attn_factor",
    "beta_fast": "llama.rope.scaling.yarn_beta_fast",
    "beta_slow": "llama.rope.scaling.yarn_beta_slow",
}
KEYS = {"llama": _LLAMA_KEYS, "gpt2": _GPT2_KEYS}
IN_PAIRS = {"llama"}  # architectures whose files have the rows of q and k in rotary pairs, not in halves


def gguf_values(file: GGUF) -> tuple[Raw, str]:
    """(unchecked values under Hugging Face's names, architecture). Raises ModelFileError."""
    kind = _one(file, "general.architecture")
    if not isinstance(kind, str) or kind not in FAMILIES:
        found = "missing" if kind is None else printable(repr(kind), 100)
        allowed = f"known are: {', '.join(FAMILIES)}"
        raise ModelFileError(file.path, "metadata 'general.architecture'", None, found, allowed)
    names = {name: f"{kind}.{key}" for name, key in KEYS[kind].items()} | _TOKENIZER_KEYS
    names["vocab_size"] = f"{kind}.vocab_size"
    values = {name: _one(file, key) for name, key in names.items()}
    names |= {f"rope_scaling.{name}": key for name, key in SCALING_KEYS.items()}
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
    if kind == "llama":
        values["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
        values["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
        values["rope_interleaved"] = kind in IN_PAIRS
        _check_llama_keys(file, raw)
        values["rope_scaling"] = _scaling(file)
    return raw, kind


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
    stated = raw.values["vocab_size"]
    if stated is not None and stated != rows:
        raw.refuse("vocab_size", printable(repr(stated), 100), f"{rows:,}, the rows of 'token_embd.weight'")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if tokens is not None and (not isinstance(tokens, StringArray) or len(tokens) != rows):
        count = f"{len(tokens):,} tokens" if isinstance(tokens, StringArray) else "no array of strings"
        raw.refuse("tokenizer.ggml.tokens", count, f"{rows:,}, the rows of 'token_embd.weight'")
    return rows


def _check_llama_keys(file: GGUF, raw: Raw) -> None:
    """Keys that would make it another model than the one pyllm computes."""
    experts = _one(file, "llama.expert_count")
    if experts not in (None, 0):
        raw.refuse("llama.expert_count", printable(repr(experts), 100), "0: no mixture of experts")


def _scaling(file: GGUF) -> dict[str, Any] | None:
    """The rotary scaling in Hugging Face's spelling; per-frequency factors come from the tensor rope_freqs."""
    if "rope_freqs.weight" in file.tensors:
        return {"type": "frequencies", "factors": _frequency_factors(file)}
    kind = _one(file, "llama.rope.scaling.type")
    scaling = {name: _one(file, key) for name, key in SCALING_KEYS.items()}
    if scaling["factor"] is None:
        scaling["factor"] = _one(file, "llama.rope.scale_linear")
    if kind == "none" or (kind is None and scaling["factor"] is None):
        return None
    scaling["type"] = "linear" if kind is None else kind
    scaling["attention_factor"] = _attention_factor(scaling["attention_factor"], scaling["factor"])
    return scaling


def _attention_factor(value: Any, factor: Any) -> Any:
    """GGUF's attn_factor multiplies YaRN's 0.1 ln(factor) + 1; Hugging Face's attention_factor replaces it."""
    numbers = isinstance(value, float) and isinstance(factor, float) and factor >= 1
    return value * (0.1 * math.log(factor) + 1) if numbers else value


def _frequency_factors(file: GGUF) -> list[float]:
    """The numbers of rope_freqs.weight, one per pair of a head."""
    info = file.tensors["rope_freqs.weight"]
    if info.dtype != "F32" or len(info.shape) != 1 or info.shape[0] > 4096:
        found = f"{info.dtype} {list(info.shape)}"
        raise ModelFileError(file.path, "tensor 'rope_freqs.weight'", info.offset, found, "F32, half of a head long")
    return file.read(info).view(np.dtype("<f4")).tolist()
