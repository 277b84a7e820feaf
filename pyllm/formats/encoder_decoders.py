"""What the configurations of encoder-decoders may say, as families.py has it for the others."""

from __future__ import annotations

from typing import Any

from pyllm.formats.fields import Field, Raw, check_fields

_SIZES = (1, 1 << 20)
_LAYERS = (1, 1000)
_SHARED = (
    Field("vocab_size", "int", 1, 1 << 24),
    Field("max_position_embeddings", "int", 1, 1 << 24, 512),
    Field("label_smoothing", "float", 0.0, 0.99, 0.0),
    Field("bos_token_id", "ids", default=None),
    Field("eos_token_id", "ids", default=None),
    Field("decoder_start_token_id", "ids", default=None),
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
