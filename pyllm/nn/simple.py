"""Thin parts for nets of one's own, under PyTorch's names: containers, and functions as parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from pyllm import ops
from pyllm.nn.module import Module


class ModuleList(Module):
    """Parts by number. A plain list of parts does the same."""

    def __init__(self, modules: Iterable[Any] = ()) -> None:
        self.names: list[str] = []
        self.extend(modules)

    def append(self, module: Any) -> Any:
        """One more at the end; gives the list."""
        return self._named(str(len(self)), module)

    def extend(self, modules: Iterable[Any]) -> Any:
        """More at the end; gives the list."""
        for module in modules:
            self.append(module)
        return self

    def _named(self, name: str, module: Any) -> Any:
        self.names.append(name)
        setattr(self, name, module)
        return self

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, name) for name in self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: Any) -> Any:
        if not isinstance(i, slice):
            return getattr(self, self.names[i])
        return type(self)(getattr(self, name) for name in self.names[i])


class Sequential(ModuleList):
    """Parts, or any functions, one after the other; a dict gives them names. Raises ValueError for a name twice, or of
    what a part itself has."""

    def __init__(self, *modules: Any) -> None:
        named = len(modules) == 1 and isinstance(modules[0], Mapping)
        super().__init__(() if named else modules)
        for name, module in modules[0].items() if named else ():
            if hasattr(self, name) or "." in name:
                raise ValueError(f"sequential: a part called {name!r}, allowed are names without dot that are free")
            self._named(name, module)

    def __call__(self, x: Any) -> Any:
        """What the last part gives."""
        for part in self:
            x = part(x)
        return self.watch("", x)

    def __getitem__(self, i: Any) -> Any:
        return Sequential(*list(self)[i]) if isinstance(i, slice) else super().__getitem__(i)


class Function(Module):
    """A function as a part; dim: it goes along a dimension, of which it knows the last."""

    def __init__(self, function: Callable[[Any], Any], dim: int = -1) -> None:
        self.function, self.dim = function, dim

    def __call__(self, x: Any) -> Any:
        """Any shape to the same."""
        many = np.ndim(x)
        if self.dim % max(many, 1) == many - 1 or self.dim == -1:
            return self.watch("", self.function(x))
        axes = list(range(many))
        axes[self.dim], axes[-1] = axes[-1], axes[self.dim]
        return self.watch("", ops.transpose(self.function(ops.transpose(x, *axes)), *axes))


class ReLU(Function):
    """max(x, 0)."""

    def __init__(self) -> None:
        super().__init__(ops.relu)


class GELU(Function):
    """x Phi(x); approximate="tanh": as ops.gelu. Raises ValueError for another."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__(partial(ops.gelu, approximate=approximate))
        self(np.zeros(1, np.float32))


class SiLU(Function):
    """x sigmoid(x)."""

    def __init__(self) -> None:
        super().__init__(ops.silu)


class Tanh(Function):
    """tanh(x)."""

    def __init__(self) -> None:
        super().__init__(ops.tanh)


class Sigmoid(Function):
    """1 / (1 + exp(-x))."""

    def __init__(self) -> None:
        super().__init__(ops.sigmoid)


class Softmax(Function):
    """exp(x) / sum exp(x) along a dimension."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__(ops.softmax, dim)


class LogSoftmax(Function):
    """log(exp(x) / sum exp(x)) along a dimension."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__(ops.log_softmax, dim)
