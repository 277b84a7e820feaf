"""What the configurations of encoder-decoders may say, as families.py has it for the others."""

from __future__ import annotations

from typing import Any

from pyllm.errors import printable
from pyllm.formats.fields import Field, Raw, changed, check_fields

_SIZES = (1, 1 << 20)
_LAYERS = (1, 1000)
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish")
_SHARED = (
    Field("vocab_size", "int", 1, 1 << 24),
    Field("max_position_embeddings", "int", 1, 1 << 24, 512),
    Field("label_smoothing", "float", 0.0, 0.99, 0.0),
    Field("bos_token_id", "ids", default=None),
    Field("eos_token_id", "ids", default=None),
    Field("decoder_start_token_id", "ids", default=None),
)
_PUBLISHED = (  # what transformers' families have beside it
    *_SHARED,
    Field("pad_token_id", "ids", default=None),
    Field("forced_bos_token_id", "ids", default=None),
    Field("forced_eos_token_id", "ids", default=None),
    Field("tie_word_embeddings", "bool", default=True),
)
BART = (
    *_PUBLISHED,
    Field("max_position_embeddings", "int", 1, 1 << 24, 1024),
    Field("d_model", "int", *_SIZES),
    *(
        field
        for side in ("encoder", "decoder")
        for field in (
            Field(f"{side}_layers", "int", *_LAYERS),
            Field(f"{side}_ffn_dim", "int", 1, 1 << 22),
            Field(f"{side}_attention_heads", "int", 1, 4096),
        )
    ),
    Field("activation_function", "choice", default="gelu", choices=_ACTIVATIONS),
    Field("dropout", "float", 0.0, 0.99, 0.1),
    Field("attention_dropout", "float", 0.0, 0.99, 0.0),
    Field("activation_dropout", "float", 0.0, 0.99, 0.0),
    Field("scale_embedding", "bool", default=False),
)
MARIAN = (
    *BART,
    Field("decoder_vocab_size", "int", 1, 1 << 24, None),
    Field("share_encoder_decoder_embeddings", "bool", default=True),
)
M2M_100 = changed(
    BART,
    Field("d_model", "int", 4, 1 << 20),
    Field("activation_function", "choice", default="relu", choices=_ACTIVATIONS),
    Field("attention_dropout", "float", 0.0, 0.99, 0.1),
    Field("scale_embedding", "bool", default=True),
    Field("pad_token_id", "ids", default=1),
    Field("decoder_start_token_id", "ids", default=2),
)
_T5_PLAIN = ("relu", "gelu", "gelu_new", "silu")
_T5_ALL = (*_T5_PLAIN, *(f"gated-{act}" for act in _T5_PLAIN))
T5 = (
    *_PUBLISHED,
    Field("d_model", "int", *_SIZES, 512),
    Field("d_kv", "int", 1, 4096, 64),
    Field("d_ff", "int", 1, 1 << 22, 2048),
    Field("num_layers", "int", *_LAYERS, 6),
    Field("num_decoder_layers", "int", *_LAYERS, None),
    Field("num_heads", "int", 1, 4096, 8),
    Field("relative_attention_num_buckets", "int", 4, 1 << 16, 32),
    Field("relative_attention_max_distance", "int", 2, 1 << 20, 128),
    Field("feed_forward_proj", "choice", default="relu", choices=_T5_ALL),
    Field("dropout_rate", "float", 0.0, 0.99, 0.1),
    Field("layer_norm_epsilon", "float", 1e-12, 1e-1, 1e-6),
    Field("scale_decoder_outputs", "bool", default=None),
)
MT5 = changed(
    T5,
    Field("vocab_size", "int", 1, 1 << 24, 250_112),
    Field("d_ff", "int", 1, 1 << 22, 1024),
    Field("num_layers", "int", *_LAYERS, 8),
    Field("num_heads", "int", 1, 4096, 6),
    Field("feed_forward_proj", "choice", default="gated-gelu", choices=_T5_ALL),
)
TRANSFORMER = (
    *(field for field in _SHARED if field.name != "label_smoothing"),
    Field("label_smoothing", "float", 0.0, 0.99, 0.1),
    Field("d_model", "int", *_SIZES, 512),
    Field("nhead", "int", 1, 4096, 8),
    Field("num_encoder_layers", "int", *_LAYERS, 6),
    Field("num_decoder_layers", "int", *_LAYERS, 6),
    Field("dim_feedforward", "int", 1, 1 << 22, 2048),
    Field("dropout", "float", 0.0, 0.99, 0.1),
    Field("activation", "choice", default="relu", choices=("relu", "gelu")),
    Field("norm_first", "bool", default=False),
    Field("layer_norm_eps", "float", 1e-12, 1e-1, 1e-5),
    Field("bias", "bool", default=True),
    Field("scale_embedding", "bool", default=True),
    Field("share_encoder_decoder_embeddings", "bool", default=True),
    Field("tie_word_embeddings", "bool", default=True),
)
SEQ2SEQ = (
    *_SHARED,
    Field("cell", "choice", default="lstm", choices=("lstm", "gru", "tanh")),
    Field("attention", "choice", default="general", choices=("none", "additive", "dot", "general")),
    Field("embedding_size", "int", *_SIZES, 256),
    Field("hidden_size", "int", *_SIZES, 512),
    Field("num_layers", "int", *_LAYERS, 2),
    Field("bidirectional", "bool", default=True),
    Field("dropout", "float", 0.0, 0.99, 0.2),
    Field("share_encoder_decoder_embeddings", "bool", default=False),
    Field("tie_word_embeddings", "bool", default=False),
)


