"""Recurrent layers as their definition reads: one step after the other, in plain operations.

What `recurrent` does in kernels is tested by it, and cells that have no kernel are computed by it: LSTM with peepholes
or a projection, and GRU whose reset gate stands before the product. A step costs a dozen calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyllm import _core
from pyllm.ops.activation import activate, sigmoid, tanh
from pyllm.ops.arithmetic import add, concatenate, index, multiply, subtract
from pyllm.ops.linear import linear
from pyllm.ops.recurrent import Steps, Weights, checked, first_state, recurrent
from pyllm.ops.sequences import take_rows

Step = Callable[[Any, Any, Any], tuple[Any, Any]]  # (W x + b, h, c) to the next h and c


def recurrent_steps(
    cell: str,
    x: Any,
    weights: Weights,
    steps: Steps,
    first: Any = None,
    first_c: Any = None,
    reverse: bool = False,
    peepholes: Any = None,
    reset_first: bool = False,
    projection: Any = None,
) -> tuple[Any, Any, Any]:
    """(h of every row, last h, last c or None), as of `recurrent`, whose arguments and formulas these are.

    peepholes (3 * units,) of i, f, o, for lstm: i and f see p c_(t-1) in their sums, o sees p c_t. Gers et al. 2002,
    JMLR 3. reset_first, for gru: n = tanh(W x + b + R (r h_(t-1)) + b'). Cho et al. 2014, arXiv:1406.1078v3.
    projection P (width, units), for lstm: h_t = P (o tanh(c_t)), R (4 * units, width). Sak et al. 2014,
    arXiv:1402.1128. Raises ValueError.
    """
    units = None if projection is None else projection.shape[1]
    _, _, r, _ = checked(cell, x, weights, steps, units)
    width, units = r.shape[1], units or r.shape[1]
    if projection is not None and (cell != "lstm" or tuple(projection.shape) != (width, units)):
        raise ValueError(f"{cell}: projection {tuple(projection.shape)}, allowed is ({width}, units) for lstm")
    if isinstance(weights.hidden, _core.Weight):
        weights = weights._replace(hidden=r)  # gates are taken out of it, which panels do not allow
    if peepholes is not None and (cell != "lstm" or np.shape(peepholes) != (3 * units,)):
        raise ValueError(f"{cell}: peepholes {np.shape(peepholes)}, allowed are ({3 * units},) for lstm")
    if reset_first and cell != "gru":
        raise ValueError(f"{cell}: reset_first is allowed for gru")
    if not steps.rows and projection is None:
        return recurrent(cell, x, weights, steps, first, first_c, reverse)
    sums = linear(x, weights.inputs, weights.input_bias) if steps.rows else None
    if cell == "lstm":
        step = _lstm(weights, units, peepholes, projection)
    elif cell == "gru":
        step = _reset_first(weights, units) if reset_first else _gru(weights, units)
    else:
        step = _plain(cell, weights)
    h = _start(first, "first", steps, width)
    c = _start(first_c, "first_c", steps, units) if cell == "lstm" else None
    return _run(step, sums, steps, h, c, reverse)


def _plain(cell: str, w: Weights) -> Step:
    return lambda x, h, c: (activate(add(x, linear(h, w.hidden, w.hidden_bias)), cell), None)


def _lstm(w: Weights, units: int, peepholes: Any, projection: Any) -> Step:
    def seen(x: Any, gate: int, c: Any) -> Any:
        return x if peepholes is None else add(x, multiply(_gate(peepholes, gate, units), c))

    def step(x: Any, h: Any, c: Any) -> tuple[Any, Any]:
        sums = add(x, linear(h, w.hidden, w.hidden_bias))
        i, f, g, o = (_gate(sums, k, units) for k in range(4))
        c = add(multiply(sigmoid(seen(f, 1, c)), c), multiply(sigmoid(seen(i, 0, c)), tanh(g)))
        h = multiply(sigmoid(seen(o, 2, c)), tanh(c))
        return h if projection is None else linear(h, projection), c

    return step


def _gru(w: Weights, units: int) -> Step:
    def step(x: Any, h: Any, c: Any) -> tuple[Any, Any]:
        s = linear(h, w.hidden, w.hidden_bias)
        r, z = (sigmoid(add(_gate(x, k, units), _gate(s, k, units))) for k in range(2))
        n = tanh(add(_gate(x, 2, units), multiply(r, _gate(s, 2, units))))
        return add(n, multiply(z, subtract(h, n))), None

    return step


def _reset_first(w: Weights, units: int) -> Step:
    gates, new = np.arange(2 * units), np.arange(2 * units, 3 * units)
    r_gates, r_new = take_rows(w.hidden, gates), take_rows(w.hidden, new)
    b_gates, b_new = (None if w.hidden_bias is None else index(w.hidden_bias, part) for part in (gates, new))

    def step(x: Any, h: Any, c: Any) -> tuple[Any, Any]:
        s = linear(h, r_gates, b_gates)
        r, z = (sigmoid(add(_gate(x, k, units), _gate(s, k, units))) for k in range(2))
        n = tanh(add(_gate(x, 2, units), linear(multiply(r, h), r_new, b_new)))
        return add(n, multiply(z, subtract(h, n))), None

    return step


def _run(step: Step, sums: Any, steps: Steps, h: Any, c: Any, reverse: bool) -> tuple[Any, Any, Any]:
    """All steps; at each, sequences that have it are the first ones, and the others' states wait."""
    outputs: list[Any] = [None] * len(steps.sizes)
    for t in range(len(steps.sizes))[:: -1 if reverse else 1]:
        size = int(steps.sizes[t])
        x = take_rows(sums, np.arange(steps.starts[t], steps.starts[t + 1]))
        outputs[t], after = step(x, _rows(h, 0, size), None if c is None else _rows(c, 0, size))
        h = concatenate([outputs[t], _rows(h, size, steps.sequences)])
        c = None if c is None else concatenate([after, _rows(c, size, steps.sequences)])
    return concatenate(outputs) if outputs else np.zeros((0, h.shape[1]), np.float32), h, c


def _rows(x: Any, first: int, end: int) -> Any:
    return x if end - first == x.shape[0] else take_rows(x, np.arange(first, end))


def _gate(x: Any, gate: int, units: int) -> Any:
    """The k-th gate's share of a last dimension."""
    return index(x, (..., slice(gate * units, (gate + 1) * units)))


def _start(state: Any, name: str, steps: Steps, units: int) -> Any:
    given = first_state(state, name, steps, units)
    return np.zeros((steps.sequences, units), np.float32) if given is None else state
