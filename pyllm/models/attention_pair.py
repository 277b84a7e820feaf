"""Encoder-decoders of attention alone: what the Transformer, BART, Marian and T5 have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import nn, ops
from pyllm.models.encoder_decoder import Decoding, EncoderDecoder, Memory, Starts


class Beams(Decoding):
    """keys: of every layer the keys and values of the sources' tokens, which all beams of a source read where they are.

    slabs: those of the beams' own tokens. biases: each layer's of distances up to a length that is long enough for now.
    """

    def __init__(self, key_starts: Starts, keys: list[tuple[Any, Any]], slabs: nn.Slabs) -> None:
        super().__init__(key_starts)
        self.keys, self.slabs = keys, slabs
        self.biases: list[Any] = [None] * len(keys)

    def move(self, index: NDArray[np.int64]) -> None:
        """Only the index of the slabs."""
        self.slabs.reorder(index)


class AttentionPair(EncoderDecoder):
    """A family has two tables and two stacks, whose parts say what is its own; the rest is here."""

    source_embedding: nn.Embedding
    target_embedding: nn.Embedding
    encoder: nn.Stack
    decoder: nn.Stack

    @property
    def cache_type(self) -> str:
        """Type of the keys and values that steps keep: float32 where all matrices are, else bfloat16."""
        kinds = {getattr(each.value, "dtype", "F32") for _, each in self.named_parameters() if each.packed}
        return "F32" if all(str(kind) in ("F32", "float32") for kind in kinds) else "BF16"

    def placed(self, ids: NDArray[np.int32], places: NDArray[Any]) -> NDArray[Any]:
        """Where tokens (rows,) stand, as the positions of a stack take it; places: counted from 0 in each sequence."""
        return places

    def encode(self, ids: NDArray[np.int32], starts: Starts) -> Memory:
        """Source tokens (rows,) to a memory."""
        biases = self.encoder.biases(int(np.diff(starts).max()))
        x = self.encoder.enter(self.source_embedding(ids), self.placed(ids, ops.places_of(starts)))
        for layer, bias in zip(self.encoder.layers, biases, strict=True):
            x = layer(x, nn.Own(starts, bias=bias))
        return Memory(self.encoder.leave(x), starts)

    def decode(self, ids: NDArray[np.int32], starts: Starts, memory: Memory) -> Any:
        """Target tokens (rows,), each seeing those before it and its memory, to what the head takes (rows, width)."""
        biases = self.decoder.biases(int(np.diff(starts).max()))
        x = self.decoder.enter(self.target_embedding(ids), self.placed(ids, ops.places_of(starts)))
        for layer, bias in zip(self.decoder.layers, biases, strict=True):
            keys, values = layer.cross.keys(memory.rows)
            x = layer(x, nn.Own(starts, True, bias), nn.Other(keys, values, starts, memory.starts))
        return self.decoder.leave(x)

    def begin(self, memory: Memory, tokens: int = 0) -> Beams:
        """The keys and values of every layer, of the memory and of no token yet."""
        layers, kind = self.decoder.layers, self.cache_type
        keys = [layer.cross.keys(memory.rows) for layer in layers]
        if kind == "BF16":
            keys = [(ops.halves(k), ops.halves(v)) for k, v in keys]
        width = layers[0].attention.k.weight.shape[0]
        return Beams(memory.starts, keys, nn.Slabs(len(layers), len(memory.starts) - 1, width, tokens, kind))

    def follow(self, state: Any, ids: NDArray[np.int32]) -> Any:
        """One token more for each beam, (beams,); gives what the head takes (beams, width)."""
        state.slabs.grow()
        known = state.biases[0]
        if self.decoder.relative is not None and (known is None or known.shape[1] < state.slabs.length):
            state.biases = self.decoder.biases(max(64, 2 * state.slabs.length))
        first = state.key_starts[state.source]
        count = state.key_starts[state.source + 1] - first
        x = self.decoder.enter(self.target_embedding(ids), self.placed(ids, np.full(len(ids), state.length)))
        for i, layer in enumerate(self.decoder.layers):
            keys, values = state.keys[i]
            x = layer(x, nn.Step(state.slabs, i, state.biases[i]), nn.Look(keys, values, first, count))
        return self.decoder.leave(x)
