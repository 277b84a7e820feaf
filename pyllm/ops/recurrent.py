"""Recurrent layers over whole sequences: plain cells, LSTM and GRU, each with the way back through time.

Rows of sequences lie step after step: step t has sizes[t] rows, one for each sequence that is as long, the longest
sequence first. So sequences of different lengths cost what they hold and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import _core
from pyllm.autograd import kept, record
from pyllm.ops.arrays import Array, float32, vector
from pyllm.ops.linear import times
from pyllm.ops.panels import panels, sums
from pyllm.ops.precision import product_type
from pyllm.ops.record import Symbol
from pyllm.tensor import Tensor

GATES = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 3}  # of a cell; LSTM's are i, f, g, o, GRU's r, z, n


class Weights(NamedTuple):
    """Of one layer in one direction, as PyTorch has them, gate after gate.

    inputs (gates * units, in) and hidden (gates * units, units), arrays or packed; biases (gates * units,) both or
    neither.
    """

    inputs: Any
    hidden: Any
    input_bias: Any = None
    hidden_bias: Any = None


class Steps:
    """How rows belong to steps. lengths (sequences,) from the longest to the shortest, 0 allowed.

    Raises ValueError where they ascend.
    """

    def __init__(self, lengths: Any) -> None:
        self.lengths: NDArray[np.int64] = np.asarray(lengths, np.int64)
        if self.lengths.ndim != 1 or (np.diff(self.lengths) > 0).any() or (self.lengths < 0).any():
            raise ValueError(f"recurrent: lengths {lengths}, allowed are whole numbers that do not ascend")

    @property
    def sequences(self) -> int:
        """How many, those without a step among them."""
        return len(self.lengths)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """How many sequences have a step t."""
        longest = int(self.lengths.max(initial=0))
        return self.sequences - np.searchsorted(self.lengths[::-1], np.arange(longest), side="right").astype(np.int64)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The first row of every step, and how many rows there are."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    @property
    def rows(self) -> int:
        """Of all steps."""
        return int(self.starts[-1])

    @property
    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(step, sequence) of every row."""
        step = np.repeat(np.arange(len(self.sizes)), self.sizes)
        return step, np.arange(self.rows) - self.starts[step]

    @property
    def equal(self) -> bool:
        """Whether all sequences are equally long, so that what follows are slices and not lists of rows."""
        return self.sequences > 0 and self.lengths[0] == self.lengths[-1]

    def last(self, reverse: bool) -> NDArray[np.int64]:
        """The row where each sequence with a step ends."""
        lengths = self.lengths[self.lengths > 0]
        steps = np.zeros_like(lengths) if reverse else lengths - 1
        return self.starts[steps] + np.arange(len(lengths))

    def befores(self, reverse: bool) -> tuple[Any, Any, Any]:
        """(rows that follow another row of their sequence, those others, the sequences' first rows)."""
        n, each = self.rows, self.sequences
        if not n:
            return slice(0, 0), slice(0, 0), slice(0, 0)
        if self.equal:
            early, late = slice(0, n - each), slice(each, n)
            return (early, late, slice(n - each, n)) if reverse else (late, early, slice(0, each))
        step, sequence = self.places
        if reverse:
            first = step + 1 == self.lengths[sequence]
            return ~first, (self.starts[step + 1] + sequence)[~first], self.last(False)
        first = step == 0
        return ~first, (self.starts[step - 1] + sequence)[~first], slice(0, int(self.sizes[0]))


