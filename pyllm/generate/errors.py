"""What can go wrong while generating, as typed errors."""

from __future__ import annotations

from .._core import LogitsError
from ..errors import ContextError, printable

__all__ = ["CacheBudgetError", "ContextError", "EngineClosedError", "GenerationError", "LogitsError"]


class GenerationError(ValueError):
    """A parameter that generation cannot honour; the message reads `generate: name=found; allowed`.

    name, found and allowed are kept as attributes.
    """

    def __init__(self, name: str, found: object, allowed: str) -> None:
        self.name = name
        self.found = printable(repr(found))
        self.allowed = allowed
        super().__init__(name, found, allowed)

    def __str__(self) -> str:
        return f"generate: {self.name}={self.found}; {self.allowed}"


class CacheBudgetError(ValueError):
    """A memory budget for keys and values that does not hold one request, or that is no budget at all."""


class EngineClosedError(RuntimeError):
    """A request to an engine that has been closed, or that was under way when it was closed."""
