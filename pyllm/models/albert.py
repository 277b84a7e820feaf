"""ALBERT: BERT whose layers share their weights, and whose words are narrower than its rows. Lan et al. 2019,
arXiv:1909.11942."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pyllm import nn, ops
from pyllm.models import bert
from pyllm.models.encoder import Encoder, LabelledConfig
from pyllm.models.encoder_heads import (
    NextSentenceHead,
    PreTrainingHead,
    SequenceHead,
    TokenHead,
    masked_names,
)
from pyllm.models.ragged import Ragged

_LAYER = "albert.encoder.albert_layer_groups.{}.albert_layers.{}"
# Parameter path -> name in Hugging Face folders, ""; {} are the group and the layer in it.
NAMES = {
    "words": ("albert.embeddings.word_embeddings", ""),
    "positions": ("albert.embeddings.position_embeddings", ""),
    "types": ("albert.embeddings.token_type_embeddings", ""),
    "norm": ("albert.embeddings.LayerNorm", ""),
    "wide": ("albert.encoder.embedding_hidden_mapping_in", ""),
    "groups.{}.layers.{}.attention.q": (f"{_LAYER}.attention.query", ""),
    "groups.{}.layers.{}.attention.k": (f"{_LAYER}.attention.key", ""),
    "groups.{}.layers.{}.attention.v": (f"{_LAYER}.attention.value", ""),
    "groups.{}.layers.{}.attention.o": (f"{_LAYER}.attention.dense", ""),
    "groups.{}.layers.{}.attention_norm": (f"{_LAYER}.attention.LayerNorm", ""),
    "groups.{}.layers.{}.feed_forward.up": (f"{_LAYER}.ffn", ""),
    "groups.{}.layers.{}.feed_forward.down": (f"{_LAYER}.ffn_output", ""),
    "groups.{}.layers.{}.feed_forward_norm": (f"{_LAYER}.full_layer_layer_norm", ""),
    "pooler": ("albert.pooler", ""),
    **masked_names("predictions.dense", "predictions.LayerNorm", "predictions"),
    "head.following.next": ("sop_classifier.classifier", ""),
    "head.score": ("classifier", ""),
    "head.tags": ("classifier", ""),
}
ROTATED = ()
IGNORED = (r"(albert\.)?embeddings\.position_ids",)


@dataclass(frozen=True)
class Config(LabelledConfig):
    """Hugging Face's fields."""

    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 4096
    num_hidden_layers: int = 12
    num_hidden_groups: int = 1
    inner_group_num: int = 1
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12


class Group(nn.Module):
    """Layers that are run again and again."""

    def __init__(self, layers: list[nn.EncoderLayer]) -> None:
        self.layers = layers


class ALBERT(Encoder):
    """Embeddings as BERT's, but narrow, made wide; layers of which groups share their weights; a pooler."""

    words: nn.Embedding
    prefix = "albert."
    tied: ClassVar[dict[str, str]] = {
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    }
    heads: ClassVar[dict[str, Callable[[Any, nn.Embedding], Any]]] = {
        "ForMaskedLM": bert.masked,
        "ForSequenceClassification": lambda c, words: SequenceHead(c, c.hidden_size, (0.0, c.classifier_dropout_prob)),
        "ForTokenClassification": lambda c, words: TokenHead(c, c.hidden_size, c.classifier_dropout_prob),
        "ForPreTraining": lambda c, words: PreTrainingHead(
            bert.masked(c, words), NextSentenceHead(c.hidden_size, c.classifier_dropout_prob, c.num_labels)
        ),
    }

    def __init__(self, c: Config, task: str = "Model") -> None:
        self.config = c
        bert.tables(self, c, c.embedding_size)
        self.wide = nn.Linear(c.embedding_size, c.hidden_size, bias=True)
        self.groups = [
            Group([self._layer(c, f"groups.{i}.{j}") for j in range(c.inner_group_num)])
            for i in range(c.num_hidden_groups)
        ]
        self.layers = tuple(self._stacked())  # no list: weights are found, and named, by their groups
        self.head = self.heads[task](c, self.words) if task != "Model" else None
        pooled = self.head is None or self.head.pooled
        self.pooler = nn.Linear(c.hidden_size, c.hidden_size, bias=True) if pooled else None

    def _layer(self, c: Config, place: str) -> nn.EncoderLayer:
        sizes = c.hidden_size, c.num_attention_heads, c.intermediate_size, c.hidden_act
        return nn.encoder_layer(place, *sizes, c.layer_norm_eps, nn.Rates(0.0), nn.post_norm)

    def _stacked(self) -> Any:
        """The layers in the order in which they run: shared parts, own dropouts; feed-forwards drop nothing."""
        c = self.config
        rates = nn.Rates(c.hidden_dropout_prob, c.attention_probs_dropout_prob)
        for i in range(c.num_hidden_layers):
            for j, each in enumerate(self.groups[int(i / (c.num_hidden_layers / c.num_hidden_groups))].layers):
                norms = each.attention_norm, each.feed_forward_norm
                drop = nn.dropouts(f"layers.{i}.{j}", 2, rates)
                drop.results[-1] = nn.Dropout(0.0, "")
                yield nn.EncoderLayer(each.attention, each.feed_forward, norms, nn.post_norm, drop)

    def embedded(self, batch: Ragged) -> Any:
        """Tokens as rows (rows, width)."""
        return self.wide(bert.embedded(self, batch, ops.places_of(batch.starts)))


Model = ALBERT
