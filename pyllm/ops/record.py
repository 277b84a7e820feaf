"""Recording: a model's forward, called once with symbols, becomes a program that C++ replays."""

from __future__ import annotations

from typing import Any

from pyllm import _core


class Recorder:
    """Collects the kernel calls of one forward. `tokens` is the symbol to call the model with.

    cache: (layers, key/value heads, head width, "F32" or "BF16"); rotary: (frequencies, magnitude) or None.
    """

    def __init__(self, cache: tuple[int, int, int, str], rotary: Any, context: int, high: bool = False) -> None:
        frequency, magnitude = rotary if rotary is not None else ((), 1.0)
        self.program = _core.Program(*cache, list(frequency), float(magnitude), context, high)
        self.tokens = Symbol(self, -1)

    def finish(self) -> _core.Program:
        """The program, ready to run."""
        self.program.finish()
        return self.program


class Symbol:
    """A value of a recording: (rows of the step, width). Operations on it are recorded, not computed."""

    def __init__(self, recorder: Recorder, value: int) -> None:
        self.recorder = recorder
        self.value = value

    def embedding(self, weight: Any, positions: Any = None) -> Symbol:
        """Rows of `weight` at these tokens, plus the rows of `positions` at their places."""
        return Symbol(self.recorder, self.recorder.program.embedding(weight, positions))

    def linear(
        self,
        norm: Any,
        parts: list[tuple[Any, Any, str]],
        act: str = "none",
        gated: bool = False,
        residual: Symbol | None = None,
        layer: int = 0,
    ) -> list[Symbol]:
        """One step: norm(self) with one to three (weight, bias, epilogue)."""
        place = -1 if residual is None else residual.value
        values = self.recorder.program.linear(self.value, norm, parts, act, gated, place, layer)
        return [Symbol(self.recorder, value) for value in values]

    def attention(self, layer: int, heads: int, scale: float, window: int) -> Symbol:
        """Queries over the layer's cache."""
        return Symbol(self.recorder, self.recorder.program.attention(self.value, layer, heads, scale, window))

    def map(self, act: str, up: Symbol | None = None) -> Symbol:
        """act(self), times up."""
        return Symbol(self.recorder, self.recorder.program.map(self.value, -1 if up is None else up.value, act))

    def logits(self, norm: Any, weight: Any, bias: Any = None) -> None:
        """The end of the recording: scores of the vocabulary for the rows that a run wants."""
        self.recorder.program.logits(self.value, norm, weight, bias)
