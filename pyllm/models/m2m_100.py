"""M2M100 and NLLB: BART's layers that normalise before their sublayers, from any language into any other.

Fan et al. 2020, arXiv:2010.11125; NLLB team 2022, arXiv:2207.04672. A target begins with the end token, and
what it says first is its language (forced_bos_token_id).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import nn
from pyllm.models import bart
from pyllm.models.bart import COPIES, ROTATED
from pyllm.tensor import Array

__all__ = ["COPIES", "IGNORED", "NAMES", "ROTATED", "Config", "Model"]

NAMES = {path: name for path, name in bart.NAMES.items() if path != "final_logits_bias"}
IGNORED = (*bart.IGNORED, r"(model\.)?(encoder|decoder)\.embed_positions\.weights")


@dataclass(frozen=True)
class Config(bart.Config):
    """As BART's."""

    activation_function: str = "relu"
    attention_dropout: float = 0.1
    scale_embedding: bool = True


class M2M100(bart.BART):
    """Source and target tokens to logits of the next target token."""

    order = staticmethod(nn.pre_norm)

    def constant(self) -> None:
        """Nothing is added to the logits."""
        return

    def placed(self, ids: NDArray[np.int32], places: NDArray[Any]) -> NDArray[Any]:
        """The last row, of zeros, for padding tokens; those behind them are counted on, as where they are said."""
        return np.where(ids == self.config.pad_token_id, -1, places)

    def around(self) -> dict[str, Any]:
        """A stack's positions, which begin behind the padding token's number, and its norm after the layers."""
        c = self.config
        first = c.pad_token_id + 1
        table = waves(first + c.max_position_embeddings, c.d_model)[first:]
        table = np.concatenate([table, np.zeros((1, c.d_model), np.float32)])
        return {"positions": table.__getitem__, "norm": nn.LayerNorm(c.d_model, 1e-5)}


def waves(positions: int, width: int) -> Array:
    """(positions, width): sin(p / 10000^(i / (half - 1))) for i below half = width // 2, then the cosines.

    In float32, as the families learned them.
    """
    half = width // 2
    frequency = np.exp(np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1)))
    angle = np.arange(positions, dtype=np.float32)[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle), np.zeros((positions, width % 2), np.float32)], axis=1)


Model = M2M100
