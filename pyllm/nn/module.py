"""What every part is: a holder of parameters, found by walking its attributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Parameter:
    """A place for a weight: its shape, and once loaded its value (a packed `_core.Weight`, or a float32 vector)."""

    def __init__(self, *shape: int, packed: bool = False) -> None:
        self.shape = shape
        self.packed = packed
        self.value: Any = None

    def __repr__(self) -> str:
        return f"Parameter{self.shape}"


class Module:
    """A part of a model. The name of a parameter is the path to it."""

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """(path, parameter) of this part and all parts within, in order of definition."""
        for name, part in vars(self).items():
            for key, each in enumerate(part) if isinstance(part, list) else [(None, part)]:
                path = f"{prefix}{name}" if key is None else f"{prefix}{name}.{key}"
                if isinstance(each, Parameter):
                    yield path, each
                elif isinstance(each, Module):
                    yield from each.named_parameters(path + ".")

    def num_parameters(self) -> int:
        """Trainable numbers, each counted once."""
        total = 0
        for parameter in {id(each): each for _, each in self.named_parameters()}.values():
            count = 1
            for size in parameter.shape:
                count *= size
            total += count
        return total
