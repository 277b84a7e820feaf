"""What the configuration of each family may say: its fields with their ranges, and what must fit together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pyllm.errors import printable
from pyllm.formats.encoder_decoders import (
    check_bart,
    check_m2m_100,
    check_marian,
    check_mbart,
    check_mt5,
    check_pegasus,
    check_seq2seq,
    check_t5,
    check_transformer,
    check_umt5,
)
from pyllm.formats.encoders import (
    check_albert,
    check_bert,
    check_distilbert,
    check_electra,
    check_mpnet,
    check_roberta,
    check_vit,
)
from pyllm.formats.fields import Field, Raw, changed, check_fields
from pyllm.formats.scaling import check_scaling

_SIZES = (1, 1 << 20)
_CONTEXT = (1, 1 << 27)
_IDS = (
    Field("bos_token_id", "ids", default=None),
    Field("eos_token_id", "ids", default=None),
)
_DECODER = (
    Field("hidden_size", "int", *_SIZES),
    Field("intermediate_size", "int", 1, 1 << 22),
    Field("num_hidden_layers", "int", 1, 1000),
    Field("num_attention_heads", "int", 1, 4096),
    Field("num_key_value_heads", "int", 1, 4096, None),
    Field("head_dim", "int", 2, 4096, None),
    Field("vocab_size", "int", 1, 1 << 24),
    Field("max_position_embeddings", "int", *_CONTEXT),
    Field("rms_norm_eps", "float", 1e-12, 1e-1, 1e-6),
    Field("rope_theta", "float", 1.0, 1e12, 10_000.0),
    Field("partial_rotary_factor", "float", 1.0, 1.0, 1.0),
    Field("tie_word_embeddings", "bool", default=False),
    Field("hidden_act", "choice", default="silu", choices=("silu",)),
    *_IDS,
)
_ATTENTION_BIAS = Field("attention_bias", "bool", default=False)
_LAYER_TYPES = Field("layer_types", "layers", default=None, choices=("full_attention", "sliding_attention"))
_TANH = ("gelu_pytorch_tanh", "gelu")  # Gemma's first files say "gelu" and mean this
LLAMA = (*_DECODER, _ATTENTION_BIAS, Field("mlp_bias", "bool", default=False))
MISTRAL = (*_DECODER, Field("sliding_window", "int", *_CONTEXT, None))
QWEN2 = (
    *_DECODER,
    Field("use_sliding_window", "bool", default=False),
    Field("sliding_window", "int", *_CONTEXT, 4096),
    Field("max_window_layers", "int", 0, 1000, 28),
    _LAYER_TYPES,
)
QWEN3 = changed(QWEN2, Field("head_dim", "int", 2, 4096, 128), _ATTENTION_BIAS)
GEMMA = changed(
    _DECODER,
    Field("head_dim", "int", 2, 4096, 256),
    Field("tie_word_embeddings", "bool", default=True),
    Field("hidden_act", "choice", default=_TANH[0], choices=_TANH),
    _ATTENTION_BIAS,
)
GEMMA2 = changed(
    tuple(field for field in GEMMA if field.name != "hidden_act"),
    Field("hidden_activation", "choice", default=_TANH[0], choices=_TANH),
    Field("sliding_window", "int", *_CONTEXT, 4096),
    _LAYER_TYPES,
    Field("query_pre_attn_scalar", "int", 1, 1 << 20, 256),
    Field("attn_logit_softcapping", "float", 1e-3, 1e6, 50.0),
    Field("final_logit_softcapping", "float", 1e-3, 1e6, 30.0),
)
GEMMA3 = changed(  # with the defaults on which the published files rely
    GEMMA2,
    Field("num_attention_heads", "int", 1, 4096, 8),
    Field("num_key_value_heads", "int", 1, 4096, 4),
    Field("vocab_size", "int", 1, 1 << 24, 262_208),
    Field("max_position_embeddings", "int", *_CONTEXT, 131_072),
    Field("rope_theta", "float", 1.0, 1e12, 1_000_000.0),
    Field("rope_local_base_freq", "float", 1.0, 1e12, 10_000.0),
    Field("sliding_window_pattern", "int", 1, 1000, 6),
    Field("attn_logit_softcapping", "float", 1e-3, 1e6, None),
    Field("final_logit_softcapping", "float", 1e-3, 1e6, None),
)
GPT_NEOX = (
    *(field for field in _DECODER if field.name not in ("num_key_value_heads", "head_dim", "rms_norm_eps")),
    Field("layer_norm_eps", "float", 1e-12, 1e-1, 1e-5),
    Field("rotary_pct", "float", 1e-3, 1.0, 0.25),
    Field("use_parallel_residual", "bool", default=True),
    Field("attention_bias", "bool", default=True),
)
GPT_NEOX = changed(
    GPT_NEOX,
    Field("partial_rotary_factor", "float", 1e-3, 1.0, None),
    Field("hidden_act", "choice", default="gelu", choices=("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")),
)
GPT2 = (
    Field("n_embd", "int", *_SIZES),
    Field("n_layer", "int", 1, 1000),
    Field("n_head", "int", 1, 4096),
    Field("n_positions", "int", 1, 1 << 24),
    Field("n_inner", "int", 1, 1 << 22, None),
    Field("vocab_size", "int", 1, 1 << 24),
    Field("activation_function", "choice", default="gelu_new", choices=("gelu_new", "gelu_pytorch_tanh")),
    Field("layer_norm_epsilon", "float", 1e-12, 1e-1, 1e-5),
    Field("tie_word_embeddings", "bool", default=True),
    *_IDS,
)

RNN = (
    Field("cell", "choice", choices=("lstm", "gru", "tanh", "relu")),
    Field("vocab_size", "int", 1, 1 << 24),
    Field("embedding_size", "int", *_SIZES),
    Field("hidden_size", "int", *_SIZES),
    Field("num_hidden_layers", "int", 1, 1000),
    Field("max_position_embeddings", "int", *_CONTEXT),
    Field("dropout", "float", 0.0, 0.99, 0.0),
    Field("head_bias", "bool", default=True),
    Field("tie_word_embeddings", "bool", default=False),
    *_IDS,
)

_DROPPED = {"output_p": 0.1, "hidden_p": 0.15, "input_p": 0.25, "embed_p": 0.02, "weight_p": 0.2}
ULMFIT = (
    *(field for field in RNN if field.name not in ("cell", "dropout", "tie_word_embeddings")),
    *(Field(name, "float", 0.0, 0.99, p) for name, p in _DROPPED.items()),
    Field("alpha", "float", 0.0, 1e6, 2.0),
    Field("beta", "float", 0.0, 1e6, 1.0),
    Field("tie_word_embeddings", "bool", default=True),
)

# Settings that change the arithmetic: refused unless they are off.
_GPT2_FIXED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
_GEMMA_FIXED = {"use_bidirectional_attention": False}


def _refuse_changes(raw: Raw, fixed: dict[str, bool]) -> None:
    for name, needed in fixed.items():
        if raw.values.get(name) not in (needed, None):
            raw.refuse(name, printable(repr(raw.values[name]), 100), needed)


def _decoder(raw: Raw, fields: tuple[Field, ...], kind: str) -> dict[str, Any]:
    """What LLaMA and its relatives have in common."""
    config = check_fields(raw, fields)
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    if config["num_key_value_heads"] is None:
        config["num_key_value_heads"] = heads
    groups = config["num_key_value_heads"]
    if groups > heads or heads % groups:
        raw.refuse("num_key_value_heads", f"{groups:,}", f"a divisor of the {heads:,} attention heads")
    if config["head_dim"] is None:
        if hidden % heads:
            raw.refuse("hidden_size", f"{hidden:,}", f"a multiple of the {heads:,} attention heads")
        config["head_dim"] = hidden // heads
    if config["head_dim"] % 2 or config["head_dim"] < 2:
        raw.refuse("head_dim", config["head_dim"], "an even number, because rotation takes pairs")
    for name in ("value_dim", "rope_dim"):
        found = raw.values.get(name, config["head_dim"])
        if isinstance(found, bool) or (found is not None and found != config["head_dim"]):
            raw.refuse(name, printable(repr(found), 100), f"{config['head_dim']}, the size of a head")
    del config["partial_rotary_factor"]
    config["rope_scaling"] = check_scaling(raw, config)
    config["rope_interleaved"] = bool(raw.values.get("rope_interleaved", False))
    config["model_type"] = kind
    return config


def _layer_types(raw: Raw, config: dict[str, Any], sliding: Callable[[int], bool]) -> tuple[str, ...]:
    """One of the two kinds for each layer, by the rule `sliding` where the file does not list them."""
    layers, found = config["num_hidden_layers"], config["layer_types"]
    if found is None:
        return tuple("sliding_attention" if sliding(i) else "full_attention" for i in range(layers))
    if len(found) != layers:
        raw.refuse("layer_types", f"{len(found):,} of them", f"{layers:,}, one per layer")
    return found


def check_llama(raw: Raw) -> dict[str, Any]:
    """Normalised fields of LLaMA 1 to 3. Raises ModelFileError, as the others do."""
    return _decoder(raw, LLAMA, "llama")


def check_mistral(raw: Raw) -> dict[str, Any]:
    """Of Mistral."""
    return _decoder(raw, MISTRAL, "mistral")


def check_qwen2(raw: Raw, fields: tuple[Field, ...] = QWEN2, kind: str = "qwen2") -> dict[str, Any]:
    """Of Qwen2 and Qwen2.5: windows count where use_sliding_window says so, from max_window_layers on."""
    config = _decoder(raw, fields, kind)
    windows, full = config["use_sliding_window"], config.pop("max_window_layers")
    config["layer_types"] = _layer_types(raw, config, lambda i: windows and i >= full)
    if not windows and "sliding_attention" in config["layer_types"]:
        raw.refuse("layer_types", "sliding_attention", "full_attention alone, as use_sliding_window is false")
    config["sliding_window"] = config["sliding_window"] if windows else None
    return config


def check_qwen3(raw: Raw) -> dict[str, Any]:
    """Of Qwen3."""
    return check_qwen2(raw, QWEN3, "qwen3")


def check_gemma(raw: Raw) -> dict[str, Any]:
    """Of Gemma."""
    _refuse_changes(raw, _GEMMA_FIXED)
    return _decoder(raw, GEMMA, "gemma") | {"hidden_act": _TANH[0]}


def check_gemma2(raw: Raw, fields: tuple[Field, ...] = GEMMA2, kind: str = "gemma2") -> dict[str, Any]:
    """Of Gemma 2: every other layer has a window, the first among them; a soft cap of null is none."""
    _refuse_changes(raw, _GEMMA_FIXED)
    config = _decoder(raw, fields, kind) | {"hidden_activation": _TANH[0]}
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if name in raw.values and raw.values[name] is None:
            config[name] = None
    pattern = config.pop("sliding_window_pattern", 2)
    config["layer_types"] = _layer_types(raw, config, lambda i: (i + 1) % pattern != 0)
    return config


def check_gemma3(raw: Raw) -> dict[str, Any]:
    """Of Gemma 3's text: all but every sixth layer have windows, and their own rotary frequencies."""
    pattern = raw.values.get("_sliding_window_pattern")
    values = {"sliding_window_pattern": pattern, **raw.values, **_by_layer_type(raw)}
    raw = raw._replace(values={name: value for name, value in values.items() if name != "rope_parameters"})
    config = check_gemma2(raw, GEMMA3, "gemma3_text")
    config["rope_local_scaling"] = check_scaling(raw, config, "rope_local_scaling")
    return config


