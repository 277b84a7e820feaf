"""ELECTRA: BERT that learned which words a small one, the generator, had put in place of others; both are read.

Clark et al. 2020, arXiv:2003.10555.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pyllm import nn, ops
from pyllm.models import bert
from pyllm.models.encoder import Encoder
from pyllm.models.encoder_heads import MaskedHead, ReplacedHead, SequenceHead, TokenHead, masked_names
from pyllm.models.ragged import Ragged

_GENERATOR = "generator_predictions"
# Parameter path -> name in Hugging Face folders, "": BERT's but for the heads'.
NAMES = {
    path: (name.replace("bert.", "electra.", 1), "")
    for path, (name, _) in bert.NAMES.items()
    if not path.startswith(("head", "pooler"))
} | {
    "wide": ("electra.embeddings_project", ""),
    **masked_names(f"{_GENERATOR}.dense", f"{_GENERATOR}.LayerNorm", "generator_lm_head", "generator_lm_head"),
    "head.hidden": ("discriminator_predictions.dense", ""),
    "head.replaced": ("discriminator_predictions.dense_prediction", ""),
    "head.inner": ("classifier.dense", ""),
    "head.score": ("classifier.out_proj", ""),
    "head.tags": ("classifier", ""),
}
ROTATED = ()
IGNORED = (r"(electra\.)?embeddings\.position_ids",)


@dataclass(frozen=True)
class Config(bert.Config):
    """Hugging Face's fields."""

    embedding_size: int = 128
    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024


class ELECTRA(Encoder):
    """Embeddings as BERT's, made wide where they are narrow; layers; no pooler."""

    words: nn.Embedding
    prefix = "electra."
    tied: ClassVar[dict[str, str]] = {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"}
    heads: ClassVar[dict[str, Callable[[Any, nn.Embedding], Any]]] = {
        "ForMaskedLM": lambda c, words: MaskedHead(
            c.hidden_size, words, "gelu", c.layer_norm_eps, c.tie_word_embeddings
        ),
        "ForSequenceClassification": lambda c, words: SequenceHead(
            c, c.hidden_size, (c.head_dropout, c.head_dropout), "gelu"
        ),
        "ForTokenClassification": lambda c, words: TokenHead(c, c.hidden_size, c.head_dropout),
        "ForPreTraining": lambda c, words: ReplacedHead(c.hidden_size, c.hidden_act),
    }

    def __init__(self, c: Config, task: str = "Model") -> None:
        self.config = c
        bert.tables(self, c, c.embedding_size)
        narrow = c.embedding_size != c.hidden_size
        self.wide = nn.Linear(c.embedding_size, c.hidden_size, bias=True) if narrow else None
        self.layers = bert.layers(c)
        self.head = self.heads[task](c, self.words) if task != "Model" else None

    def embedded(self, batch: Ragged) -> Any:
        """Tokens as rows (rows, width)."""
        x = bert.embedded(self, batch, ops.places_of(batch.starts))
        return x if self.wide is None else self.wide(x)


Model = ELECTRA
