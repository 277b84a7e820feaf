"""Small encoders of every family and variant as transformers makes them, and batches for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

VOCABULARY, LENGTH = 61, 12
_SIZES = {"vocab_size": VOCABULARY, "max_position_embeddings": 40}
_BERT = _SIZES | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_DISTILBERT = _SIZES | {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
_NARROW = _BERT | {"embedding_size": 16}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", _BERT),
    "bert tanh": ("bert", _BERT | {"hidden_act": "gelu_new", "type_vocab_size": 3, "layer_norm_eps": 1e-5}),
    "bert relu": ("bert", _BERT | {"hidden_act": "relu", "classifier_dropout": 0.3, "num_attention_heads": 2}),
    "bert untied": ("bert", _BERT | {"hidden_act": "silu", "tie_word_embeddings": False}),
    "roberta": ("roberta", _BERT),
    "roberta relu": ("roberta", _BERT | {"hidden_act": "relu", "pad_token_id": 0, "type_vocab_size": 1}),
    "roberta untied": ("roberta", _BERT | {"tie_word_embeddings": False, "hidden_act": "gelu_pytorch_tanh"}),
    "distilbert": ("distilbert", _DISTILBERT),
    "distilbert relu": ("distilbert", _DISTILBERT | {"activation": "relu", "sinusoidal_pos_embds": True}),
    "distilbert untied": ("distilbert", _DISTILBERT | {"tie_word_embeddings": False}),
    "albert": ("albert", _NARROW | {"num_hidden_layers": 3}),
    "albert groups": ("albert", _NARROW | {"num_hidden_layers": 5, "num_hidden_groups": 3, "inner_group_num": 2}),
    "albert untied": ("albert", _NARROW | {"hidden_act": "gelu", "tie_word_embeddings": False}),
    "mpnet": ("mpnet", _BERT | {"num_hidden_layers": 3}),
    "mpnet relu": ("mpnet", _BERT | {"hidden_act": "relu", "num_attention_heads": 2, "layer_norm_eps": 1e-5}),
    "mpnet untied": ("mpnet", _BERT | {"tie_word_embeddings": False}),
    "electra": ("electra", _NARROW | {"hidden_act": "relu"}),
    "electra wide": ("electra", _BERT | {"embedding_size": 32, "type_vocab_size": 3, "classifier_dropout": 0.3}),
    "electra untied": ("electra", _NARROW | {"tie_word_embeddings": False}),
}
TASKS = {
    "bert": ("Model", "MaskedLM", "SequenceClassification", "TokenClassification", "NextSentencePrediction",
             "PreTraining"),
    "roberta": ("Model", "MaskedLM", "SequenceClassification", "TokenClassification"),
    "distilbert": ("Model", "MaskedLM", "SequenceClassification", "TokenClassification"),
    "albert": ("Model", "MaskedLM", "SequenceClassification", "TokenClassification", "PreTraining"),
    "mpnet": ("Model", "MaskedLM", "SequenceClassification", "TokenClassification"),
    "electra": ("Model", "MaskedLM", "SequenceClassification", "TokenClassification", "PreTraining"),
}  # fmt: skip
CASES = [(variant, task) for variant, (family, _) in VARIANTS.items() for task in TASKS[family]]


def auto(module: Any, task: str) -> Any:
    """The AutoModel... of transformers or pyllm for a task."""
    return getattr(module, "AutoModel" if task == "Model" else f"AutoModelFor{task}")


def theirs(variant: str, task: str, **changes: Any) -> Any:
    """transformers' model with random weights that are no initial ones: biases and norms count too."""
    family, fields = VARIANTS[variant]
    labels = {"num_labels": 2 if task == "PreTraining" else 3}  # transformers' ALBERT gives its second task so many
    config = transformers.AutoConfig.for_model(family, **(fields | labels | changes))
    torch.manual_seed(0)
    model = auto(transformers, task).from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(variant: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Three sequences of 7, 12 and 4 tokens, padded; kinds of sentence where the family has them."""
    random = np.random.default_rng(seed)
    family, fields = VARIANTS[variant]
    pad = fields.get("pad_token_id", 1 if family in ("roberta", "mpnet") else 0)
    ids = random.integers(3, VOCABULARY, (3, LENGTH))
    mask = (np.arange(LENGTH) < np.array([[7], [LENGTH], [4]])).astype(np.int64)
    found = {"input_ids": np.where(mask == 1, ids, pad), "attention_mask": mask}
    if family in ("bert", "albert", "electra"):
        found["token_type_ids"] = random.integers(0, 2, ids.shape)
    return found


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(array) for name, array in arrays.items()}


def error(found: Any, wanted: Any) -> float:
    """max|difference| / max|reference| of the worst row."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape and np.isfinite(found).all()
    rows = (-1, found.shape[-1])
    apart, size = np.abs(found - wanted).reshape(rows).max(axis=1), np.abs(wanted).reshape(rows).max(axis=1)
    return float((apart / size).max())