def _by_layer_type(raw: Raw) -> dict[str, Any]:
    """transformers 5 has the rotary settings of both kinds of layers in one object."""
    both = raw.values.get("rope_scaling")
    if not isinstance(both, dict) or not {"full_attention", "sliding_attention"} & set(both):
        return {}
    found: dict[str, Any] = {
        "rope_scaling": both.get("full_attention"),
        "rope_local_scaling": both.get("sliding_attention"),
    }
    for scaling, theta in (("rope_scaling", "rope_theta"), ("rope_local_scaling", "rope_local_base_freq")):
        inner = found[scaling]
        if inner is not None and not isinstance(inner, dict):
            raw.refuse("rope_parameters", printable(repr(inner), 100), "an object for each type of layer")
        if inner and inner.get("rope_theta") is not None:
            found[theta] = inner["rope_theta"]
    return found


def check_gpt_neox(raw: Raw) -> dict[str, Any]:
    """Of GPT-NeoX and Pythia; their first files say rotary_emb_base, newer ones rope_theta."""
    values = {"rope_theta": raw.values.get("rotary_emb_base"), **raw.values}
    raw = raw._replace(values=values)
    config = check_fields(raw, GPT_NEOX)
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    if hidden % (2 * heads):
        raw.refuse("hidden_size", f"{hidden:,}", f"a multiple of 2 x {heads:,} attention heads")
    config["num_key_value_heads"], config["head_dim"] = heads, hidden // heads
    part = config.pop("partial_rotary_factor")
    if values.get("rope_dim") is not None:
        part = _rotary_part(raw, config["head_dim"])
    config["rotary_pct"] = config["rotary_pct"] if part is None else part
    config["rotary_dim"] = int(config["head_dim"] * config["rotary_pct"])
    if config["rotary_dim"] % 2 or config["rotary_dim"] < 2:
        found = f"{config['rotary_pct']:g} of {config['head_dim']} features"
        raw.refuse("rotary_pct", found, "an even number of features, because rotation takes pairs")
    config["rope_scaling"] = check_scaling(raw, config | {"head_dim": config["rotary_dim"]})
    config["model_type"] = "gpt_neox"
    return config


