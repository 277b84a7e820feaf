"""Recurrent kernels on every instruction set, against float64 twins whose way back is checked by slopes."""

import functools
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference_recurrent as twin
from kernel_checks import ISAS, guarded, random, same_bits, threads, using
from reference import U_BF16

from pyllm import _core, ops
from pyllm.ops import panels
from pyllm.tensor import Tensor

CELLS = tuple(twin.GATES)
# Equal, different, one step, without a step, more sequences than a tile or a block of rows has.
LENGTHS = ((3, 3, 3), (7, 5, 5, 2, 1, 0), (1,), (0, 0), (4,) * 13, (2,) * 97, (9, *(3,) * 24, *(1,) * 80))
UNITS = (1, 3, 16, 17, 33, 48)
NAMES = ("rows", "last h", "last c", "dx", "dw", "dr", "db", "dbh", "dh0", "dc0")
CLOSE = {"F32": 2e-6, "BF16": 8 * U_BF16}  # of the norm; measured are 3e-7 and 4e-3


def inputs(cell, lengths, units, width=5, seed=0):
    """x, w, r, b, bh, h0, c0 and the cotangents of rows, last h and last c; sums keep about unit size.

    Those of relu stay away from 0, where its slope jumps and any rounding may decide which it is.
    """
    gates, rows, many = twin.GATES[cell] * units, sum(lengths), len(lengths)
    shapes = [(rows, width), (gates, width), (gates, units), (gates,), (gates,), (many, units), (many, units)]
    shapes += [(rows, units), (many, units), (many, units)]
    scales = [1, 0.5, units**-0.5, 0.5, 0.5, 1, 1, 1, 1, 1]
    found = [random(shape, 100 * seed + i, scale) for i, (shape, scale) in enumerate(zip(shapes, scales, strict=True))]
    if cell == "relu":
        found[0] *= np.float32(0.2)
        found[2] *= np.float32(0.2)
        found[3] = np.where(found[3] > 0, np.float32(4), np.float32(-4))
    return found


@functools.cache
def wanted_of(cell, lengths, units, reverse):
    """The twin's results of the usual inputs: every instruction set is judged by them."""
    return expected(cell, lengths, reverse, inputs(cell, lengths, units))


def expected(cell, lengths, reverse, arrays):
    """All results of the twin, under NAMES."""
    x, w, r, b, bh, h0, c0, dout, dh, dc = (np.asarray(a, np.float64) for a in arrays)
    *found, tape = twin.forward(cell, lengths, reverse, x, w, r, b, bh, h0, c0)
    return [*found, *twin.backward(cell, x, w, r, h0, c0, tape, dout, dh, dc)]


def found(cell, lengths, reverse, arrays, kind="F32"):
    """The same of pyllm; c is LSTM's alone, elsewhere None."""
    *given, dout, dh, dc = arrays
    tensors = [Tensor(a.copy(), requires_grad=True) for a in given]
    x, w, r, b, bh, h0, c0 = tensors
    c0 = c0 if cell == "lstm" else None
    with ops.autocast("bf16" if kind == "BF16" else "fp32"):
        rows, h, c = ops.recurrent(cell, x, ops.Weights(w, r, b, bh), ops.Steps(lengths), h0, c0, reverse)
        total = (rows * dout).sum() + (h * dh).sum()
        (total if c is None else total + (c * dc).sum()).backward()
    return [rows.data, h.data, None if c is None else c.data, *(t.grad for t in tensors)]


def near(actual, wanted, close, what):
    """Every result within `close` of its norm."""
    for name, a, b in zip(NAMES, actual, wanted, strict=True):
        if a is None:
            assert "c" in name
            continue
        assert a.dtype == np.float32 and a.shape == b.shape and np.isfinite(a).all()
        off = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-3)
        assert off <= close, f"{what}: {name} is {off:.3g} off"


