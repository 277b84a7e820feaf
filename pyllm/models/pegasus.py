"""Pegasus: BART's layers that normalise before their sublayers, with Marian's sines, taught to say the sentences that a
summary would have. Zhang et al. 2019, arXiv:1912.08777."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyllm import nn
from pyllm.models import bart, marian
from pyllm.models.bart import COPIES, NAMES, ROTATED

__all__ = ["COPIES", "IGNORED", "NAMES", "ROTATED", "Config", "Model"]

IGNORED = (*bart.IGNORED, r"(model\.)?(encoder|decoder)\.embed_positions\.weight")


@dataclass(frozen=True)
class Config(bart.Config):
    """As BART's."""


class Pegasus(bart.BART):
    """Source and target tokens to logits of the next target token."""

    order = staticmethod(nn.pre_norm)

    def around(self) -> dict[str, Any]:
        """A stack's positions, and its norm after the layers."""
        c = self.config
        places = marian.sines_first(c.max_position_embeddings, c.d_model).__getitem__
        return {"positions": places, "norm": nn.LayerNorm(c.d_model, 1e-5)}


Model = Pegasus
