"""Recording: a model's forward, called once with symbols, becomes a program that C++ replays."""

from __future__ import annotations

from typing import Any

from pyllm import _core
from pyllm.ops.adapted import Adapted


class Recorder:
    """Collects the kernel calls of one forward. `tokens` is the symbol to call the model with.

    cache: (layers, key/value heads, head width, "F32" or "BF16"), no heads where a model has recurrent layers.
    """

    def __init__(self, cache: tuple[int, int, int, str], context: int, high: bool = False) -> None:
        self.program = _core.Program(*cache, context, high)
        self._rotations: list[tuple[Any, int]] = []
        self.tokens = Symbol(self, -1)

    def rotation(self, wanted: Any) -> int:
        """The number of a (frequencies, magnitude), which layers share; -1 for None."""
        if wanted is None:
            return -1
        for rotation, number in self._rotations:
            if rotation == wanted:
                return number
        frequencies, magnitude = wanted
        self._rotations.append((wanted, self.program.rotary(list(frequencies), float(magnitude))))
        return self._rotations[-1][1]

    def finish(self) -> _core.Program:
        """The program, ready to run."""
        self.program.finish()
        return self.program


class Symbol:
    """A value of a recording: (rows of the step, width). Operations on it are recorded, not computed."""

    def __init__(self, recorder: Recorder, value: int) -> None:
        self.recorder = recorder
        self.value = value

    def embedding(self, weight: Any, positions: Any = None, scale: float = 1.0) -> Symbol:
        """Rows of `weight` at these tokens times `scale`, plus the rows of `positions` at their places."""
        return Symbol(self.recorder, self.recorder.program.embedding(weight, positions, scale))

    def linear(
        self,
        norm: Any,
        parts: list[tuple[Any, Any, str]],
        act: str = "none",
        gated: bool = False,
        residual: Symbol | None = None,
        layer: int = 0,
        rotation: Any = None,
    ) -> list[Symbol]:
        """One step: norm(self) with one to three (weight, bias, epilogue); before it the changes of adapted ones."""
        place = -1 if residual is None else residual.value
        number = self.recorder.rotation(rotation)
        recorded = self._changed(norm, parts)
        values = self.recorder.program.linear(self.value, norm, recorded, act, gated, place, layer, number)
        return [Symbol(self.recorder, value) for value in values]

    def _changed(self, norm: Any, parts: list[tuple[Any, Any, str]]) -> list[tuple[Any, Any, str, int]]:
        """Parts as the program takes them: (weight, bias, epilogue, value that is added to the product or -1)."""
        changes = {i: part[0].packed() for i, part in enumerate(parts) if isinstance(part[0], Adapted)}
        if not changes:
            return [(*part, -1) for part in parts]
        program = self.recorder.program
        inner = program.linear(self.value, norm, [(a, None, "store", -1) for a, _ in changes.values()])
        pairs = zip(inner, changes.values(), strict=True)
        outer = [program.linear(h, None, [(b, None, "store", -1)])[0] for h, (_, b) in pairs]
        added = dict(zip(changes, outer, strict=True))
        return [
            (weight.weight if i in added else weight, bias, epilogue, added.get(i, -1))
            for i, (weight, bias, epilogue) in enumerate(parts)
        ]

    def heads(self, k: Symbol, norms: tuple[Any, Any], layer: int, rotation: Any) -> Symbol:
        """Queries, and keys `k` into the layer's cache, after the norm of each head and the rotation."""
        (_, q_weight, _, eps), (_, k_weight, _, _) = norms
        number = self.recorder.rotation(rotation)
        self.recorder.program.heads(self.value, k.value, q_weight, k_weight, eps, layer, number)
        return self

    def attention(self, layer: int, heads: int, scale: float, window: int, softcap: float) -> Symbol:
        """Queries over the layer's cache."""
        value = self.recorder.program.attention(self.value, layer, heads, scale, window, softcap)
        return Symbol(self.recorder, value)

    def recurrent(self, cell: str, parts: tuple[Any, Any], hidden: Any, inner_bias: Any) -> Symbol:
        """h of every row. parts: (weight, bias) of the input products; hidden: weights, of every gate whole panels."""
        gates = self.linear(None, [(*parts, "store")])[0]
        return Symbol(self.recorder, self.recorder.program.recurrent(gates.value, cell, hidden, inner_bias))

    def add_norm(self, x: Symbol, norm: Any) -> Symbol:
        """This value plus norm(x), in its place."""
        self.recorder.program.add_norm(self.value, x.value, norm)
        return self

    def map(self, act: str, up: Symbol | None = None) -> Symbol:
        """act(self), times up."""
        return Symbol(self.recorder, self.recorder.program.map(self.value, -1 if up is None else up.value, act))

    def logits(self, norm: Any, weight: Any, bias: Any = None, softcap: float = 0.0) -> None:
        """The end of the recording: scores of the vocabulary for the rows that a run wants."""
        self.recorder.program.logits(self.value, norm, weight, bias, softcap)
