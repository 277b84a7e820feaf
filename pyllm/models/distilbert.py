"""DistilBERT: half of BERT's layers, taught by BERT; no kinds of sentence, no pooler. Sanh et al., arXiv:1910.01108."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pyllm import nn, ops
from pyllm.models.encoder import Encoder, LabelledConfig
from pyllm.models.encoder_heads import MaskedHead, SequenceHead, TokenHead, masked_names
from pyllm.models.ragged import Ragged, check_range, padding_of

_EPS = 1e-12
_LAYER = "distilbert.transformer.layer.{}"
# Parameter path -> name in Hugging Face folders, ""; {} is the layer.
NAMES = {
    "words": ("distilbert.embeddings.word_embeddings", ""),
    "positions": ("distilbert.embeddings.position_embeddings", ""),
    "norm": ("distilbert.embeddings.LayerNorm", ""),
    "layers.{}.attention.q": (f"{_LAYER}.attention.q_lin", ""),
    "layers.{}.attention.k": (f"{_LAYER}.attention.k_lin", ""),
    "layers.{}.attention.v": (f"{_LAYER}.attention.v_lin", ""),
    "layers.{}.attention.o": (f"{_LAYER}.attention.out_lin", ""),
    "layers.{}.attention_norm": (f"{_LAYER}.sa_layer_norm", ""),
    "layers.{}.feed_forward.up": (f"{_LAYER}.ffn.lin1", ""),
    "layers.{}.feed_forward.down": (f"{_LAYER}.ffn.lin2", ""),
    "layers.{}.feed_forward_norm": (f"{_LAYER}.output_layer_norm", ""),
    **masked_names("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector"),
    "head.inner": ("pre_classifier", ""),
    "head.score": ("classifier", ""),
    "head.tags": ("classifier", ""),
}
ROTATED = ()
IGNORED = (r"(distilbert\.)?embeddings\.position_ids",)


@dataclass(frozen=True)
class Config(LabelledConfig):
    """Hugging Face's fields."""

    vocab_size: int = 30522
    dim: int = 768
    n_layers: int = 6
    n_heads: int = 12
    hidden_dim: int = 3072
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    max_position_embeddings: int = 512
    sinusoidal_pos_embds: bool = False


class DistilBERT(Encoder):
    """Embeddings of tokens and places, normalised; layers."""

    prefix = "distilbert."
    tied: ClassVar[dict[str, str]] = {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"}
    heads: ClassVar[dict[str, Callable[[Any, nn.Embedding], Any]]] = {
        "ForMaskedLM": lambda c, words: MaskedHead(c.dim, words, c.activation, _EPS, c.tie_word_embeddings),
        "ForSequenceClassification": lambda c, words: SequenceHead(c, c.dim, (0.0, c.seq_classif_dropout), "relu"),
        "ForTokenClassification": lambda c, words: TokenHead(c, c.dim, c.dropout),
    }

    def __init__(self, c: Config, task: str = "Model") -> None:
        self.config = c
        self.words = nn.Embedding(c.vocab_size, c.dim, padding_idx=padding_of(c))
        self.positions = nn.Embedding(c.max_position_embeddings, c.dim)
        self.norm = nn.LayerNorm(c.dim, _EPS)
        self.dropout = nn.Dropout(c.dropout, "embedding")
        sizes = c.dim, c.n_heads, c.hidden_dim, c.activation, _EPS
        rest = nn.Rates(c.dropout, c.attention_dropout), nn.post_norm
        self.layers = [nn.encoder_layer(f"layers.{i}", *sizes, *rest) for i in range(c.n_layers)]
        self.head = self.heads[task](c, self.words) if task != "Model" else None

    @property
    def width(self) -> int:
        """Of the rows."""
        return self.config.dim  # type: ignore[no-any-return]

    def embedded(self, batch: Ragged) -> Any:
        """Tokens as rows (rows, width). Raises ValueError for kinds of sentences: this family has none."""
        if batch.types is not None and batch.types.any():
            raise ValueError("DistilBERT: token_type_ids other than 0, allowed is 0: it has no kinds of sentence")
        places = ops.places_of(batch.starts) if batch.places is None else batch.places
        check_range(batch, places, self.config.max_position_embeddings, "position_ids")
        return self.dropout(self.norm(ops.add(self.words(batch.ids), self.positions(places))))


Model = DistilBERT
