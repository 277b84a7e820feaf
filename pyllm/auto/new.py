"""Models that no file holds yet: a family and the sizes that differ from its usual ones."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import Any

from pyllm.formats.config import check_config

# Usual sizes where Hugging Face's configurations have no default of their own that suits a beginning.
_LLAMA: dict[str, Any] = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
_LLAMA |= {"num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5}
_LLAMA |= {"vocab_size": 32000, "tie_word_embeddings": True, "hidden_act": "silu"}
_RECURRENT: dict[str, Any] = {"model_type": "rnn", "embedding_size": 256, "hidden_size": 512, "num_hidden_layers": 2}
_RECURRENT |= {"max_position_embeddings": 256, "vocab_size": 10_000}
_AWD: dict[str, Any] = {"model_type": "ulmfit", "embedding_size": 400, "hidden_size": 1152, "num_hidden_layers": 3}
_AWD |= {"max_position_embeddings": 256, "vocab_size": 10_000}
USUAL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "rnn": _RECURRENT | {"cell": "tanh"},
    "lstm": _RECURRENT | {"cell": "lstm"},
    "gru": _RECURRENT | {"cell": "gru"},
    "awd-lstm": _AWD,
    "transformer": {"vocab_size": 8192},
    "seq2seq": {"vocab_size": 8192},
    "bert": {},  # the sizes of encoders are the defaults of their fields
    "roberta": {},
    "distilbert": {},
    "albert": {},
}
PAIRS = ("transformer", "seq2seq")  # encoder-decoders, which learn from pairs
ENCODERS = ("bert", "roberta", "distilbert", "albert")
RECURRENT = ("rnn", "lstm", "gru", "awd-lstm")
OWN = (*RECURRENT, *PAIRS)  # neither transformers nor llama.cpp know them
_GIVEN = ("gpt2", *OWN, *ENCODERS)  # families of which no size follows from another


def new_config(family: str, **sizes: Any) -> Any:
    """The Config of a family with these fields in Hugging Face's names.

    Raises ValueError for a family that is not known, ModelFileError for a field that is not, or is out of range.
    """
    if family not in USUAL:
        raise ValueError(f"new model: family {family!r} is not known; known are {', '.join(USUAL)}")
    raw = {"model_type": family} | USUAL[family] | sizes
    width = raw.get("hidden_size")
    if family not in _GIVEN and "hidden_size" in sizes and "intermediate_size" not in sizes and isinstance(width, int):
        raw["intermediate_size"] = (width * 8 // 3 + 63) // 64 * 64
    if family not in _GIVEN and "num_attention_heads" in sizes and "num_key_value_heads" not in sizes:
        raw["num_key_value_heads"] = raw["num_attention_heads"]
    values = check_config(raw, "config")
    config = import_module(f"pyllm.models.{values['model_type']}").Config
    known = {field.name for field in fields(config)}
    unknown = sorted(set(sizes) - known - {"head_dim"})
    if unknown:
        raise ValueError(f"config: {', '.join(unknown)} not known; {family} has {', '.join(sorted(known))}")
    return config(**{name: value for name, value in values.items() if name in known})


def built(config: Any) -> Any:
    """A model of a family's Config, its weights not there yet."""
    return import_module(type(config).__module__).Model(config)


def new_model(config: Any, seed: int = 0) -> Any:
    """A model of a family's Config with random weights, ready to learn."""
    return built(config).initialise(seed)