def _rotary_part(raw: Raw, head_dim: int) -> float:
    """GGUF gives the number of features."""
    found = raw.values["rope_dim"]
    if isinstance(found, bool) or not isinstance(found, int) or not 2 <= found <= head_dim:
        raw.refuse("rope_dim", printable(repr(found), 100), f"a whole number from 2 to {head_dim}")
    part = found / head_dim
    return part if int(head_dim * part) == found else math.nextafter(part, 1)  # rounding down gives it back


def check_gpt2(raw: Raw) -> dict[str, Any]:
    """Of GPT-2."""
    config = check_fields(raw, GPT2)
    _refuse_changes(raw, _GPT2_FIXED)
    if config["n_embd"] % config["n_head"]:
        raw.refuse("n_embd", f"{config['n_embd']:,}", f"a multiple of the {config['n_head']:,} attention heads")
    if config["n_inner"] is None:
        config["n_inner"] = 4 * config["n_embd"]
    config["model_type"] = "gpt2"
    return config


def check_rnn(raw: Raw) -> dict[str, Any]:
    """Of recurrent language models, whose layout is this project's own."""
    config = check_fields(raw, RNN)
    hidden, width = config["hidden_size"], config["embedding_size"]
    if config["tie_word_embeddings"] and hidden != width:
        raw.refuse("embedding_size", f"{width:,}", f"{hidden:,}, the hidden size, because the head is the embedding")
    return config | {"model_type": "rnn"}


