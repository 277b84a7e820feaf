"""MPNet: BERT's layers, whose attention adds a bias of distances that all of them share; no kinds of sentence.

Song et al. 2020, arXiv:2004.09297.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pyllm import nn, ops
from pyllm.models import bert, roberta
from pyllm.models.encoder import Encoder, LabelledConfig
from pyllm.models.encoder_heads import MaskedHead, SequenceHead, TokenHead
from pyllm.models.ragged import Ragged, Starts, check_range, padding_of

_FARTHEST = 128  # distances from here on have one bucket on each side
_LAYER = "mpnet.encoder.layer.{}.attention"
# Parameter path -> name in Hugging Face folders, "": RoBERTa's but for attention's.
NAMES = {
    path: (name.replace("roberta.", "mpnet.", 1), "")
    for path, (name, _) in roberta.NAMES.items()
    if path != "types"
} | {
    "relative": ("mpnet.encoder.relative_attention_bias", ""),
    **{f"layers.{{}}.attention.{each}": (f"{_LAYER}.attn.{each}", "") for each in "qkvo"},
    "layers.{}.attention_norm": (f"{_LAYER}.LayerNorm", ""),
}
ROTATED = ()
IGNORED = (r"(mpnet\.)?embeddings\.position_ids",)


@dataclass(frozen=True)
class Config(LabelledConfig):
    """Hugging Face's fields."""

    vocab_size: int = 30527
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    relative_attention_num_buckets: int = 32
    pad_token_id: Any = 1
    bos_token_id: Any = 0
    eos_token_id: Any = 2


def sequence(c: Any, words: nn.Embedding) -> SequenceHead:
    """The head of a classifier, which stands on the first row without a pooler."""
    return SequenceHead(c, c.hidden_size, (c.hidden_dropout_prob, c.hidden_dropout_prob), "tanh")


class MPNet(Encoder):
    """Embeddings of tokens and places, counted as RoBERTa's, normalised; layers; a pooler where no head stands."""

    prefix = "mpnet."
    tied: ClassVar[dict[str, str]] = {
        "lm_head.decoder.weight": "mpnet.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }
    heads: ClassVar[dict[str, Callable[[Any, nn.Embedding], Any]]] = {
        "ForMaskedLM": lambda c, words: MaskedHead(
            c.hidden_size, words, "gelu", c.layer_norm_eps, c.tie_word_embeddings
        ),
        "ForSequenceClassification": sequence,
        "ForTokenClassification": lambda c, words: TokenHead(c, c.hidden_size, c.hidden_dropout_prob),
    }

    def __init__(self, c: Config, task: str = "Model") -> None:
        self.config = c
        self.words = nn.Embedding(c.vocab_size, c.hidden_size, padding_idx=padding_of(c))
        self.positions = nn.Embedding(c.max_position_embeddings, c.hidden_size, padding_idx=c.pad_token_id)
        self.norm = nn.LayerNorm(c.hidden_size, c.layer_norm_eps)
        self.dropout = nn.Dropout(c.hidden_dropout_prob, "embedding")
        self.relative = nn.RelativeBias(c.relative_attention_num_buckets, _FARTHEST, c.num_attention_heads, both=True)
        self.layers = bert.layers(c)
        self.head = self.heads[task](c, self.words) if task != "Model" else None
        self.pooler = nn.Linear(c.hidden_size, c.hidden_size, True) if self.head is None else None

    @property
    def context_length(self) -> int:
        """Tokens of a sequence at most: the table's first rows belong to no place."""
        return int(self.config.max_position_embeddings - self.config.pad_token_id - 1)

    def bias(self, starts: Starts) -> Any:
        """What every layer adds to its scores, for each distance."""
        return self.relative(int(np.diff(starts).max()))

    def embedded(self, batch: Ragged) -> Any:
        """Tokens as rows (rows, width). Raises ValueError for kinds of sentences: this family has none."""
        if batch.types is not None and batch.types.any():
            raise ValueError("MPNet: token_type_ids other than 0, allowed is 0: it has no kinds of sentence")
        places = roberta.places(batch, self.config.pad_token_id) if batch.places is None else batch.places
        check_range(batch, places, self.config.max_position_embeddings, "position_ids")
        return self.dropout(self.norm(ops.add(self.words(batch.ids), self.positions(places))))


Model = MPNet
