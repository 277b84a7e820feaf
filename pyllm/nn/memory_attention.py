"""Attention of recurrent decoders: every state looks at the rows that the encoder left. arXiv:1409.0473, 1508.04025."""

from __future__ import annotations

from typing import Any

from pyllm import _core, ops
from pyllm.nn.linear import Linear
from pyllm.nn.module import Module
from pyllm.nn.multihead import seen


class MemoryAttention(Module):
    """tanh(W_c [c; h]) of states h and what they find in a memory, c = softmax(scores(h, m)) m. Luong et al. 2015.

    kind of scores: "dot" h . m, "general" h . W m, "additive" v . tanh(W h + U m) (Bahdanau et al. 2015).
    """

    def __init__(self, kind: str, size: int) -> None:
        self.kind, self.size = kind, size
        self.keys = Linear(size, size, bias=False) if kind != "dot" else None
        self.queries = Linear(size, size, bias=False) if kind == "additive" else None
        self.score = Linear(size, 1, bias=False) if kind == "additive" else None
        self.combine = Linear(2 * size, size, bias=False)

    def prepared(self, memory: Any) -> Any:
        """The keys of memory rows."""
        return memory if self.keys is None else self.keys(memory)

    def __call__(self, h: Any, keys: Any, memory: Any, starts: Any, key_starts: Any) -> Any:
        """States (rows, size) to the same. watch sees "cross.weights"."""
        found = self._found(h, keys, memory, starts, key_starts)
        return ops.tanh(self.combine(ops.concatenate([found, h], axis=-1)))

    def _found(self, h: Any, keys: Any, memory: Any, starts: Any, key_starts: Any) -> Any:
        def watch(name: str, value: Any) -> Any:
            return self.watch(f"cross.{name}", value)

        if self.queries is not None and self.score is not None:
            weight = self.score.weight.value
            vector = weight.dequantise(0, 1)[0] if isinstance(weight, _core.Weight) else ops.reshape(weight, (-1,))
            watched = ops.unwatched if self.watch is ops.unwatched else watch
            return ops.additive_attention(self.queries(h), keys, memory, vector, starts, key_starts, watched)
        if self.watch is not ops.unwatched:
            found = seen(starts, key_starts, False)
            one, other = (ops.reshape(x, (1, *x.shape)) for x in (h, keys))
            watch("weights", ops.attention_weights(one, other, found, 1.0))
        return ops.row_attention(h, keys, memory, starts, 1, 1, False, 1.0, key_starts=key_starts)