def check_ulmfit(raw: Raw) -> dict[str, Any]:
    """Of AWD-LSTM, with the names of fastai's dropouts."""
    return check_fields(raw, ULMFIT) | {"model_type": "ulmfit"}


FAMILIES: dict[str, Callable[[Raw], dict[str, Any]]] = {
    "gpt2": check_gpt2,
    "llama": check_llama,
    "mistral": check_mistral,
    "qwen2": check_qwen2,
    "qwen3": check_qwen3,
    "gemma": check_gemma,
    "gemma2": check_gemma2,
    "gemma3_text": check_gemma3,
    "gpt_neox": check_gpt_neox,
    "rnn": check_rnn,
    "ulmfit": check_ulmfit,
    "seq2seq": check_seq2seq,
    "transformer": check_transformer,
    "bert": check_bert,
    "roberta": check_roberta,
    "xlm-roberta": check_roberta,  # RoBERTa's layers and names with another vocabulary
    "camembert": check_roberta,
    "mpnet": check_mpnet,
    "electra": check_electra,
    "distilbert": check_distilbert,
    "albert": check_albert,
    "vit": check_vit,
    "bart": check_bart,
    "mbart": check_mbart,
    "marian": check_marian,
    "t5": check_t5,
    "pegasus": check_pegasus,
    "m2m_100": check_m2m_100,
    "mt5": check_mt5,
    "umt5": check_umt5,
}
