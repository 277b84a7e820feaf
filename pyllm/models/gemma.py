"""Gemma: LLaMA with GELU gates, embeddings scaled by sqrt(width), and norms stored as their difference from one.

Gemma team 2024, arXiv:2403.08295.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyllm.models import llama
from pyllm.models.llama import IGNORED, ROTATED

__all__ = ["IGNORED", "NAMES", "ROTATED", "Config", "Gemma", "Model"]

# As LLaMA's. A leading + : the file of a Hugging Face folder holds the weight less 1.
NAMES = llama.NAMES | {
    "layers.{}.attention_norm": ("+model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    "layers.{}.feed_forward_norm": ("+model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    "norm": ("+model.norm", "output_norm"),
}


@dataclass(frozen=True)
class Config(llama.Config):
    """LLaMA's fields with Gemma's defaults."""

    tie_word_embeddings: bool = True
    hidden_act: str = "gelu_pytorch_tanh"


class Gemma(llama.LLaMA):
    """Tokens to logits: embedding, layers, norm, head."""

    def __init__(self, c: Config) -> None:
        super().__init__(c)
        self.embedding.scale = c.hidden_size**0.5


Model = Gemma
