"""Tiny random models of every family, as Hugging Face folders and as GGUF files of every tensor type.

    config = tiny_models.llama_config(attention_bias=True)
    weights = tiny_models.random_weights(config, seed=1)
    tiny_models.write_folder(path, config, weights, dtype="BF16")
    tiny_models.write_gguf(path, config, weights, dtype="Q4_1")

A GGUF's block types are quantised with PyPI's `gguf` where it can, else filled with random valid blocks: read the file
back with gguf_reference.read for the weights that it really holds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import gguf_reference
import numpy as np
import reference as ref
import reference_blocks as blocks
import tiny_families
import tiny_tokenizers
from numpy.typing import NDArray

Config = dict[str, Any]
Weights = dict[str, NDArray]

ROPE_SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 160},
}


def llama_config(**changes: Any) -> Config:
    """A config.json of a small LLaMA; keyword arguments replace or add fields."""
    return tiny_families.config("llama", **changes)


def gpt2_config(**changes: Any) -> Config:
    """A config.json of a small GPT-2; keyword arguments replace or add fields."""
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": 317,
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 640,
        "n_inner": None,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "activation_function": "gelu_new",
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return config | changes


def recurrent_config(cell: str, **changes: Any) -> Config:
    """A config.json of a small recurrent language model; keyword arguments replace or add fields."""
    config = {
        "architectures": ["RecurrentLM"],
        "model_type": "rnn",
        "cell": cell,
        "vocab_size": 317,
        "embedding_size": 24,
        "hidden_size": 40,
        "num_hidden_layers": 2,
        "max_position_embeddings": 640,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return config | changes


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every weight's name and shape, as Hugging Face stores them."""
    own = {"gpt2": _gpt2_shapes, "rnn": _recurrent_shapes}
    return own.get(config["model_type"], tiny_families.shapes)(config)


def _recurrent_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    units, width, vocabulary = config["hidden_size"], config["embedding_size"], config["vocab_size"]
    gates = {"lstm": 4, "gru": 3}.get(config["cell"], 1) * units
    out: dict[str, tuple[int, ...]] = {"encoder.weight": (vocabulary, width)}
    for i in range(config["num_hidden_layers"]):
        out[f"rnn.weight_ih_l{i}"], out[f"rnn.weight_hh_l{i}"] = (gates, width if i == 0 else units), (gates, units)
        out[f"rnn.bias_ih_l{i}"] = out[f"rnn.bias_hh_l{i}"] = (gates,)
    return out | {"decoder.weight": (vocabulary, units), "decoder.bias": (vocabulary,)}


