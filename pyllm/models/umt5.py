"""UMT5: mT5 whose layers each have a bias of distances of their own. Chung et al. 2023, arXiv:2304.09151."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyllm.models import mt5, t5
from pyllm.models.t5 import COPIES, ROTATED, settled

__all__ = ["COPIES", "IGNORED", "NAMES", "ROTATED", "Config", "Model", "settled"]

NAMES = {path: name for path, name in t5.NAMES.items() if not path.endswith(".relative")} | {
    f"{side}.relative.{{}}": (f"{side}.block.{{}}.layer.0.SelfAttention.relative_attention_bias", "")
    for side in ("encoder", "decoder")
}
IGNORED = ()


@dataclass(frozen=True)
class Config(mt5.Config):
    """As mT5's."""


class UMT5(t5.T5):
    """Source and target tokens to logits of the next target token."""

    def relative(self, side: str, layers: int) -> Any:
        """A bias of distances for each layer of a side."""
        return [super(UMT5, self).relative(side, layers) for _ in range(layers)]


Model = UMT5
