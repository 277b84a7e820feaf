"""Recurrent encoder-decoders, with attention or without. Sutskever et al. 2014, arXiv:1409.3215; Bahdanau et al. 2015,
arXiv:1409.0473; Luong et al. 2015, arXiv:1508.04025.

The decoder runs over the targets; then every state h_t looks at the memory: c_t = attention(h_t, memory), and the head
takes tanh(W_c [c_t; h_t]), as Luong's global attention does. Scores: "dot" h_t . m, "general" h_t . W m, "additive"
v . tanh(W h_t + U m). Without attention the head takes h_t, and only the encoder's last state reaches the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import nn, ops
from pyllm.models.encoder_decoder import Decoding, EncoderDecoder, Memory, Starts
from pyllm.models.settings import Settings
from pyllm.tensor import Array

# Parameter path -> name in folders; GGUF has no architecture for it.
NAMES = {
    name: (name, "")
    for name in ("source_embedding", "target_embedding", "encoder", "bridge", "decoder", "attention.keys",
                 "attention.queries", "attention.score", "attention.combine", "head")
}  # fmt: skip
ROTATED = ()
IGNORED = ()
_SPREAD = 0.1  # PyTorch's 1 begins to learn sooner and ends with more wrong words: LOG.md, 2026-11-30


@dataclass(frozen=True)
class Config(Settings):
    """cell: "lstm", "gru" or "tanh". attention: "none", "additive", "dot" or "general". hidden_size: of the decoder; a
    bidirectional encoder has half of it in each direction. dropout: of embeddings, between layers, before the head.
    """

    vocab_size: int
    cell: str = "lstm"
    attention: str = "general"
    embedding_size: int = 256
    hidden_size: int = 512
    num_layers: int = 2
    bidirectional: bool = True
    dropout: float = 0.2
    max_position_embeddings: int = 512
    share_encoder_decoder_embeddings: bool = False
    tie_word_embeddings: bool = False
    label_smoothing: float = 0.0
    bos_token_id: Any = None
    eos_token_id: Any = None
    decoder_start_token_id: Any = None


class Seq2Seq(EncoderDecoder):
    """Source and target tokens to logits of the next target token."""

    outputs = ("head", "attention.score")  # a vector as a matrix

    def __init__(self, c: Config) -> None:
        self.config = c
        self.source_embedding = nn.Embedding(c.vocab_size, c.embedding_size)
        self.target_embedding = nn.Embedding(c.vocab_size, c.embedding_size)
        if c.share_encoder_decoder_embeddings:
            self.target_embedding.weight = self.source_embedding.weight
        size, layers = c.hidden_size, c.num_layers
        each = size // 2 if c.bidirectional else size
        both: dict[str, Any] = {"bidirectional": c.bidirectional, "dropout": c.dropout}
        self.encoder = nn.Recurrent(c.cell, c.embedding_size, each, layers, **both)
        self.decoder = nn.Recurrent(c.cell, c.embedding_size, size, layers, dropout=c.dropout)
        self.attention = None if c.attention == "none" else nn.MemoryAttention(c.attention, size)
        self.head = self.target_embedding if c.tie_word_embeddings else nn.Linear(size, c.vocab_size, True)
        self.encoder.stream, self.decoder.stream = 1 << 20, 2 << 20
        self.dropouts = [nn.Dropout(c.dropout, place) for place in ("source", "target", "head")]

    def encode(self, ids: NDArray[np.int32], starts: Starts) -> Memory:
        """Source tokens (rows,) to a memory; ends: the last h of each layer, then c, in the order of the sequences."""
        steps, places = nn.end_to_end(starts)
        x = self.dropouts[0](self.source_embedding(ids[places]))
        nothing = [None] * (self.config.num_layers * len(self.encoder.suffixes))
        rows, h, c = self.encoder.layers(x, steps, nothing, nothing)
        back = np.argsort(order_of(starts))
        ends = [ops.take_rows(each, back) for each in [*h, *(c or [])]]
        if self.config.bidirectional:
            ends = [ops.concatenate(ends[i : i + 2], axis=-1) for i in range(0, len(ends), 2)]
        return Memory(ops.put_rows(rows, places, len(ids)), starts, tuple(ends))

    def decode(self, ids: NDArray[np.int32], starts: Starts, memory: Memory) -> Any:
        """Target tokens (rows,), each seeing those before it and its memory, to what the head takes (rows, width)."""
        steps, places = nn.end_to_end(starts)
        order = order_of(starts)
        x = self.dropouts[1](self.target_embedding(ids[places]))
        rows, _, _ = self.decoder.layers(x, steps, *self._states([ops.take_rows(e, order) for e in memory.ends]))
        rows = ops.put_rows(rows, places, len(ids))
        if self.attention is not None:
            rows = self.attention(rows, self.attention.prepared(memory.rows), memory.rows, starts, memory.starts)
        return self.dropouts[2](rows)

    def _states(self, ends: list[Any]) -> tuple[list[Any], list[Any]]:
        layers = self.config.num_layers
        return ends[:layers], ends[layers:] or [None] * layers

    def begin(self, memory: Memory, tokens: int = 0) -> States:
        """The states of every layer, and the memory with its keys."""
        held = [] if self.attention is None else [self.attention.prepared(memory.rows), memory.rows]
        return States(held, memory.starts, memory.ends)

    def follow(self, state: Any, ids: NDArray[np.int32]) -> Any:
        """One token more for each beam, (beams,); gives what the head takes (beams, width)."""
        x = self.target_embedding(ids)
        rows, h, c = self.decoder.layers(x, ops.Steps(np.ones(len(ids), np.int64)), *self._states(state.own))
        state.own = [*h, *(c or [])]
        if self.attention is None:
            return rows
        keys, memory = state.memory
        return self.attention(rows, keys, memory, state.starts, state.key_starts)

    def first_values(self, name: str, parameter: nn.Parameter, random: np.random.Generator) -> Array:
        """Recurrent layers as PyTorch's; tables uniform within 0.1 of 0, other matrices within 1 / sqrt(inputs)."""
        if name.startswith(("encoder.", "decoder.")):
            return getattr(self, name[:7]).first_values(name, parameter, random)
        if len(parameter.shape) == 1:
            return np.zeros(parameter.shape, np.float32)
        bound = _SPREAD if "embedding" in name else parameter.shape[1] ** -0.5
        return random.uniform(-bound, bound, parameter.shape).astype(np.float32)


