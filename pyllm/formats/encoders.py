"""What the configurations of encoders may say, as families.py has it for the others."""

from __future__ import annotations

from typing import Any

from pyllm.errors import printable
from pyllm.formats.fields import Field, Raw, changed, check_fields

_SIZES = (1, 1 << 20)
_DROPOUT = (0.0, 0.99)
ACTIVATIONS = ("gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish")
PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
MOST_LABELS = 1 << 16
_SHARED = (
    Field("vocab_size", "int", 1, 1 << 24, 30522),
    Field("max_position_embeddings", "int", 1, 1 << 24, 512),
    Field("initializer_range", "float", 0.0, 100.0, 0.02),
    Field("pad_token_id", "ids", default=0),
    Field("bos_token_id", "ids", default=None),
    Field("eos_token_id", "ids", default=None),
    Field("tie_word_embeddings", "bool", default=True),
    Field("problem_type", "choice", default=None, choices=PROBLEMS),
)
BERT = (
    *_SHARED,
    Field("hidden_size", "int", *_SIZES, 768),
    Field("num_hidden_layers", "int", 1, 1000, 12),
    Field("num_attention_heads", "int", 1, 4096, 12),
    Field("intermediate_size", "int", 1, 1 << 22, 3072),
    Field("hidden_act", "choice", default="gelu", choices=ACTIVATIONS),
    Field("hidden_dropout_prob", "float", *_DROPOUT, 0.1),
    Field("attention_probs_dropout_prob", "float", *_DROPOUT, 0.1),
    Field("classifier_dropout", "float", *_DROPOUT, None),
    Field("type_vocab_size", "int", 1, 1 << 16, 2),
    Field("layer_norm_eps", "float", 1e-15, 1e-1, 1e-12),
)
ROBERTA = changed(
    BERT,
    Field("vocab_size", "int", 1, 1 << 24, 50265),
    Field("pad_token_id", "ids", default=1),
    Field("bos_token_id", "ids", default=0),
    Field("eos_token_id", "ids", default=2),
)
MPNET = changed(
    tuple(field for field in ROBERTA if field.name not in ("type_vocab_size", "classifier_dropout")),
    Field("vocab_size", "int", 1, 1 << 24, 30527),
    Field("relative_attention_num_buckets", "int", 32, 32, 32),  # what transformers computes, whatever the table has
)
ELECTRA = changed(
    BERT,
    Field("embedding_size", "int", *_SIZES, 128),
    Field("hidden_size", "int", *_SIZES, 256),
    Field("num_attention_heads", "int", 1, 4096, 4),
    Field("intermediate_size", "int", 1, 1 << 22, 1024),
)
DISTILBERT = (
    *_SHARED,
    Field("dim", "int", *_SIZES, 768),
    Field("n_layers", "int", 1, 1000, 6),
    Field("n_heads", "int", 1, 4096, 12),
    Field("hidden_dim", "int", 1, 1 << 22, 3072),
    Field("activation", "choice", default="gelu", choices=ACTIVATIONS),
    Field("dropout", "float", *_DROPOUT, 0.1),
    Field("attention_dropout", "float", *_DROPOUT, 0.1),
    Field("seq_classif_dropout", "float", *_DROPOUT, 0.2),
    Field("sinusoidal_pos_embds", "bool", default=False),
)
ALBERT = changed(
    tuple(field for field in BERT if field.name != "classifier_dropout"),
    Field("vocab_size", "int", 1, 1 << 24, 30000),
    Field("embedding_size", "int", *_SIZES, 128),
    Field("hidden_size", "int", *_SIZES, 4096),
    Field("num_hidden_groups", "int", 1, 1000, 1),
    Field("inner_group_num", "int", 1, 1000, 1),
    Field("num_attention_heads", "int", 1, 4096, 64),
    Field("intermediate_size", "int", 1, 1 << 22, 16384),
    Field("hidden_act", "choice", default="gelu_new", choices=ACTIVATIONS),
    Field("hidden_dropout_prob", "float", *_DROPOUT, 0.0),
    Field("attention_probs_dropout_prob", "float", *_DROPOUT, 0.0),
    Field("classifier_dropout_prob", "float", *_DROPOUT, 0.1),
)
VIT = (
    *(field for field in BERT if field.name.startswith(("hidden_", "num_", "intermediate_", "attention_"))),
    Field("hidden_dropout_prob", "float", *_DROPOUT, 0.0),
    Field("attention_probs_dropout_prob", "float", *_DROPOUT, 0.0),
    Field("layer_norm_eps", "float", 1e-15, 1e-1, 1e-12),
    Field("initializer_range", "float", 0.0, 100.0, 0.02),
    Field("problem_type", "choice", default=None, choices=PROBLEMS),
    Field("image_size", "int", 1, 1 << 14, 224),
    Field("patch_size", "int", 1, 1 << 14, 16),
    Field("num_channels", "int", 1, 1 << 10, 3),
)
# Settings that change the arithmetic: refused unless they are as here.
_FIXED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}


def check_bert(raw: Raw) -> dict[str, Any]:
    """Normalised fields of BERT. Raises ModelFileError, as the others do."""
    return _checked(raw, BERT, "bert")


