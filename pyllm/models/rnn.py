"""Recurrent language models: LSTM, GRU and plain cells. Mikolov et al. 2010; Zaremba et al. 2014, arXiv:1409.2329."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyllm import nn, ops
from pyllm.models.causal import CausalLM
from pyllm.models.settings import Settings
from pyllm.nn.recurrent import uniform
from pyllm.tensor import Array

# Parameter path -> name in Hugging Face folders; GGUF has no architecture for them.
NAMES = {"embedding": ("encoder", ""), "rnn": ("rnn", ""), "head": ("decoder", "")}
ROTATED = ()
IGNORED = ()
LONGEST = 1 << 27  # positions, which is what a configuration may say too
_SPREAD = 0.1  # of first values of heads, and of tables that are heads, too: wider ones begin with a huge loss


@dataclass(frozen=True)
class Config(Settings):
    """cell: "lstm", "gru", "tanh" or "relu". dropout: of embeddings, between layers and before the head."""

    cell: str
    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_hidden_layers: int
    max_position_embeddings: int
    dropout: float = 0.0
    head_bias: bool = True
    tie_word_embeddings: bool = False
    bos_token_id: Any = None
    eos_token_id: Any = None

    @property
    def context_length(self) -> int:
        """Positions that a state may have unless more are asked for; nothing in the weights depends on it."""
        return self.max_position_embeddings


class RecurrentLM(CausalLM):
    """Tokens to logits: embedding, recurrent layers, head."""

    def __init__(self, c: Config) -> None:
        self.config = c
        self.embedding = nn.Embedding(c.vocab_size, c.embedding_size)
        self.rnn = nn.Recurrent(c.cell, c.embedding_size, c.hidden_size, c.num_hidden_layers, dropout=c.dropout)
        self.head = nn.Linear(c.hidden_size, c.vocab_size, c.head_bias)
        if c.tie_word_embeddings:
            self.head.weight = self.embedding.weight
        self.rnn.stream = zlib.crc32(b"rnn")

    @property
    def cache(self) -> tuple[int, int, int]:
        """No keys and values: states of recurrent layers, which the program counts, in float32."""
        return (0, 0, 0)

    @property
    def longest_context(self) -> int:
        """No position is the last; a state takes as much memory for 64 of them as two steps leave."""
        return LONGEST

    @property
    def width(self) -> int:
        """Of the rows that the head is given."""
        return self.head.weight.shape[1]

    def trunk(self, tokens: Any) -> tuple[Any, Any]:
        """(rows (rows, hidden_size) of all sequences step after step, whose tokens they are): all but the head."""
        ids, steps, places = nn.in_steps(tokens)
        return self.read(ids, steps)[0], places

    def read(self, ids: Any, steps: ops.Steps, state: Any = None) -> tuple[Any, Any]:
        """(rows (rows, width), state after each sequence's last step) of ids (rows,), all of them step after step.

        state: (h of each layer, c of each layer), each (sequences, units) or None, which is zeros.
        """
        x = self._dropped(self.embedding(ids), 0)
        x, h, c = self.rnn.layers(x, steps, *(state or (None, None)))
        return self._dropped(x, 1), (h, c or [None] * self.config.num_hidden_layers)

    def _dropped(self, x: Any, stream: int) -> Any:
        mask = ops.mask(self.config.dropout, zlib.crc32(b"embedding") + stream)
        return x if mask is None else ops.dropout(x, *mask.draw)

    def forward(self, tokens: Any) -> Any:
        """(..., length) ids to (..., length, vocabulary)."""
        rows, places = self.trunk(tokens)
        rows = ops.put_rows(rows, places, np.shape(tokens))
        return ops.logits(rows, None, *self.head.pair, watch=self.watch)

    def loss(self, tokens: Any, targets: Any) -> Any:
        """Mean cross-entropy in nats of targets (..., length), the tokens that follow; -100 is left out."""
        if self._paused:
            self.train()
        rows, places = self.trunk(tokens)
        wanted = np.asarray(targets).reshape(-1)
        if len(wanted) != len(places):
            raise ValueError(f"loss: targets {np.shape(targets)} and tokens {np.shape(tokens)} differ")
        weight, bias = self.head.pair
        return ops.linear_cross_entropy(rows, weight, wanted[places], bias)

    def training_flops(self) -> float:
        """As every module's, but a table that is only looked up costs nothing."""
        looked_up = 0 if self.config.tie_word_embeddings else self.embedding.weight.size
        return super().training_flops() - 6.0 * looked_up

    def first_values(self, name: str, parameter: nn.Parameter, random: np.random.Generator) -> Array:
        """Recurrent layers and a table of its own as PyTorch's, N(0, 1): smaller ones hold AdamW back for hundreds of
        steps. Heads, and tables tied to them, uniform within 0.1 of 0; the bias 0."""
        if name.startswith("rnn"):
            return uniform(parameter.shape[0] // ops.GATES[self.config.cell], parameter, random)
        if len(parameter.shape) == 1:
            return np.zeros(parameter.shape, np.float32)
        if name.startswith("embedding") and not self.config.tie_word_embeddings:
            return random.standard_normal(parameter.shape, np.float32)
        return random.uniform(-_SPREAD, _SPREAD, parameter.shape).astype(np.float32)


Model = RecurrentLM