def _gpt2_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    d = config["n_embd"]
    inner = config["n_inner"] or 4 * d
    out: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config["vocab_size"], d),
        "transformer.wpe.weight": (config["n_positions"], d),
    }
    matrices = {"attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "mlp.c_fc": (d, inner), "mlp.c_proj": (inner, d)}
    for i in range(config["n_layer"]):
        layer = f"transformer.h.{i}"
        for norm in ("ln_1", "ln_2"):
            out[f"{layer}.{norm}.weight"] = out[f"{layer}.{norm}.bias"] = (d,)
        for name, shape in matrices.items():
            out[f"{layer}.{name}.weight"], out[f"{layer}.{name}.bias"] = shape, shape[1:]
    out["transformer.ln_f.weight"] = out["transformer.ln_f.bias"] = (d,)
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = (config["vocab_size"], d)
    return out


def random_weights(config: Config, seed: int = 0) -> Weights:
    """float32: matrices of variance 1 / inputs, so activations stay near one; norms near one; embeddings of one."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, shape in shapes(config).items():
        value = rng.standard_normal(shape)
        if name.endswith(".bias") or ".bias_" in name:
            value *= 0.1
        elif len(shape) == 1:
            value = 0.1 * value + (not config["model_type"].startswith("gemma"))
        elif not any(part in name for part in ("embed_tokens", "wte", "wpe", "embed_in", "encoder")):
            value *= 2 / np.sqrt(shape[0] if ".c_" in name else shape[1])
        out[name] = value.astype(np.float32)
    return out


def stored(weights: Weights, dtype: str) -> Weights:
    """The float32 values that a folder of this dtype really holds."""
    return {
        name: blocks.dequantise(dtype, blocks.encode(dtype, value.reshape(1, -1))).reshape(value.shape)
        for name, value in weights.items()
    }


def write_safetensors(path: Path, weights: Weights, dtype: str) -> None:
    """One safetensors file: header length, JSON header, the tensors' bytes without holes."""
    header, data = {}, b""
    for name, value in weights.items():
        raw = blocks.encode(dtype, value.reshape(1, -1)).tobytes()
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write(path: str | Path, config: Config, weights: Weights, dtype: str = "F32") -> Path:
    """As GGUF, or as a folder where GGUF has no architecture."""
    return (write_folder if config["model_type"] == "rnn" else write_gguf)(path, config, weights, dtype)


def write_folder(path: str | Path, config: Config, weights: Weights, dtype: str = "F32", shards: int = 1) -> Path:
    """A Hugging Face folder: config.json, model.safetensors (or shards with their index), tokenizer.json."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    name = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]
    (path / "config.json").write_text(json.dumps(config | {"torch_dtype": name}, indent=1))
    if shards == 1:
        write_safetensors(path / "model.safetensors", weights, dtype)
    else:
        index = {}
        for part in range(shards):
            file = f"model-{part + 1:05d}-of-{shards:05d}.safetensors"
            chosen = dict(list(weights.items())[part::shards])
            write_safetensors(path / file, chosen, dtype)
            index |= dict.fromkeys(chosen, file)
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    tiny_tokenizers.write_json(path, config["vocab_size"])
    return path


def write_gguf(
    path: str | Path,
    config: Config,
    weights: Weights,
    dtype: str = "F32",
    embedding: str | None = None,
    tokenizer: str = "bpe",
    seed: int = 0,
) -> Path:
    """A GGUF file: matrices of `dtype`, the token table of `embedding` (or dtype), norms and biases float32."""
    family = config["model_type"]
    writer = gguf.GGUFWriter(path, tiny_families.ARCHITECTURES.get(family, family))
    (_gpt2_fields if family == "gpt2" else _decoder_fields)(writer, config)
    tiny_tokenizers.write_fields(writer, config["vocab_size"], tokenizer)
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    names = gguf_reference.names(config["model_type"], layers)
    for index, (name, value) in enumerate(weights.items()):
        module, _, part = name.rpartition(".")
        kind = (embedding or dtype) if module.endswith(("embed_tokens", "wte", "embed_in")) else dtype
        value = _as_gguf(name, value, config)
        if value.ndim == 1 or module.endswith("wpe"):
            kind = "F32"
        writer.add_tensor(f"{names[module]}.{part}", *_packed(value, kind, seed + index))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


def _as_gguf(name: str, value: NDArray, config: Config) -> NDArray:
    """As GGUF has it: LLaMA's q and k in rotary pairs, GPT-2's matrices (outputs, inputs), Gemma's norms plus one."""
    family = config["model_type"]
    if family in ("llama", "mistral") and ".q_proj." in name:
        value = gguf_reference.to_pairs(value, config["num_attention_heads"])
    if family in ("llama", "mistral") and ".k_proj." in name:
        value = gguf_reference.to_pairs(value, config["num_key_value_heads"])
    if family.startswith("gemma") and name.endswith("norm.weight"):
        value = value + np.float32(1)
    if "query_key_value" in name:  # head by head q, k, v; then all q, all k, all v
        value = np.concatenate(gguf_reference.unmixed(value, config["num_attention_heads"]))
    return np.ascontiguousarray(value.T if ".c_" in name and value.ndim == 2 else value)


def _packed(value: NDArray, dtype: str, seed: int) -> tuple[NDArray, None, gguf.GGMLQuantizationType]:
    """Arguments of add_tensor after the name."""
    kind = gguf.GGMLQuantizationType[dtype]
    if dtype in ("F32", "F16"):
        return value.astype(np.float32 if dtype == "F32" else np.float16), None, kind
    if dtype.endswith("_K"):
        raw = blocks.random_rows(dtype, len(value), value.shape[1], seed)
    else:
        raw = gguf.quantize(value, kind)
    return raw, None, kind


def _decoder_fields(writer: gguf.GGUFWriter, config: Config) -> None:
    tiny_families.write_fields(writer, config)
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "llama3":
        plain, _ = ref.rotary_frequencies(tiny_families.head_dim(config), config["rope_theta"])
        slowed, _ = ref.rotary_frequencies(tiny_families.head_dim(config), config["rope_theta"], scaling)
        writer.add_tensor("rope_freqs.weight", (plain / slowed).astype(np.float32))


def _gpt2_fields(writer: gguf.GGUFWriter, config: Config) -> None:
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config["n_inner"] or 4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_vocab_size(config["vocab_size"])