def recurrent(
    cell: str, x: Any, weights: Weights, steps: Steps, first: Any = None, first_c: Any = None, reverse: bool = False
) -> tuple[Any, Any, Any]:
    """(h of every row, last h, last c or None) of one layer in one direction, from the first h (and c); None: zeros.

    tanh, relu: h_t = f(W x_t + b + R h_(t-1) + b').
    lstm: c_t = f c_(t-1) + i g, h_t = o tanh(c_t); i, f, o = sigmoid, g = tanh of W x_t + b + R h_(t-1) + b'.
    gru: h_t = (1 - z) n + z h_(t-1), n = tanh(W x_t + b + r (R h_(t-1) + b')), r and z = sigmoid of theirs.
    x (rows, in) in the order of `steps`; reverse: every sequence from its end. first (sequences, units). A sequence
    without a step keeps its first state. float32; in bf16 the operands of products are rounded, states are not.
    While recording, the program knows its steps and keeps the states: (h of every row, None, None).
    Raises ValueError for a cell that is not known and shapes that do not fit.
    """
    if isinstance(x, Symbol):
        return _recorded(cell, x, weights, reverse), None, None
    a, w, r, biases = checked(cell, x, weights, steps)
    units, kind = r.shape[1], _product_type(weights.hidden)
    h0, c0 = (first_state(each, name, steps, units) for each, name in ((first, "first"), (first_c, "first_c")))
    gates = _core.empty((len(a), len(r)))
    bias, inner_bias = _joined(cell, biases, units)
    if len(a) and isinstance(w, _core.Weight):
        _core.linear(a, w, bias, False, gates)
    elif len(a):
        with panels(w, kind) as packed:
            _core.linear(a, packed, bias, False, gates)
    order = steps.sequences, steps.sizes, reverse, kind
    h, c, inner = _core.recurrent_forward(cell, gates, r, inner_bias, h0, c0, *order)
    saved, of_c = kept(x, a), _Late()

    def derivative(dh: Array) -> tuple[Any, ...]:
        back = _core.recurrent_backward(cell, dh, of_c.gradient, gates, r, h, c, inner, h0, c0, *order)
        dfirst, dfirst_c, hidden = back
        hidden = gates if hidden is None else hidden
        if not len(a):
            return (*(_nothing(each) for each in (a, w, r, *biases)), dfirst, dfirst_c)
        dr = _hidden_sums(hidden, h, h0, steps.befores(reverse), kind)
        own = _bias_sums(gates, hidden, weights)
        return times(gates, w, kind, transposed=True), sums(gates, saved, kind), dr, *own, dfirst, dfirst_c

    rows = record(h, (x, *weights, first, first_c), derivative)
    final_c = None if c is None else _last(c, c0, rows, first_c, steps, reverse, of_c)
    return rows, _last(h, h0, rows, first, steps, reverse), final_c


class _Late:
    """The gradient of the last c, which comes before that of the rows."""

    gradient: Array | None = None


def _last(
    values: Array, start: Array | None, rows: Any, first: Any, steps: Steps, reverse: bool, late: _Late | None = None
) -> Any:
    """The state after the last step of each sequence; that of c tells its gradient through `late`."""
    ends = steps.last(reverse)
    out = np.zeros((steps.sequences, values.shape[1]), np.float32) if start is None else start.copy()
    out[: len(ends)] = values[ends]

    def derivative(dy: Array) -> tuple[Any, Any]:
        def of_rows(into: Array, add: bool) -> None:
            if not add:
                into.fill(0)
            if late is None:
                into[ends] += dy[: len(ends)]

        if late is not None:
            late.gradient = dy if late.gradient is None else late.gradient + dy
            return of_rows, None  # of sequences without a step too: the way back gives it to the first c
        dfirst = dy.copy()
        dfirst[: len(ends)] = 0
        return of_rows, dfirst

    return record(out, (rows, first), derivative)


def _bias_sums(gates: Array, hidden: Array, weights: Weights) -> list[Array | None]:
    """The gradients of both biases, where they are wanted; those of LSTM and plain cells are the same."""
    wanted = [isinstance(b, Tensor) for b in (weights.input_bias, weights.hidden_bias)]
    first = _core.column_sums(gates) if any(wanted) and (wanted[0] or hidden is gates) else None
    second = first.copy() if first is not None and hidden is gates else _core.column_sums(hidden) if wanted[1] else None
    return [array if want else None for array, want in zip((first, second), wanted, strict=True)]


def _hidden_sums(dgates: Array, h: Array, first: Array | None, befores: tuple[Any, Any, Any], kind: str) -> Any:
    """The gradient of R: of all rows with the state before them."""
    rows, others, starts = befores

    def gradient(into: Array, add: bool) -> None:
        parts = [(np.ascontiguousarray(dgates[rows]), h[others])]
        if first is not None:
            parts.append((np.ascontiguousarray(dgates[starts]), None))
        for d, state in parts:
            state = first[: len(d)] if state is None and first is not None else state
            if len(d):
                sums(d, _given(state), kind)(into, add)
                add = True
        if not add:
            into.fill(0)

    return gradient