class States(Decoding):
    """memory: arrays with a row for each token of the sources that have beams. own: arrays with a row for each beam."""

    def __init__(self, memory: Sequence[Array], key_starts: Starts, own: Sequence[Array]) -> None:
        super().__init__(key_starts)
        self.memory, self.own = list(memory), list(own)

    @property
    def starts(self) -> Starts:
        """Where the beams of every source begin, and how many there are."""
        counts = np.bincount(self.source, minlength=len(self.key_starts) - 1)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    def move(self, index: NDArray[np.int64]) -> None:
        """Take the rows of beams; let go those of sources that have none."""
        self.own = [each[index] for each in self.own]
        left, self.source = np.unique(self.source, return_inverse=True)
        if len(left) + 1 < len(self.key_starts):
            spans = [np.arange(self.key_starts[i], self.key_starts[i + 1]) for i in left]
            rows = np.concatenate([*spans, np.empty(0, np.int64)]).astype(np.int64)
            self.memory = [each[rows] for each in self.memory]
            self.key_starts = np.cumsum([0, *map(len, spans)]).astype(np.int32)


def order_of(starts: Starts) -> NDArray[np.int64]:
    """The sequences, the longest first, as nn.end_to_end has them."""
    return np.argsort(-np.diff(starts).astype(np.int64), kind="stable")


Model = Seq2Seq