def check_roberta(raw: Raw) -> dict[str, Any]:
    """Of RoBERTa, whose places begin behind the padding token's number."""
    return _counted(raw, ROBERTA, "roberta")


def check_mpnet(raw: Raw) -> dict[str, Any]:
    """Of MPNet, whose padding token is always the second."""
    config = _counted(raw, MPNET, "mpnet")
    if config["pad_token_id"] != 1:
        raw.refuse("pad_token_id", config["pad_token_id"], "1")
    return config


def check_electra(raw: Raw) -> dict[str, Any]:
    """Of ELECTRA."""
    return _checked(raw, ELECTRA, "electra")


def _counted(raw: Raw, fields: tuple[Field, ...], kind: str) -> dict[str, Any]:
    """Of families whose places begin behind the padding token's number."""
    config = _checked(raw, fields, kind)
    pad, places = config["pad_token_id"], config["max_position_embeddings"]
    if pad is None or pad + 1 >= places:
        raw.refuse("pad_token_id", pad, f"0 to {places - 2:,}: the {places:,} positions begin behind it")
    return config


def check_distilbert(raw: Raw) -> dict[str, Any]:
    """Of DistilBERT."""
    return _checked(raw, DISTILBERT, "distilbert", "dim", "n_heads")


def check_albert(raw: Raw) -> dict[str, Any]:
    """Of ALBERT."""
    config = _checked(raw, ALBERT, "albert")
    groups, layers = config["num_hidden_groups"], config["num_hidden_layers"]
    if groups > layers:
        raw.refuse("num_hidden_groups", f"{groups:,}", f"1 to {layers:,}, the hidden layers")
    return config


def check_vit(raw: Raw) -> dict[str, Any]:
    """Of ViT, which reads images."""
    config = check_fields(raw, VIT)
    if raw.values.get("qkv_bias") not in (True, None):
        raw.refuse("qkv_bias", printable(repr(raw.values["qkv_bias"]), 100), "true")
    if config["hidden_size"] % config["num_attention_heads"]:
        allowed = f"a multiple of the {config['num_attention_heads']:,} attention heads"
        raw.refuse("hidden_size", f"{config['hidden_size']:,}", allowed)
    if config["image_size"] % config["patch_size"]:
        raw.refuse("image_size", f"{config['image_size']:,}", f"a multiple of patch_size, {config['patch_size']:,}")
    return config | labels(raw) | {"model_type": "vit"}


def _checked(
    raw: Raw, fields: tuple[Field, ...], kind: str, width: str = "hidden_size", heads: str = "num_attention_heads"
) -> dict[str, Any]:
    """What all of them have in common. A file of transformers before 4 may say the number of labels alone."""
    config = check_fields(raw, fields)
    for name, needed in _FIXED.items():
        if raw.values.get(name) not in (needed, None):
            raw.refuse(name, printable(repr(raw.values[name]), 100), needed)
    if config[width] % config[heads]:
        raw.refuse(width, f"{config[width]:,}", f"a multiple of the {config[heads]:,} attention heads")
    pad = config["pad_token_id"]
    if pad is not None and (isinstance(pad, list) or not 0 <= pad < config["vocab_size"]):
        raw.refuse("pad_token_id", printable(repr(pad), 100), f"0 to {config['vocab_size'] - 1:,}, the vocabulary")
    return config | labels(raw) | {"model_type": kind}


def labels(raw: Raw) -> dict[str, Any]:
    """id2label as {number: name} and label2id; LABEL_0, LABEL_1, ... where only num_labels is given, 2 by default."""
    given = raw.values.get("id2label")
    if given is None:
        count = raw.values.get("num_labels", 2)
        count = 2 if count is None else count
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_LABELS:
            raw.refuse("num_labels", printable(repr(count), 100), f"1 to {MOST_LABELS:,}")
        given = {i: f"LABEL_{i}" for i in range(count)}
    if not isinstance(given, dict) or not 1 <= len(given) <= MOST_LABELS:
        found = f"{len(given):,} of them" if isinstance(given, dict) else printable(repr(given), 100)
        raw.refuse("id2label", found, f"1 to {MOST_LABELS:,} names by number")
    names = {str(number): name for number, name in given.items()}
    odd = next((i for i in range(len(names)) if not isinstance(names.get(str(i)), str)), None)
    if odd is not None:
        raw.refuse("id2label", f"no name for {odd}", f"a name for each of 0 to {len(names) - 1}")
    by_number = {i: names[str(i)] for i in range(len(names))}
    label2id = raw.values.get("label2id")
    usual = {name: number for number, name in by_number.items()}
    if raw.values.get("id2label") is None or label2id is None:
        return {"id2label": by_number, "label2id": usual}
    if not isinstance(label2id, dict) or not all(
        isinstance(name, str) and isinstance(i, int) and not isinstance(i, bool) and 0 <= i < len(names)
        for name, i in label2id.items()
    ):
        raw.refuse("label2id", printable(repr(label2id), 100), f"numbers from 0 to {len(names) - 1} by name")
    return {"id2label": by_number, "label2id": dict(label2id)}
