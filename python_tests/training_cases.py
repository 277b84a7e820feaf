"""What the tests of training share: models in pyllm and in PyTorch with equal weights, and gradients under one name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tiny_families
import tiny_models
import torch
import transformers
from safetensors.numpy import load_file

import pyllm
from pyllm.auto import new_config, new_model

transformers.logging.set_verbosity_error()

# Every family that is read from files, and what its configurations can do beside.
VARIANTS = {
    "gpt2": tiny_models.gpt2_config(),
    "gpt2 untied": tiny_models.gpt2_config(tie_word_embeddings=False, activation_function="gelu_pytorch_tanh"),
    "llama grouped": tiny_models.llama_config(),
    "llama tied, biases": tiny_models.llama_config(tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "mistral": tiny_families.config("mistral", sliding_window=9),
    "qwen2": tiny_families.config("qwen2"),
    "qwen3": tiny_families.config("qwen3"),
    "gemma": tiny_families.config("gemma"),
    "gemma2": tiny_families.config("gemma2", sliding_window=9),
    "gemma3": tiny_families.config("gemma3_text", sliding_window=9),
    "gpt_neox": tiny_families.config("gpt_neox"),
}


def both(folder: Path, config: dict[str, Any], dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """(pyllm's model, PyTorch's model), ready to learn, from one folder of random weights."""
    tiny_models.write_folder(folder, config, tiny_models.random_weights(config))
    mine = pyllm.AutoModelForCausalLM.from_pretrained(folder).train()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return mine, theirs.eval()  # no dropout


def both_new(folder: Path, family: str, dtype: torch.dtype = torch.float32, **fields: Any) -> tuple[Any, Any]:
    """The same of a new model as pyllm initialises it."""
    mine = new_model(new_config(family, **fields))
    saved(mine, folder)
    return mine, transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def tokens(rows: int, length: int, vocabulary: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random ids and targets, some of these left out."""
    rng = np.random.default_rng(seed)
    ids, targets = rng.integers(1, vocabulary, (2, rows, length))  # PyTorch's Gemma learns nothing for id 0
    targets[rng.random(targets.shape) < 0.1] = -100
    return ids, targets


def torch_loss(model: Any, ids: np.ndarray, targets: np.ndarray) -> Any:
    """Mean cross-entropy of PyTorch's model."""
    logits = model(torch.tensor(ids)).logits
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), torch.tensor(targets).reshape(-1))


def saved(model: Any, folder: Path) -> dict[str, np.ndarray]:
    """The model's numbers under Hugging Face's names, by way of a saved folder."""
    model.eval()
    model.save_pretrained(folder, dtype="float32")
    model.train()
    return load_file(folder / "model.safetensors")


def saved_gradients(model: Any, folder: Path) -> dict[str, np.ndarray]:
    """The same of the gradients: a model whose numbers they are is saved, so that names and orders are the writer's."""
    kept = {name: parameter.value for name, parameter in model.own_parameters().items()}
    for parameter in model.own_parameters().values():
        gradient = parameter.value.grad
        parameter.learn(np.zeros(parameter.shape, np.float32) if gradient is None else gradient.copy())
    found = saved(model, folder)
    for name, parameter in model.own_parameters().items():
        parameter.value = kept[name]
    offset = 1.0 if type(model).__name__.startswith("Gemma") else 0.0  # its norms are stored less one
    return {name: a + np.float32(offset) if offset and "norm" in name else a for name, a in found.items()}


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """max |a - b| / max |b|."""
    return float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-30))
