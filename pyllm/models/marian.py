"""Marian: the Transformer of 2017 as it translates, of OPUS-MT's thousand models. Junczys-Dowmunt et al. 2018,
arXiv:1804.00344.

BART's layers with sines and cosines as positions: first all sines of a place, then all cosines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyllm import nn
from pyllm.models import bart
from pyllm.tensor import Array

NAMES = bart.NAMES
ROTATED = ()
IGNORED = (*bart.IGNORED, r"(model\.)?(encoder|decoder)\.embed_positions\.weight")
COPIES = (*bart.COPIES, ("lm_head.weight", "model.decoder.embed_tokens.weight"))


@dataclass(frozen=True)
class Config(bart.Config):
    """As BART's. share_encoder_decoder_embeddings: one table for both sides, else the targets' has decoder_vocab_size
    tokens; tie_word_embeddings: the head is the targets' table.
    """

    share_encoder_decoder_embeddings: bool = True
    decoder_vocab_size: Any = None


class Marian(bart.BART):
    """Source and target tokens to logits of the next target token."""

    def embed(self, c: Any) -> None:
        """The tables and the head."""
        if c.share_encoder_decoder_embeddings and c.tie_word_embeddings:
            self.shared = self.table(c.vocab_size)
            self.source_embedding = self.target_embedding = self.head = self.shared
        else:
            self.apart(c.vocab_size if c.share_encoder_decoder_embeddings else c.decoder_vocab_size)

    def around(self) -> dict[str, Any]:
        """A stack's positions; it has no norms but its layers'."""
        c = self.config
        return {"positions": sines_first(c.max_position_embeddings, c.d_model).__getitem__}


def sines_first(positions: int, width: int) -> Array:
    """nn.sinusoids (positions, width), of a place all sines before all cosines."""
    table = nn.sinusoids(positions, width)
    return np.concatenate([table[:, 0::2], table[:, 1::2]], axis=1)


Model = Marian