def _nothing(array: Any) -> Array | None:
    """The gradient of what no row has read."""
    return None if array is None or isinstance(array, _core.Weight) else np.zeros_like(array)


def _given(array: Any) -> Callable[[], Array]:
    return lambda: np.ascontiguousarray(array)


def _recorded(cell: str, x: Symbol, weights: Weights, reverse: bool) -> Symbol:
    """A layer of a program. Raises ValueError for one that begins at the end, which no state goes on from."""
    if reverse:
        raise ValueError(f"{cell}: backwards there is no next token; layers that read both ways run on whole sequences")
    units = weights.hidden.shape[1]
    biases = [None if b is None else vector(b, GATES[cell] * units, cell, "bias") for b in weights[2:]]
    bias, inner_bias = _joined(cell, biases, units)
    return x.recurrent(cell, (weights.inputs, bias), _by_gate(weights.hidden, units), inner_bias)


def _by_gate(hidden: Any, units: int) -> Any:
    """Packed weights in which every gate begins with a panel, as F32 or BF16."""
    if units % 16 == 0 and hidden.dtype in ("F32", "BF16"):
        return hidden
    rows = hidden.dequantise(0, hidden.shape[0]).reshape(-1, units, units)
    whole = np.pad(rows, ((0, 0), (0, -units % 16), (0, 0))).reshape(-1, units)
    packed = _core.Weight("BF16" if hidden.dtype == "BF16" else "F32", *whole.shape)
    packed.fill_floats(whole)
    return packed


def _product_type(hidden: Any) -> str:
    """Of the products with the last state."""
    if isinstance(hidden, _core.Weight):
        return "BF16" if hidden.dtype == "BF16" else "F32"
    return product_type()


def checked(
    cell: str, x: Any, weights: Weights, steps: Steps, units: int | None = None
) -> tuple[Array, Any, Array, list[Array | None]]:
    """(x, W, R, biases) as arrays that fit each other and the cell. units: None, as many as h has; so R is square.

    Raises ValueError.
    """
    if cell not in GATES:
        raise ValueError(f"recurrent: cell {cell!r}, allowed are {', '.join(GATES)}")
    a, r = float32(x, cell), weights.hidden
    r = r.dequantise(0, r.shape[0]) if isinstance(r, _core.Weight) else float32(r, cell, "hidden weight")
    w = weights.inputs if isinstance(weights.inputs, _core.Weight) else float32(weights.inputs, cell, "input weight")
    gates = GATES[cell]
    if r.ndim != 2 or r.shape[1] < 1 or r.shape[0] != gates * (units or r.shape[1]):
        found = "units, units" if units is None else f"{units}, width of h"
        raise ValueError(f"{cell}: hidden weight {r.shape}, allowed is ({gates} * {found})")
    if len(w.shape) != 2 or w.shape[0] != len(r) or w.shape[1] < 1:
        raise ValueError(f"{cell}: input weight {tuple(w.shape)}, allowed is ({len(r)}, inputs)")
    if a.shape != (steps.rows, w.shape[1]):
        raise ValueError(f"{cell}: x {a.shape}, allowed is ({steps.rows}, {w.shape[1]})")
    named = (weights.input_bias, "input bias"), (weights.hidden_bias, "hidden bias")
    return a, w, r, [None if b is None else vector(b, len(r), cell, name) for b, name in named]


def first_state(state: Any, name: str, steps: Steps, units: int) -> Array | None:
    """A first state (sequences, units) as an array. Raises ValueError."""
    if state is None:
        return None
    array = float32(state, "recurrent", name)
    if array.shape != (steps.sequences, units):
        raise ValueError(f"recurrent: {name} {array.shape}, allowed is ({steps.sequences}, {units})")
    return array


def _joined(cell: str, biases: list[Array | None], units: int) -> tuple[Array | None, Array | None]:
    """(what the input products start from, what stands inside GRU's reset)."""
    found = [b for b in biases if b is not None]
    if not found:
        return None, None
    total = np.asarray(found[0] if len(found) == 1 else found[0] + found[1], np.float32)
    hidden = biases[1]
    if cell != "gru" or hidden is None:
        return total, None
    total = total.copy()
    total[2 * units :] = 0 if biases[0] is None else biases[0][2 * units :]
    return total, np.ascontiguousarray(hidden[2 * units :])
