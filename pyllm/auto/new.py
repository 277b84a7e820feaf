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


def _bart(width: int, layers: int, heads: int, vocabulary: int, inner: int = 0) -> dict[str, Any]:
    """A size of BART and its relatives, both sides alike; inner: 4 width unless given."""
    one = {"layers": layers, "ffn_dim": inner or 4 * width, "attention_heads": heads}
    sides = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in one.items()}
    return {"vocab_size": vocabulary, "d_model": width, **sides}


def _t5(width: int, layers: int, heads: int, inner: int, **more: Any) -> dict[str, Any]:
    """A size of T5; version 1.1 is gated, and its head is a matrix of its own."""
    sizes = {"d_model": width, "num_layers": layers, "num_heads": heads, "d_ff": inner, "vocab_size": 32_128}
    return sizes | {"model_type": "t5", "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, **more}


_V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_MT5: dict[str, Any] = {"model_type": "mt5", "d_kv": 64, "vocab_size": 250_112, **_V1_1}
_BART = {"model_type": "bart", "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
_MARIAN = {"model_type": "marian", "activation_function": "swish", "scale_embedding": True, "eos_token_id": 0}
_MARIAN |= {"pad_token_id": 58_100, "decoder_start_token_id": 58_100, "max_position_embeddings": 512}
_PEGASUS: dict[str, Any] = {"model_type": "pegasus", "activation_function": "relu", "scale_embedding": True}
_PEGASUS |= {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "max_position_embeddings": 512}
_M2M_100: dict[str, Any] = {"model_type": "m2m_100", "bos_token_id": 0, "eos_token_id": 2}
_MINI: dict[str, Any] = {"model_type": "bert", "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12}
_MPNET = {"model_type": "mpnet", "max_position_embeddings": 514}
_BASE: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
_LARGE: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
# Published sizes by their names.
SHAPES: dict[str, dict[str, Any]] = {
    "bert-base": {"model_type": "bert"},
    "bert-large": {"model_type": "bert", "num_hidden_layers": 24} | _LARGE,
    "all-minilm-l6-v2": _MINI | {"num_hidden_layers": 6},
    "all-minilm-l12-v2": _MINI | {"num_hidden_layers": 12},
    "roberta-base": {"model_type": "roberta", "max_position_embeddings": 514, "type_vocab_size": 1},
    "mpnet-base": _MPNET,
    "all-mpnet-base-v2": _MPNET,
    "electra-small": {"model_type": "electra"},
    "electra-base": {"model_type": "electra", "embedding_size": 768} | _BASE,
    "distilbert-base": {"model_type": "distilbert"},
    "albert-base": {"model_type": "albert"} | _BASE,
    "bart-base": _BART | _bart(768, 6, 12, 50_265),
    "bart-large": _BART | _bart(1024, 12, 16, 50_265),
    "marian-base": _MARIAN | _bart(512, 6, 8, 58_101),
    "t5-small": _t5(512, 6, 8, 2048),
    "t5-base": _t5(768, 12, 12, 3072),
    "flan-t5-small": _t5(512, 8, 6, 1024, d_kv=64, **_V1_1),
    "flan-t5-base": _t5(768, 12, 12, 2048, d_kv=64, **_V1_1),
    "mt5-small": _t5(512, 8, 6, 1024, **_MT5),
    "mt5-base": _t5(768, 12, 12, 2048, **_MT5),
    "pegasus-large": _PEGASUS | _bart(1024, 16, 16, 96_103),
    "m2m100-418m": _M2M_100 | _bart(1024, 12, 16, 128_112),
    "nllb-200-600m": _M2M_100 | _bart(1024, 12, 16, 256_206),
}
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
    "mpnet": {},
    "electra": {},
    "distilbert": {},
    "albert": {},
    "vit": {},
    "bart": _bart(768, 6, 12, 50_265),
    "mbart": _bart(1024, 12, 16, 250_027) | {"scale_embedding": True},
    "marian": _bart(512, 6, 8, 58_101) | {"activation_function": "swish", "scale_embedding": True},
    "pegasus": _PEGASUS | _bart(1024, 16, 16, 96_103),
    "m2m_100": _M2M_100 | _bart(1024, 12, 16, 128_112),
    "t5": {"d_model": 512, "num_layers": 6, "num_heads": 8, "d_ff": 2048, "vocab_size": 32_128},
    "mt5": {"tie_word_embeddings": False},
    "umt5": {"tie_word_embeddings": False},
}
_T5 = ("t5", "mt5", "umt5")
_PADDED = ("bart", "mbart", "marian", "pegasus", "m2m_100", *_T5)  # transformers' encoder-decoders
PAIRS = ("transformer", "seq2seq", *_PADDED)  # encoder-decoders, which learn from pairs
ENCODERS = ("bert", "roberta", "distilbert", "albert", "mpnet", "electra")
READ_AS = {"xlm-roberta": "roberta", "camembert": "roberta"}  # model_type of folders -> the family that it is
IMAGES = ("vit",)  # encoders that read images
RECURRENT = ("rnn", "lstm", "gru", "awd-lstm")
OWN = (*RECURRENT, *PAIRS)  # they continue no texts in transformers and llama.cpp
_GIVEN = ("gpt2", *OWN, *ENCODERS, *IMAGES)  # families of which no size follows from another


def new_config(family: str, **sizes: Any) -> Any:
    """The Config of a family, or of a published size by its name, with these fields in Hugging Face's names.

    Raises ValueError for a family that is not known, ModelFileError for a field that is not, or is out of range.
    """
    known_sizes = USUAL | SHAPES
    if family not in known_sizes:
        raise ValueError(f"new model: family {family!r} is not known; known are {', '.join(known_sizes)}")
    raw = {"model_type": family} | known_sizes[family] | sizes
    width = raw.get("hidden_size")
    given = family in _GIVEN or family in SHAPES
    if not given and "hidden_size" in sizes and "intermediate_size" not in sizes and isinstance(width, int):
        raw["intermediate_size"] = (width * 8 // 3 + 63) // 64 * 64
    if not given and "num_attention_heads" in sizes and "num_key_value_heads" not in sizes:
        raw["num_key_value_heads"] = raw["num_attention_heads"]
    values = check_config(raw, "config")
    config = import_module(f"pyllm.models.{values['model_type']}").Config
    known = {field.name for field in fields(config)}
    unknown = sorted(set(sizes) - known - {"head_dim"})
    if unknown:
        raise ValueError(f"config: {', '.join(unknown)} not known; {family} has {', '.join(sorted(known))}")
    return config(**{name: value for name, value in values.items() if name in known})


def config_for(family: str, tokenizer: Any, fields: dict[str, Any]) -> Any:
    """The Config of a new model of a tokenizer's texts; fields go before what the tokenizer says.

    Raises as new_config does, ValueError for a vocabulary that not all tokens have a place in.
    """
    tokens, given = tokenizer.vocab_size, _special_ids(family, tokenizer) | fields
    _check_padding(family, given)
    config = new_config(family, **({"vocab_size": tokens} | given))
    if config.vocab_size < tokens:
        raise ValueError(f"config: vocab_size {config.vocab_size:,}, allowed are the tokenizer's {tokens:,} or more")
    return config


def _special_ids(family: str, tokenizer: Any) -> dict[str, Any]:
    """The fields of a new model's configuration that name special tokens of its tokenizer, those that the family has.

    Targets begin as transformers has it: T5's with the padding token, BART's and its relatives' with the end token.
    """
    first, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    found = {"bos_token_id": first, "eos_token_id": end}
    if family in (*ENCODERS, *_PADDED):
        found["pad_token_id"] = end if pad is None else pad
    if family in _PADDED:
        found["decoder_start_token_id"] = found["pad_token_id"] if family in _T5 else end
    return found


def _check_padding(family: str, ids: dict[str, Any]) -> None:
    """Raise ValueError for a padding token where places are not counted as the family's are: behind that token."""
    pad, allowed = ids.get("pad_token_id"), ""
    if family == "mpnet" and pad != 1:
        allowed = "1, a token's that stands in no text"
    elif family == "m2m_100" and pad == ids["decoder_start_token_id"]:
        allowed = "another than that which targets begin with"
    if allowed:
        raise ValueError(f"{family}: pad_token_id {pad}, allowed is {allowed}: pyllm tokenizer train --special '<pad>'")


def new_model(config: Any, seed: int = 0) -> Any:
    """A model of a family's Config with random weights, ready to learn."""
    return import_module(type(config).__module__).Model(config).initialise(seed)
