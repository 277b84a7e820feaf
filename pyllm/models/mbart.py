"""mBART: BART for many languages, which normalises before its sublayers. Liu et al. 2020, arXiv:2001.08210."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyllm import nn
from pyllm.models import bart
from pyllm.models.bart import COPIES, IGNORED, NAMES, ROTATED

__all__ = ["COPIES", "IGNORED", "NAMES", "ROTATED", "Config", "Model"]


@dataclass(frozen=True)
class Config(bart.Config):
    """As BART's. A target begins with its language: decoder_start_token_id, or the last of its labels."""


class MBART(bart.BART):
    """Source and target tokens to logits of the next target token."""

    order = staticmethod(nn.pre_norm)

    def start_of(self, target: list[int]) -> int:
        """What stands before this target: its last token, which names its language."""
        return target[-1]

    def around(self) -> dict[str, Any]:
        """A stack's positions, and its norms before and after the layers."""
        return super().around() | {"norm": nn.LayerNorm(self.config.d_model, 1e-5)}


Model = MBART
