"""RoBERTa: BERT trained longer, on whole sentences alone; its places are counted from the padding token's number.

Liu et al. 2019, arXiv:1907.11692.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pyllm import nn
from pyllm.models import bert
from pyllm.models.encoder_heads import MaskedHead, SequenceHead, TokenHead, masked_names
from pyllm.models.ragged import Ragged

# Parameter path -> name in Hugging Face folders, "": BERT's but for the head's.
NAMES = {
    path: (name.replace("bert.", "roberta.", 1), "")
    for path, (name, _) in bert.NAMES.items()
    if not path.startswith("head")
} | {
    **masked_names("lm_head.dense", "lm_head.layer_norm", "lm_head"),
    "head.inner": ("classifier.dense", ""),
    "head.score": ("classifier.out_proj", ""),
    "head.tags": ("classifier", ""),
}
ROTATED = ()
IGNORED = (r"(roberta\.)?embeddings\.position_ids",)


@dataclass(frozen=True)
class Config(bert.Config):
    """Hugging Face's fields."""

    vocab_size: int = 50265
    pad_token_id: Any = 1
    bos_token_id: Any = 0
    eos_token_id: Any = 2


def sequence(c: Any, words: nn.Embedding) -> SequenceHead:
    """The head of a classifier, which stands on the first row without a pooler."""
    return SequenceHead(c, c.hidden_size, (c.head_dropout, c.head_dropout), "tanh")


class RoBERTa(bert.BERT):
    """As BERT, with places behind the padding token's number, and heads of its own."""

    prefix = "roberta."
    tied: ClassVar[dict[str, str]] = {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }
    heads: ClassVar[dict[str, Callable[[Any, nn.Embedding], Any]]] = {
        "ForMaskedLM": lambda c, words: MaskedHead(
            c.hidden_size, words, "gelu", c.layer_norm_eps, c.tie_word_embeddings
        ),
        "ForSequenceClassification": sequence,
        "ForTokenClassification": lambda c, words: TokenHead(c, c.hidden_size, c.head_dropout),
    }

    def __init__(self, c: Any, task: str = "Model") -> None:
        super().__init__(c, task)
        self.positions.padding_idx = c.pad_token_id  # where no text stands

    @property
    def context_length(self) -> int:
        """Tokens of a sequence at most: the table's first rows belong to no place."""
        return int(self.config.max_position_embeddings - self.config.pad_token_id - 1)

    def places(self, batch: Ragged) -> Any:
        """Counted from the padding token's number plus one; padding tokens that are seen all stand at that number."""
        return places(batch, self.config.pad_token_id)


def places(batch: Ragged, pad: int) -> Any:
    """Of every token, counted from the padding token's number plus one."""
    real = batch.ids != pad
    count = np.cumsum(real)
    before = np.concatenate([[0], count])[batch.starts[:-1]]
    return np.where(real, count - np.repeat(before, np.diff(batch.starts)), 0) + pad


Model = RoBERTa
