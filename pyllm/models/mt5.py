"""mT5: T5's version 1.1 for a hundred languages; what the head takes is not scaled. Xue et al. 2020, arXiv:2010.11934.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyllm.models import t5
from pyllm.models.t5 import COPIES, IGNORED, NAMES, ROTATED, settled

__all__ = ["COPIES", "IGNORED", "NAMES", "ROTATED", "Config", "Model", "settled"]


@dataclass(frozen=True)
class Config(t5.Config):
    """As T5's."""

    d_ff: int = 1024
    num_layers: int = 8
    num_decoder_layers: int = 8
    num_heads: int = 6
    feed_forward_proj: str = "gated-gelu"
    tie_word_embeddings: bool = False
    scale_decoder_outputs: bool = False


class MT5(t5.T5):
    """Source and target tokens to logits of the next target token."""


Model = MT5