def check_transformer(raw: Raw) -> dict[str, Any]:
    """Normalised fields of the Transformer of 2017. Raises ModelFileError, as the other does."""
    config = check_fields(raw, TRANSFORMER)
    if config["d_model"] % config["nhead"]:
        raw.refuse("d_model", f"{config['d_model']:,}", f"a multiple of the {config['nhead']:,} heads")
    return config | {"model_type": "transformer"}


def check_seq2seq(raw: Raw) -> dict[str, Any]:
    """Of recurrent encoder-decoders."""
    config = check_fields(raw, SEQ2SEQ)
    hidden, width = config["hidden_size"], config["embedding_size"]
    if config["bidirectional"] and hidden % 2:
        raw.refuse("hidden_size", f"{hidden:,}", "an even number, of which each direction has half")
    if config["tie_word_embeddings"] and hidden != width:
        raw.refuse("embedding_size", f"{width:,}", f"{hidden:,}, the hidden size, because the head is the embedding")
    return config | {"model_type": "seq2seq"}


def _tasks(raw: Raw) -> dict[str, Any]:
    """task_specific_params: settings of generation, and a prefix, by the name of a task."""
    found = raw.values.get("task_specific_params")
    if found is not None and not (isinstance(found, dict) and all(isinstance(each, dict) for each in found.values())):
        raw.refuse("task_specific_params", printable(repr(found), 100), "an object of objects")
    return {"task_specific_params": found}


def _bart(raw: Raw, fields: tuple[Field, ...], kind: str) -> dict[str, Any]:
    """What BART and its relatives have in common."""
    config = check_fields(raw, fields)
    for side in ("encoder", "decoder"):
        heads = config[f"{side}_attention_heads"]
        if config["d_model"] % heads:
            raw.refuse("d_model", f"{config['d_model']:,}", f"a multiple of the {heads:,} {side} attention heads")
    return config | _tasks(raw) | {"model_type": kind}


def check_bart(raw: Raw) -> dict[str, Any]:
    """Of BART."""
    return _bart(raw, BART, "bart")


def check_mbart(raw: Raw) -> dict[str, Any]:
    """Of mBART."""
    return _bart(raw, BART, "mbart")


def check_marian(raw: Raw) -> dict[str, Any]:
    """Of Marian; where sides have tables of their own the targets' may have another size."""
    config = _bart(raw, MARIAN, "marian")
    if config["decoder_vocab_size"] is None or config["share_encoder_decoder_embeddings"]:
        config["decoder_vocab_size"] = config["vocab_size"]
    return config


def check_pegasus(raw: Raw) -> dict[str, Any]:
    """Of Pegasus."""
    return _bart(raw, BART, "pegasus")


def check_m2m_100(raw: Raw) -> dict[str, Any]:
    """Of M2M100 and NLLB, whose places begin behind the padding token's number; it stands at none."""
    config = _bart(raw, M2M_100, "m2m_100")
    pad = config["pad_token_id"]
    if not isinstance(pad, int):
        raw.refuse("pad_token_id", printable(repr(pad), 100), "a token id: places begin behind it")
    if config["decoder_start_token_id"] == pad:
        raw.refuse("decoder_start_token_id", pad, "another than the padding token, which has no place")
    return config


def check_mt5(raw: Raw) -> dict[str, Any]:
    """Of mT5, whose head is never scaled."""
    return check_t5(raw, MT5, "mt5") | {"scale_decoder_outputs": False}


def check_umt5(raw: Raw) -> dict[str, Any]:
    """Of UMT5."""
    return check_t5(raw, MT5, "umt5")


def check_t5(raw: Raw, fields: tuple[Field, ...] = T5, kind: str = "t5") -> dict[str, Any]:
    """Of T5. Version 1.1 is told by a head that is not tied: then what the head takes is not scaled."""
    config = check_fields(raw, fields)
    if config["num_decoder_layers"] is None:
        config["num_decoder_layers"] = config["num_layers"]
    if config["scale_decoder_outputs"] is None:
        config["scale_decoder_outputs"] = config["tie_word_embeddings"]
    buckets, most = config["relative_attention_num_buckets"], config["relative_attention_max_distance"]
    if most <= buckets // 2:
        raw.refuse("relative_attention_max_distance", f"{most:,}", f"more than half of the {buckets:,} buckets")
    return {name: value for name, value in config.items() if name != "max_position_embeddings"} | {
        **_tasks(raw), "model_type": kind,
    }  # fmt: skip