# --- the twin ---


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("reverse", (False, True))
def test_the_twin_of_the_way_back_is_the_slope(cell, reverse):
    lengths = (4, 2, 0)
    arrays = [a.astype(np.float64) for a in inputs(cell, lengths, 3, 2, seed=3)]
    wanted, cotangents = expected(cell, lengths, reverse, arrays)[3:], arrays[7:]

    def total(given):
        results = twin.forward(cell, lengths, reverse, *given)[:3]
        used = zip(results, cotangents, strict=True)
        return sum((y * d).sum() for i, (y, d) in enumerate(used) if i < 2 or cell == "lstm")

    for i, gradient in enumerate(wanted):
        if cell != "lstm" and i == 6:
            continue
        direction = random(gradient.shape, 50 + i).astype(np.float64)
        moved = [[a + s * 1e-6 * direction if j == i else a for j, a in enumerate(arrays[:7])] for s in (1, -1)]
        slope = (total(moved[0]) - total(moved[1])) / 2e-6
        assert slope == pytest.approx((gradient * direction).sum(), rel=1e-6, abs=1e-7)


# --- the kernels ---


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", ("F32", "BF16"))
def test_all_results_are_the_twins(isa, cell, kind):
    cases = [(lengths, units) for lengths in LENGTHS for units in (17,)] + [((5, 5, 4, 1), units) for units in UNITS]
    for (lengths, units), reverse in itertools.product(cases, (False, True)):
        arrays = inputs(cell, lengths, units)
        with using(isa, proof=sum(lengths) > 0):
            actual = found(cell, lengths, reverse, arrays, kind)
        what = f"{cell} {kind} {lengths} {units} {'reverse' if reverse else ''} on {isa}"
        near(actual, wanted_of(cell, lengths, units, reverse), CLOSE[kind], what)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", CELLS)
def test_bf16_products_are_those_of_rounded_operands(isa, cell):
    from reference_blocks import round_bf16

    arrays = inputs(cell, (1, 1), 17)
    arrays[5] = round_bf16(arrays[5])  # GRU's first state is read by the products and beside them
    x, w, r = (round_bf16(a) for a in arrays[:3])
    with using(isa):
        actual = found(cell, (1, 1), False, arrays, "BF16")[0]
    wanted = twin.forward(cell, (1, 1), False, *(a.astype(np.float64) for a in (x, w, r, *arrays[3:7])))[0]
    assert np.abs(actual - wanted).max() < 1e-6 < np.abs(actual - found(cell, (1, 1), False, arrays)[0]).max()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", ("F32", "BF16"))
