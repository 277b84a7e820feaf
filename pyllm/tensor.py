"""Memory that gradients flow to: a numpy array, its gradient, and how it was made. No mathematics."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import _core

Array = NDArray[np.float32]


class Tensor:
    """A float32 array; with requires_grad, `backward` of what is computed from it fills `grad`.

    data: numpy arrays are taken without a copy where they are float32 in C order, and so is whatever has the buffer
    protocol, an array interface or DLPack (PyTorch's tensors). Raises TypeError for what holds no real numbers.
    """

    __slots__ = ("__weakref__", "_grad", "_lent", "_spare", "again", "data", "requires_grad", "source")
    __array_priority__ = 1000  # numpy's operators leave `array + tensor` to the tensor

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        self.data: Array = _float32(data)
        self.requires_grad = requires_grad
        self.source: Any = None  # how it was made, an autograd.Node; None for what the caller made
        self.again: Any = None  # how the data are made anew, a function, where that is cheaper than to keep them
        self._grad: Array | None = None
        self._spare: Array | None = None
        self._lent: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dimensions."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """How many dimensions."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """How many numbers."""
        return self.data.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32."""
        return self.data.dtype

    @property
    def grad(self) -> Array | None:
        """Sum of the gradients of all `backward` calls since zero_grad; None before the first."""
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        self._grad = None if value is None else _float32(value)
        if self._grad is not None and self._grad.shape != self.shape:
            raise ValueError(f"tensor: grad has shape {self._grad.shape}, allowed is {self.shape}")

    def zero_grad(self) -> None:
        """Forget the gradient; its memory is kept for the next one."""
        for memory in (self._lent, self._grad):
            self._spare = self._spare if memory is None else memory
        self._lent = self._grad = None

    def keep_grad_in(self, memory: Array) -> None:
        """From now on gradients are written to this array of the same shape, for instance a part of a flat one."""
        if memory.shape != self.shape or memory.dtype != np.float32:
            raise ValueError(f"tensor: gradients of {self.shape} do not fit into {memory.dtype} {memory.shape}")
        if self._grad is not None:
            memory[...] = self._grad
            self._grad = memory
        self._spare = memory

    def lend(self) -> Array:
        """Memory for a gradient that is made before `backward` comes; `take` gets it back without a copy."""
        if self._grad is None and self._spare is not None:
            self._lent, self._spare = self._spare, None
            return self._lent
        return _core.empty(self.data.shape)

    def take(self, gradient: Any) -> None:
        """Add a gradient: an array, or a function of (array to write to, whether to add)."""
        fresh = self._grad is None
        if fresh and gradient is self._lent and gradient is not None:
            self._grad, self._lent = gradient, None
            return
        if fresh:
            self._grad = _core.empty(self.data.shape) if self._spare is None else self._spare
        assert self._grad is not None
        if callable(gradient):
            gradient(self._grad, not fresh)
        elif fresh:
            self._grad[...] = gradient
        else:
            _core.axpy(gradient, 1.0, self._grad)

    def backward(self, gradient: Any = None) -> None:
        """Fill `grad` of everything that this tensor was computed from; see autograd.backward."""
        from pyllm.autograd import backward  # upwards: loss.backward() is the name that PyTorch's users call

        backward(self, gradient)

    def detach(self) -> Tensor:
        """The same memory without its history."""
        return Tensor(self.data)

    def numpy(self) -> Array:
        """The array itself, not a copy."""
        return self.data

    def __float__(self) -> float:
        return self.item()

    def item(self) -> float:
        """The only number. Raises ValueError where there are more."""
        return float(self.data.item())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self.data if dtype is None else self.data.astype(dtype, copy=False)
        return array.copy() if copy else array

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        numbers = np.array2string(self.data, separator=", ", prefix="Tensor(", threshold=20)
        return f"Tensor({numbers}, shape={self.shape}{', requires_grad=True' if self.requires_grad else ''})"

    def _repr_html_(self) -> str:
        """In a notebook: the shape, and a corner of the numbers, each shaded by its size."""
        learns = ", requires_grad=True" if self.requires_grad else ""
        head = f"<div>Tensor {escape(str(self.shape))} float32{learns}</div>"
        if not self.size:
            return head
        before = [0] * max(self.ndim - 2, 0)  # of more than two dimensions the first matrix
        where = f"<div>{before}</div>" if before else ""
        return f"{head}{where}{_table(np.atleast_2d(self.data[tuple(before)]))}"


_ROWS, _COLUMNS = 8, 10  # of a table of numbers


def _table(matrix: Array) -> str:
    """The corner of a matrix, darker where a number is far from 0."""
    corner = matrix[:_ROWS, :_COLUMNS]
    finite = np.abs(corner[np.isfinite(corner)])
    largest = float(finite.max(initial=0)) or 1.0
    more = "<td>...</td>" if matrix.shape[1] > _COLUMNS else ""
    rows = ["".join(_cell(float(x), largest) for x in row) + more for row in corner]
    rows += ["<td>...</td>"] if len(matrix) > _ROWS else []
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _cell(number: float, largest: float) -> str:
    colour = "31,111,178" if number >= 0 else "196,80,27"
    share = min(abs(number) / largest, 1.0) if np.isfinite(number) else 0.0
    return f"<td style='background:rgba({colour},{0.6 * share:.2f})'>{number:.4g}</td>"


def _float32(data: Any) -> Array:
    if isinstance(data, Tensor):
        return data.data
    if hasattr(data, "__dlpack__") and not isinstance(data, (np.ndarray, np.generic)):
        data = _from_dlpack(data.detach() if hasattr(data, "detach") else data)
    array = np.asarray(data)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"tensor: holds {array.dtype}, allowed are real numbers")
    return np.asarray(array, np.float32, order="C")


def _from_dlpack(data: Any) -> NDArray[Any]:
    try:
        return np.from_dlpack(data)
    except (BufferError, RuntimeError):  # numpy knows no bfloat16; PyTorch's tensors widen themselves
        if str(getattr(data, "dtype", "")) != "torch.bfloat16":
            raise
        return np.from_dlpack(data.float())
