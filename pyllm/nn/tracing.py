"""Every named intermediate of a call, and its gradient: for who wants to see what a model computes.

    with pyllm.trace(model) as t:
        model.loss(ids, targets).backward()
    t.names()                              # "embedding", "layers.0.attention.normalised", ..., "logits"
    t["layers.0.attention.weights"]        # (heads, length, length), rows sum to 1
    t.grad("layers.0.attention.weights")   # how the loss changes with them
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np

from pyllm.autograd import record
from pyllm.ops import Watch, unwatched
from pyllm.tensor import Array, Tensor

_traces: ContextVar[tuple[Trace, ...]] = ContextVar("traces", default=())


class Trace:
    """What the last eager call of a model computed: name -> float32 array; the name is a part's path and the value's.

    Of attention: "normalised", "queries", "keys", "values" (..., heads, length, d), "weights" (..., heads, length,
    length), "inner" (what W_o takes). Of a feed-forward: "normalised", "gate", "up", "inner" (what W_down takes). Of
    the model: "normalised" (what the head takes), "logits". A path alone is the part's result, its residual included.
    """

    def __init__(self, model: Any) -> None:
        self._model = model  # held, as parts are known by their ids
        parts = [("", model), *model.named_modules()]
        self._paths = {id(part): path for path, part in reversed(parts)}  # the first name of a part that serves twice
        self._values: dict[str, Array] = {}
        self._gradients: dict[str, Array] = {}

    def names(self) -> list[str]:
        """In the order in which they were computed."""
        return list(self._values)

    def __getitem__(self, name: str) -> Array:
        return self._values[self._known(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def grad(self, name: str) -> Array | None:
        """The gradient of a value; None where no `backward` has come by. Raises KeyError for an unknown name."""
        return self._gradients.get(self._known(name))

    def knows(self, part: Any) -> bool:
        """Whether this is a part of the model."""
        return id(part) in self._paths

    def keep(self, part: Any, name: str, value: Any) -> Any:
        """Remember a value; gives it back, a tensor so that its gradient passes here."""
        if not isinstance(value, (Tensor, np.ndarray)):
            return value  # a symbol of a recording
        path = ".".join(filter(None, (self._paths[id(part)], name)))
        array = value.data if isinstance(value, Tensor) else value
        self._values.pop(path, None)
        self._gradients.pop(path, None)
        self._values[path] = array

        def derivative(dy: Array) -> tuple[Array]:
            if self._values.get(path) is array:  # not of an earlier call
                self._gradients[path] = dy.copy()
            return (dy,)

        return record(array, (value,), derivative)

    def _known(self, name: str) -> str:
        if name not in self._values:
            what = ", ".join(self._values) or "nothing yet; call model.forward(ids) or model.loss(ids, targets)"
            raise KeyError(f"trace: {name!r} is not among what was computed: {what}")
        return name

    def __repr__(self) -> str:
        return f"Trace({len(self._values)} values of {type(self._model).__name__})"


@contextmanager
def trace(model: Any) -> Iterator[Trace]:
    """Within it, eager calls of the model (`forward`, `loss`, an MLP's call) leave their intermediates in the trace.

    They are computed unfused, one operation after the other: the same numbers but for rounding. Of this thread.
    Steps of a recorded model (`model(ids)`, `generate`) leave nothing.
    """
    before = _traces.get()
    found = Trace(model)
    _traces.set((found, *before))
    try:
        yield found
    finally:
        _traces.set(before)


def watcher(part: Any) -> Watch:
    """Who watches this part: the innermost trace of a model that has it, or nobody."""
    for each in _traces.get():
        if each.knows(part):
            return partial(each.keep, part)
    return unwatched