def test_threads_change_no_bit(isa, cell, kind):
    lengths = (6, *(4,) * 30, 2)
    arrays = inputs(cell, lengths, 50)
    results = []
    for count in (1, 2, 3):
        with using(isa), threads(count):
            results.append(found(cell, lengths, True, arrays, kind))
    for other in results[1:]:
        assert all(a is b is None or same_bits(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", ("F32", "BF16"))
def test_a_sequence_is_the_same_alone_and_in_a_batch(isa, cell, kind):
    lengths, mine = (9, 8, 8, *(5,) * 20, 4, 1), 11
    arrays = inputs(cell, lengths, 33)
    rows = [row for (_, sequence), row in twin.rows_of(lengths).items() if sequence == mine]
    own = [slice(mine, mine + 1)] * 3
    alone = [a[rows] if i in (0, 7) else a[own[0]] if i in (5, 6, 8, 9) else a for i, a in enumerate(arrays)]
    with using(isa):
        batch, single = (found(cell, n, False, a, kind) for n, a in ((lengths, arrays), ((5,), alone)))
    assert same_bits(batch[0][rows], single[0]) and same_bits(batch[3][rows], single[3])  # outputs and dx
    for i in (1, 2, 8, 9):  # states and their gradients
        assert batch[i] is single[i] is None or same_bits(batch[i][own[0]], single[i])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", ("F32", "BF16"))
def test_nan_in_one_sequence_leaves_the_others(cell, kind):
    lengths = (5, 4, 4, 2)
    arrays = inputs(cell, lengths, 17)
    row = twin.rows_of(lengths)
    clean = found(cell, lengths, False, arrays, kind)
    arrays[0][row[1, 1]] = np.nan
    dirty = found(cell, lengths, False, arrays, kind)
    others = [at for (_, sequence), at in row.items() if sequence != 1]
    after = [at for (step, sequence), at in row.items() if sequence == 1 and step >= 1]
    assert same_bits(clean[0][others], dirty[0][others]) and same_bits(clean[3][others], dirty[3][others])
    assert np.isnan(dirty[0][after]).all() and same_bits(clean[0][row[0, 1]], dirty[0][row[0, 1]])
    keep = [0, 2, 3]
    assert same_bits(clean[1][keep], dirty[1][keep]) and np.isnan(dirty[1][1]).all()


@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_without_a_step_keeps_its_state(cell):
    arrays = inputs(cell, (3, 0), 5)
    actual = found(cell, (3, 0), True, arrays)
    assert same_bits(actual[1][1], arrays[5][1]) and same_bits(actual[8][1], arrays[8][1])
    if cell == "lstm":
        assert same_bits(actual[2][1], arrays[6][1]) and same_bits(actual[9][1], arrays[9][1])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("reverse", (False, True))
def test_no_first_state_and_no_bias_are_zeros(cell, reverse):
    lengths = (5, 5, 2, 1)
    arrays = inputs(cell, lengths, 17)
    zeros = [np.zeros_like(a) if i in (3, 4, 5, 6) else a for i, a in enumerate(arrays)]
    wanted = found(cell, lengths, reverse, zeros)
    x, w, r = (Tensor(a.copy(), requires_grad=True) for a in arrays[:3])
    rows, h, c = ops.recurrent(cell, x, ops.Weights(w, r), ops.Steps(lengths), reverse=reverse)
    total = (rows * arrays[7]).sum() + (h * arrays[8]).sum()
    (total if c is None else total + (c * arrays[9]).sum()).backward()
    for a, b in zip((rows.data, h.data, x.grad, w.grad, r.grad), (*wanted[:2], *wanted[3:6]), strict=True):
        assert np.linalg.norm(a - b) <= 1e-6 * max(np.linalg.norm(b), 1e-3)


def test_one_result_alone_is_enough_for_the_way_back():
    arrays = inputs("lstm", (3, 2), 5)
    for used in range(3):
        cotangents = [a if i == used else np.zeros_like(a) for i, a in enumerate(arrays[7:])]
        wanted = expected("lstm", (3, 2), False, [*arrays[:7], *cotangents])
        tensors = [Tensor(a.copy(), requires_grad=True) for a in arrays[:7]]
        results = ops.recurrent("lstm", tensors[0], ops.Weights(*tensors[1:5]), ops.Steps((3, 2)), *tensors[5:])
        results[used].backward(cotangents[used])
        for tensor, gradient in zip(tensors, wanted[3:], strict=True):
            assert np.linalg.norm(tensor.grad - gradient) <= 2e-6 * max(np.linalg.norm(gradient), 1e-3)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("front", (False, True))
def test_nothing_beyond_the_arrays_is_touched(cell, front):
    lengths, units = (3, 3, 2), 17
    sizes = ops.Steps(lengths).sizes
    x, w, r, b, bh, h0, c0, dout, _, dc = inputs(cell, lengths, units)
    for isa in ISAS:
        gates, first, first_c, dout, dc, r = (guarded(a, front) for a in (x @ w.T + b, h0, c0, dout, dc, r))
        inner_bias = guarded(bh[:units], front)
        order = len(lengths), sizes, False, "F32"
        with using(isa):
            h, c, inner = _core.recurrent_forward(cell, gates, r, inner_bias, first, first_c, *order)
            h, c, inner = (None if a is None else guarded(a, front) for a in (h, c, inner))
            _core.recurrent_backward(cell, dout, dc, gates, r, h, c, inner, first, first_c, *order)
        assert np.isfinite(gates).all()


def test_training_on_batches_of_ever_other_lengths_holds_no_more_memory():
    """Of the campaign whose 10,000 batches RESULTS.md tells, some hundreds: what a batch leaves is less than 5 KB."""
    script = Path(__file__).resolve().parent.parent / "benchmarks" / "recurrent_memory.py"
    argv = [sys.executable, str(script), "--batches", "400", "--cell", "lstm", "gru"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_batches_of_ever_other_lengths_pile_up_no_memory():
    ops.forget_panels()
    for n in range(1, 60):
        arrays = inputs("lstm", (n + 1, n), 5)
        found("lstm", (n + 1, n), False, arrays)
    kept = [weight.nbytes for shape in panels._local.spare.values() for weight in shape]
    assert len(kept) <= 24 and sum(kept) < 24 * 64 * 125
    ops.forget_panels()


def test_steps_say_which_rows_belong_together():
    steps = ops.Steps((4, 2, 0))
    assert steps.sizes.tolist() == [2, 2, 1, 1] and steps.starts.tolist() == [0, 2, 4, 5, 6] and steps.rows == 6
    assert steps.last(False).tolist() == [5, 3] and steps.last(True).tolist() == [0, 1]
    assert [a.tolist() for a in steps.places] == [[0, 0, 1, 1, 2, 3], [0, 1, 0, 1, 0, 0]]
    assert ops.Steps(()).rows == 0


WRONG = {
    "cell": (lambda g: ops.recurrent("elman", *g), "cell 'elman', allowed are tanh, relu, lstm, gru"),
    "x": (lambda g: ops.recurrent("gru", g[0][:, :4], *g[1:]), r"gru: x \(6, 4\), allowed is \(6, 5\)"),
    "rows": (lambda g: ops.recurrent("gru", g[0][:4], *g[1:]), r"gru: x \(4, 5\), allowed is \(6, 5\)"),
    "hidden": (
        lambda g: ops.recurrent("gru", g[0], g[1]._replace(hidden=np.ones((9, 4))), g[2]),
        r"hidden weight \(9, 4\), allowed is \(3 \* units, units\)",
    ),
    "input": (
        lambda g: ops.recurrent("gru", g[0], g[1]._replace(inputs=np.ones((8, 5))), g[2]),
        r"input weight \(8, 5\), allowed is \(9, inputs\)",
    ),
    "bias": (
        lambda g: ops.recurrent("gru", g[0], g[1]._replace(input_bias=np.ones(8)), g[2]),
        r"input bias has shape \(8,\), allowed is \(9,\)",
    ),
    "state": (lambda g: ops.recurrent("gru", *g, np.ones((3, 3))), r"first \(3, 3\), allowed is \(2, 3\)"),
    "ascending": (lambda g: ops.Steps((1, 2)), r"lengths \(1, 2\), allowed are whole numbers that do not ascend"),
    "negative": (lambda g: ops.Steps((1, -1)), "allowed are whole numbers that do not ascend"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused(what):
    x, w, r, b, bh, *_ = inputs("gru", (3, 3), 3)
    with pytest.raises(ValueError, match=WRONG[what][1]):
        WRONG[what][0]((x, ops.Weights(w, r, b, bh), ops.Steps((3, 3))))


def test_the_core_refuses_what_does_not_fit():
    gates, r = random((4, 9), 0), random((9, 3), 1)
    order = 2, np.array([2, 2]), False, "F32"
    good = ["gru", gates, r, None, None, None, *order]
    changed = {
        0: ("what", "cell"), 1: (gates[:3], r"gates \(3, 9\)"), 2: (r[:8], r"weight \(8, 3\)"),
        3: (np.ones(4, np.float32), r"inner_bias \(4,\)"), 4: (np.ones((2, 4), np.float32), r"first \(2, 4\)"),
        6: (1, "sizes 2 at 0"), 7: (np.array([1, 2]), "sizes 2 at 1"), 9: ("F16", "type"),
    }  # fmt: skip
    _core.recurrent_forward(*good)
    for i, (value, message) in changed.items():
        with pytest.raises(ValueError, match=message):
            _core.recurrent_forward(*good[:i], value, *good[i + 1 :])
    h, _, inner = _core.recurrent_forward(*good)
    for c, kept, message in ((None, None, "inner is None"), (None, inner[:3], r"inner \(3, 3\)")):
        with pytest.raises(ValueError, match=message):
            _core.recurrent_backward("gru", h, None, gates, r, h, c, kept, None, None, *order)
    with pytest.raises(TypeError, match="gates is float64"):
        _core.recurrent_forward(*good[:1], gates.astype(np.float64), *good[2:])
