"""What the tests of adapters share: tiny models, and adapters that change something."""

import numpy as np
import tiny_families
import tiny_models

from pyllm.auto import AutoModelForCausalLM
from pyllm.train import LoraConfig, add_adapter

IDS = np.random.default_rng(5).integers(2, 300, (2, 19))


def tiny(folder, family="llama", dtype=None):
    """A tiny model from a Hugging Face folder, or from a GGUF file with matrices of dtype."""
    config = tiny_models.gpt2_config() if family == "gpt2" else tiny_families.config(family)
    weights = tiny_models.random_weights(config)
    if dtype is None:
        return AutoModelForCausalLM.from_pretrained(tiny_models.write_folder(folder / "base", config, weights))
    return AutoModelForCausalLM.from_pretrained(tiny_models.write_gguf(folder / "base.gguf", config, weights, dtype))


def learned(model, config=None, spread=0.3, **kwargs):
    """The model with an adapter whose B is random."""
    add_adapter(model, config or LoraConfig(r=4, lora_alpha=8), **kwargs)
    rng = np.random.default_rng(3)
    for name, parameter in model.learned().items():
        if name.endswith("lora_B"):
            parameter.learn(rng.standard_normal(parameter.shape).astype(np.float32) * np.float32(spread))
    return model.eval()


def distance(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())
