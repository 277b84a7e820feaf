"""Texts of any length as rows for a classifier: of long ones the end with a way back, what is before it summed up."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm import ops
from pyllm.autograd import no_grad
from pyllm.tensor import Array, Tensor

Starts = NDArray[np.int32]
State = tuple[list[Any], list[Any]]  # (h of each layer, c of each layer)


class Before(NamedTuple):
    """What was read of texts before the rows that are kept: how many rows, their sum and greatest (texts, width)."""

    counts: NDArray[np.int64]
    total: Array
    greatest: Array


class Rows(NamedTuple):
    """Rows (rows, width) of the texts one behind the other, where each begins; what stood before, None: nothing."""

    rows: Any
    starts: Starts
    before: Before | None = None


def read(model: Any, ids: Any, starts: Starts, bptt: int, max_len: int) -> Rows:
    """What the head of a language model would be given for each of the texts ids[starts[i]:starts[i + 1]].

    Recurrent models read a text in pieces of `bptt` tokens, each from the state of the one before; gradients end at a
    piece's beginning, and flow into the last max_len tokens alone: memory is bounded by them, however long a text is
    (truncated back-propagation; BPT3C of Howard, Ruder 2018). Others read the last tokens that fit into their context,
    max_len at most. The rows of a text depend neither on its company nor on whether gradients are wanted.
    """
    if not hasattr(model, "read"):
        kept = np.minimum(np.diff(starts), min(max_len, model.context_length))
        inside = _starts(kept)
        places = np.repeat(starts[1:] - inside[1:], kept) + np.arange(inside[-1])
        with ops.documents(inside):
            return Rows(ops.normalise(model.trunk(ids[places]), model.norm.value), inside)
    lengths = np.diff(starts).astype(np.int64)
    passed = np.maximum(-(-(lengths - max_len) // bptt) * bptt, 0)
    before, state = _passed(model, ids, starts, passed, bptt) if passed.any() else (None, None)
    rest = lengths - passed
    order, inside = np.argsort(-rest, kind="stable"), _starts(rest)
    rows, where = list[Any](), list[NDArray[np.int64]]()
    for at in range(0, int(rest.max()), bptt):
        here = order[rest[order] > at]
        steps = ops.Steps(np.minimum(rest[here] - at, bptt))
        step, text = steps.places
        found, ends = model.read(ids[(starts[:-1] + passed)[here][text] + at + step], steps, _of(state, here))
        state = _into(state, ends, here, len(lengths))
        rows.append(found)
        where.append(inside[here][text] + at + step)
    together = rows[0] if len(rows) == 1 else ops.concatenate(rows)
    return Rows(ops.put_rows(together, np.concatenate(where), int(inside[-1])), inside, before)


def _passed(
    model: Any, ids: Any, starts: Starts, passed: NDArray[np.int64], bptt: int
) -> tuple[Before, State | None]:
    """Read the first passed[i] tokens of each text, whole pieces, without a way back: their sums, the states after."""
    total = np.zeros((len(passed), model.width), np.float32)
    greatest, state = np.full_like(total, -np.inf), None
    with no_grad():
        for at in range(0, int(passed.max()), bptt):
            here = np.flatnonzero(passed > at)
            steps = ops.Steps(np.full(len(here), bptt))
            step, text = steps.places
            found, ends = model.read(ids[starts[:-1][here][text] + at + step], steps, _of(state, here))
            rows = np.asarray(found).reshape(bptt, len(here), -1)
            total[here] += rows.sum(axis=0)
            greatest[here] = np.maximum(greatest[here], rows.max(axis=0))
            state = _into(state, ends, here, len(passed))
    return Before(passed, total, greatest), state


def _starts(lengths: NDArray[Any]) -> Starts:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _of(state: State | None, texts: NDArray[np.int64]) -> State | None:
    """The states of some texts."""
    if state is None:
        return None
    h, c = ([None if each is None else each[texts] for each in part] for part in state)
    return h, c


def _into(state: State | None, ends: State, texts: NDArray[np.int64], many: int) -> State:
    """The states of all texts, of which some have gone on; numbers alone: gradients end here."""

    def put(old: Array | None, new: Any) -> Array | None:
        if new is None:
            return None
        numbers = new.data if isinstance(new, Tensor) else np.asarray(new)
        out = np.zeros((many, numbers.shape[1]), np.float32) if old is None else old
        out[texts] = numbers
        return out

    nothing: list[Any] = [None] * len(ends[0])
    before = state or (nothing, nothing)
    h, c = ([put(old, new) for old, new in zip(*pair, strict=True)] for pair in zip(before, ends, strict=True))
    return h, c
