"""BERT: an encoder that learns to fill in masked tokens. Devlin et al. 2018, arXiv:1810.04805."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pyllm import nn, ops
from pyllm.models.encoder import Encoder, LabelledConfig
from pyllm.models.encoder_heads import (
    MaskedHead,
    NextSentenceHead,
    PreTrainingHead,
    SequenceHead,
    TokenHead,
    masked_names,
)
from pyllm.models.ragged import Ragged, check_range, padding_of

_LAYER = "bert.encoder.layer.{}"
# Parameter path -> name in Hugging Face folders, ""; {} is the layer.
NAMES = {
    "words": ("bert.embeddings.word_embeddings", ""),
    "positions": ("bert.embeddings.position_embeddings", ""),
    "types": ("bert.embeddings.token_type_embeddings", ""),
    "norm": ("bert.embeddings.LayerNorm", ""),
    "layers.{}.attention.q": (f"{_LAYER}.attention.self.query", ""),
    "layers.{}.attention.k": (f"{_LAYER}.attention.self.key", ""),
    "layers.{}.attention.v": (f"{_LAYER}.attention.self.value", ""),
    "layers.{}.attention.o": (f"{_LAYER}.attention.output.dense", ""),
    "layers.{}.attention_norm": (f"{_LAYER}.attention.output.LayerNorm", ""),
    "layers.{}.feed_forward.up": (f"{_LAYER}.intermediate.dense", ""),
    "layers.{}.feed_forward.down": (f"{_LAYER}.output.dense", ""),
    "layers.{}.feed_forward_norm": (f"{_LAYER}.output.LayerNorm", ""),
    "pooler": ("bert.pooler.dense", ""),
    **masked_names("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions"),
    "head.next": ("cls.seq_relationship", ""),
    "head.following.next": ("cls.seq_relationship", ""),
    "head.score": ("classifier", ""),
    "head.tags": ("classifier", ""),
}
ROTATED = ()
IGNORED = (r"(bert\.)?embeddings\.position_ids",)


@dataclass(frozen=True)
class Config(LabelledConfig):
    """Hugging Face's fields."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    @property
    def head_dropout(self) -> float:
        """Of a classifier's head."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


def masked(c: Any, words: nn.Embedding) -> MaskedHead:
    """The head that fills in words."""
    return MaskedHead(c.hidden_size, words, c.hidden_act, c.layer_norm_eps, c.tie_word_embeddings)


class BERT(Encoder):
    """Embeddings of tokens, places and kinds of sentence, normalised; layers; a pooler where the head asks for one."""

    words: nn.Embedding
    positions: nn.Embedding
    prefix = "bert."
    tied: ClassVar[dict[str, str]] = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    # How transformers' name of a model ends -> what makes its head of (config, table of words).
    heads: ClassVar[dict[str, Callable[[Any, nn.Embedding], Any]]] = {
        "ForMaskedLM": masked,
        "ForSequenceClassification": lambda c, words: SequenceHead(c, c.hidden_size, (0.0, c.head_dropout)),
        "ForTokenClassification": lambda c, words: TokenHead(c, c.hidden_size, c.head_dropout),
        "ForNextSentencePrediction": lambda c, words: NextSentenceHead(c.hidden_size),
        "ForPreTraining": lambda c, words: PreTrainingHead(masked(c, words), NextSentenceHead(c.hidden_size)),
    }

    def __init__(self, c: Any, task: str = "Model") -> None:
        self.config = c
        tables(self, c, c.hidden_size)
        self.layers = layers(c)
        self.head = self.heads[task](c, self.words) if task != "Model" else None
        pooled = self.head is None or self.head.pooled
        self.pooler = nn.Linear(c.hidden_size, c.hidden_size, True) if pooled else None

    def places(self, batch: Ragged) -> Any:
        """The row of the position table of every token; where RoBERTa differs."""
        return ops.places_of(batch.starts)

    def embedded(self, batch: Ragged) -> Any:
        """Tokens as rows (rows, width)."""
        return embedded(self, batch, self.places(batch))


def tables(model: Any, c: Any, width: int) -> None:
    """Give a model its tables of words, places and kinds of sentence, of rows so wide, the norm and the dropout."""
    model.words = nn.Embedding(c.vocab_size, width, padding_idx=padding_of(c))
    model.positions = nn.Embedding(c.max_position_embeddings, width)
    model.types = nn.Embedding(c.type_vocab_size, width)
    model.norm = nn.LayerNorm(width, c.layer_norm_eps)
    model.dropout = nn.Dropout(c.hidden_dropout_prob, "embedding")


def layers(c: Any, order: nn.Order = nn.post_norm) -> list[nn.EncoderLayer]:
    """The layers that a configuration asks for."""
    sizes = c.hidden_size, c.num_attention_heads, c.intermediate_size, c.hidden_act
    rest = c.layer_norm_eps, nn.Rates(c.hidden_dropout_prob, c.attention_probs_dropout_prob), order
    return [nn.encoder_layer(f"layers.{i}", *sizes, *rest) for i in range(c.num_hidden_layers)]


def embedded(model: Any, batch: Ragged, usual: Any) -> Any:
    """drop(norm(words + types + positions)), of a model that has these; usual: places where none are given."""
    places = usual if batch.places is None else batch.places
    check_range(batch, places, model.config.max_position_embeddings, "position_ids")
    types = np.zeros_like(batch.ids) if batch.types is None else batch.types
    check_range(batch, types, model.config.type_vocab_size, "token_type_ids")
    x = ops.add(ops.add(model.words(batch.ids), model.types(types)), model.positions(places))
    return model.dropout(model.norm(x))


Model = BERT
