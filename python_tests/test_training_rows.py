"""Row-wise kernels of training on every instruction set, against float64 twins that are checked by differences."""

import numpy as np
import pytest
import reference as ref
import reference_training_rows as twin
from kernel_checks import ISAS, check, guarded, random, same_bits, threads, using

from pyllm import _core
from pyllm.ops.record import Recorder

ACTS = ("none", "silu", "gelu", "gelu_tanh", "softcap", "relu", "tanh", "sigmoid")
LENGTHS = (*range(1, 34), 255, 256, 257, 1000)
SHAPES = [(3, n) for n in LENGTHS] + [(rows, 33) for rows in (1, 31, 32, 33, 64, 1100)] + [(2, 3, 5, 64), (40, 576)]
WORKERS = (1, 2, 3)


def difference(f, x, step=1e-5):
    """d f / d x for a scalar f, by central differences in float64, one number of x after the other."""
    slope = np.empty(x.size)
    for i in range(x.size):
        up, down = x.copy(), x.copy()
        up.flat[i] += step
        down.flat[i] -= step
        slope[i] = (f(up) - f(down)) / (2 * step)
    return slope.reshape(x.shape)


def near(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


# --- the twins' derivatives ---


@pytest.mark.parametrize("layer", [False, True])
def test_the_twin_of_norm_backward_is_the_slope_of_the_norm(layer):
    draw = np.random.default_rng(1)
    x, dy, weight, bias = (draw.standard_normal(s) for s in ((3, 7), (3, 7), 7, 7))
    dx, dweight, dbias = twin.norm_backward(dy, x, weight, 1e-3, layer)
    near(dx, difference(lambda t: (dy * twin.norm(t, weight, bias, 1e-3, layer)).sum(), x))
    near(dweight, difference(lambda t: (dy * twin.norm(x, t, bias, 1e-3, layer)).sum(), weight))
    near(dbias, difference(lambda t: (dy * twin.norm(x, weight, t, 1e-3, layer)).sum(), bias))


@pytest.mark.parametrize("act", ACTS)
def test_the_twin_of_a_slope_is_the_slope(act):
    x = np.linspace(-9, 9, 181) + 0.013
    near(twin.slope(x, act, 2.5), difference(lambda t: twin.activation(t, act, 2.5).sum(), x))


def test_the_twins_of_softmax_and_loss_are_the_slopes():
    draw = np.random.default_rng(2)
    x, dy = draw.standard_normal((4, 9)), draw.standard_normal((4, 9))
    near(twin.softmax_backward(dy, ref.softmax(x)), difference(lambda t: (dy * ref.softmax(t)).sum(), x))
    targets, weights = np.array([3, -100, 0, 8]), draw.random(4)
    for smoothing in (0.0, 0.1):
        slope = difference(lambda t, s=smoothing: 0.7 * (weights * twin.losses(t, targets, s)).sum(), x)
        near(twin.loss_gradient(x, targets, weights, smoothing, 0.7), slope)


# --- kernels within their bounds ---


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("layer", [False, True])
@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (1e-3, 0.0), (100.0, 0.0), (1.0, 50.0)])
def test_norm_backward_is_within_its_bound(isa, layer, scale, shift):
    for seed, shape in enumerate(SHAPES):
        x, dy, weight = random(shape, seed, scale) + np.float32(shift), random(shape, seed + 1), random(shape[-1:], 7)
        with using(isa):
            found = _core.norm_backward(dy, x, weight, True, 1e-5, layer)
            assert _core.norm_backward(dy, x, weight, False, 1e-5, layer)[2] is None
        expected = twin.norm_backward(dy, x, weight, np.float32(1e-5), layer)
        bounds = twin.norm_backward_bounds(dy, x, weight, np.float32(1e-5), layer)
        for a, b, bound in zip(found, expected, bounds, strict=True):
            within(a, b, bound)


def within(actual, expected, bound):
    """kernel_checks.check for arrays that may rightly be zeros, as one number's layer norm is."""
    if np.abs(expected).max(initial=0) > 0 and expected.size > 8:
        return check(actual, expected, bound)
    assert actual.dtype == np.float32 and actual.shape == expected.shape
    assert (np.abs(actual - expected) <= bound).all()


def element_inputs():
    """Every sign and exponent, and a fine grid around zero."""
    spread = np.concatenate([np.ldexp(f, np.arange(-126, 120)) for f in (1.0, 1.37)])
    return np.concatenate([spread, -spread, np.linspace(-12, 12, 4001), [0.0, -0.0, 88, -88]]).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("act", ACTS)
def test_slopes_are_within_their_bounds_everywhere(isa, act):
    x = element_inputs()
    for cap in (1.0, 30.0) if act == "softcap" else (1.0,):
        with using(isa):
            dx, dup = _core.map_backward(np.ones_like(x), x, None, act, cap)
        assert dup is None and np.isfinite(dx).all()
        assert (np.abs(dx - twin.slope(x, act, cap)) <= twin.slope_bound(x, act, cap)).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("act", ACTS)
def test_map_backward_is_within_its_bound(isa, act):
    for n in (*LENGTHS, 50257):
        x, dy, up = random((n,), n, 3.0), random((n,), n + 1), random((n,), n + 2)
        with using(isa):
            y = _core.map(x, None, act, 2.0)
            alone, _ = _core.map_backward(dy, x, None, act, 2.0)
            dx, dup = _core.map_backward(dy, x, up, act, 2.0)
        value, slope = twin.activation(x, act, 2.0), twin.slope(x, act, 2.0)
        of_value, of_slope = twin.activation_bound(x, act, 2.0), twin.slope_bound(x, act, 2.0)
        assert (np.abs(y - value) <= of_value).all()
        for found, exact, bound, factors in (
            (alone, slope, of_slope, ref.f64(dy)),
            (dx, slope, of_slope, ref.f64(dy) * up),
            (dup, value, of_value, ref.f64(dy)),
        ):
            total = np.abs(factors) * bound
            total = total + twin.gamma(3) * (np.abs(factors * exact) + total) + twin.TINY
            assert (np.abs(found - factors * exact) <= total).all()


@pytest.mark.parametrize("isa", ISAS)
def test_new_activations_take_edges_and_keep_nan(isa):
    edges = np.array([-np.inf, -1e30, -0.0, 0.0, 1e30, np.inf, np.nan], np.float32)
    with using(isa):
        relu, tanh, sigmoid = (_core.map(edges, None, act) for act in ("relu", "tanh", "sigmoid"))
        slopes = [_core.map_backward(np.ones_like(edges), edges, None, act)[0] for act in ("silu", "tanh", "gelu")]
    assert np.array_equal(relu[:6], np.maximum(edges[:6], 0))
    assert np.array_equal(tanh[:6], [-1, -1, 0, 0, 1, 1])
    assert np.array_equal(sigmoid[:6], [0, 0, 0.5, 0.5, 1, 1])
    assert np.isnan([relu[6], tanh[6], sigmoid[6]]).all()
    assert all(np.isnan(s[6]) and np.isfinite(s[1:5]).all() for s in slopes)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("act", ["relu", "tanh", "sigmoid"])
def test_a_product_ends_in_the_new_activations(isa, act):
    """A recorded product with the activation as its epilogue gives the bits of the two apart."""
    table, weight, ids = random((9, 40), 1), random((48, 40), 2), np.arange(9, dtype=np.int32)
    with using(isa, proof=False):
        recorder = Recorder((1, 1, 16, "F32"), 64)
        x = recorder.tokens.embedding(float_weight(table))
        (y,) = x.linear(None, [(float_weight(weight), None, "activate")], act=act)
        y.logits(None, float_weight(np.eye(48, dtype=np.float32)))
        program = recorder.finish()
        found = program.run([(_core.Sequence(_core.Pool(program)), ids, 9)])
        apart = _core.map(_core.linear(table, float_weight(weight)), None, act)
    assert np.array_equal(found, apart) and np.unique(found).size > 100


def float_weight(x):
    weight = _core.Weight("F32", *x.shape)
    weight.fill_floats(x)
    return weight


@pytest.mark.parametrize("isa", ISAS)
def test_softmax_backward_is_within_its_bound(isa):
    for seed, shape in enumerate([*SHAPES, (2, 50257)]):
        y, dy = ref.softmax(random(shape, seed, 3.0)).astype(np.float32), random(shape, seed + 1)
        with using(isa):
            dx = _core.softmax_backward(dy, y)
        within(dx, twin.softmax_backward(dy, y), twin.softmax_backward_bound(dy, y))


@pytest.mark.parametrize("isa", ISAS)
def test_column_sums_are_within_their_bound(isa):
    for seed, shape in enumerate([*SHAPES, (5000, 3), (70, 1100)]):
        x = random(shape, seed) + np.float32(0.5)
        with using(isa):
            y = _core.column_sums(x)
        check(y, ref.f64(x).sum(axis=tuple(range(x.ndim - 1))), twin.column_sums_bound(x))
    with using(isa):
        assert np.array_equal(_core.column_sums(np.ones((0, 5), np.float32)), np.zeros(5))


@pytest.mark.parametrize("isa", ISAS)
def test_embedding_backward_adds_in_order(isa):
    for d in (1, 15, 16, 33, 257):
        ids, dy, into = np.random.default_rng(d).integers(0, 11, (4, 50)), random((4, 50, d), d), random((11, d), d + 1)
        expected = into.copy()
        np.add.at(expected, ids.ravel(), dy.reshape(-1, d))  # in float32, token after token: the same bits
        with using(isa):
            assert _core.embedding_backward(dy, ids.astype(np.int32), into) is None
        assert same_bits(into, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_is_within_its_bound(isa, smoothing):
    for vocabulary in (*LENGTHS, 4095, 4096, 4097, 50257):
        rows = 5
        logits = random((rows, vocabulary), vocabulary, 4.0) + np.float32(3)
        targets = np.random.default_rng(vocabulary).integers(0, vocabulary, rows)
        targets[1] = -100
        weights, scale = np.random.default_rng(1).random(rows).astype(np.float32), 0.37
        gradient = logits.copy()
        with using(isa):
            losses = _core.cross_entropy(gradient, targets, weights, smoothing, scale)
            alone = _core.cross_entropy_losses(logits, targets, smoothing)
        e, s = float(np.float32(smoothing)), float(np.float32(scale))
        assert same_bits(losses, alone) and losses[1] == 0 and not gradient[1].any()
        assert (np.abs(losses - twin.losses(logits, targets, e)) <= twin.losses_bound(logits, targets, e)).all()
        expected = twin.loss_gradient(logits, targets, weights, e, s)
        assert (np.abs(gradient - expected) <= twin.loss_gradient_bound(logits, targets, weights, e, s)).all()


@pytest.mark.parametrize("isa", ISAS)
def test_cross_entropy_takes_the_largest_vocabulary_masks_and_nan(isa):
    x = random((3, 262144), 1, 2.0)
    x[0, :8192] = -np.inf  # two whole blocks masked
    x[1, 5000:] = np.linspace(0, 80, 262144 - 5000)  # every block has a new maximum
    x[2, 77] = np.nan
    targets, gradient = np.array([100000, 262143, 5]), x.copy()
    with using(isa):
        losses = _core.cross_entropy(gradient, targets)
    with np.errstate(invalid="ignore"):
        bound = twin.losses_bound(x[:, 8192:], targets - 8192)
        assert (np.abs(losses - twin.losses(x, targets))[:2] <= bound[:2]).all()
        assert np.abs(gradient[:2] - twin.loss_gradient(x, targets, np.ones(3), 0, 1)[:2]).max() < 1e-5
    assert not gradient[0, :8192].any() and np.isnan(losses[2]) and np.isnan(gradient[2]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("offset", [0, 1, 3, 62, 64, 2**32 * 4 - 5, 2**63 + 7])
def test_dropout_is_exact(isa, offset):
    seed, stream = 0x123456789ABCDEF0, 0xFEDCBA9876543210
    block = _core.philox4x32([7, 0, stream & 0xFFFFFFFF, stream >> 32], [seed & 0xFFFFFFFF, seed >> 32])
    assert twin.philox(np.arange(7, 64, 16, dtype=np.uint64), seed, stream).tolist() == block
    for n in LENGTHS:
        x = random((n,), n)
        with using(isa):
            for p in (0.0, 0.1, 0.5, 0.9):
                assert same_bits(_core.dropout(x, p, seed, stream, offset), twin.dropout(x, p, seed, stream, offset))
            parts = [_core.dropout(x[a:b].copy(), 0.3, seed, 2, offset + a) for a, b in ((0, n // 3), (n // 3, n))]
            assert same_bits(np.concatenate(parts), _core.dropout(x, 0.3, seed, 2, offset))


def test_dropout_keeps_as_often_as_said():
    x = np.ones(400000, np.float32)
    for p in (0.1, 0.5, 0.9):
        y = _core.dropout(x, p, 3, 1)
        assert abs(np.mean(y == 0) - p) < 5 * np.sqrt(p * (1 - p) / x.size)  # five standard deviations
    assert same_bits(_core.dropout(x, 0.0, 3, 1), x)
    assert not same_bits(_core.dropout(x, 0.5, 3, 1), _core.dropout(x, 0.5, 3, 2))
    assert not same_bits(_core.dropout(x, 0.5, 3, 1), _core.dropout(x, 0.5, 4, 1))


@pytest.mark.parametrize("isa", ISAS)
def test_sum_of_squares_is_exact_to_double(isa):
    for n in (0, *LENGTHS, 4095, 4096, 4097, 50257):
        for scale in (1.0, 1e-30, 1e30):  # squares that float32 could not hold
            x = random((n,), n, scale)
            with using(isa):
                found = _core.sum_of_squares(x)
            assert abs(found - (ref.f64(x) ** 2).sum()) <= 1e-13 * found
    with using(isa):
        assert _core.sum_of_squares(np.array([1, np.inf], np.float32)) == np.inf
        assert np.isnan(_core.sum_of_squares(np.array([1, np.nan] + [0] * 40, np.float32)))


@pytest.mark.parametrize("isa", ISAS)
def test_adamw_is_within_its_bound(isa):
    for n in (*LENGTHS, 50257):
        p, g, m, v = random((n,), n), random((n,), 1), random((n,), 2, 0.1), random((n,), 3, 0.1) ** 2
        for options in ((1e-3, 0.9, 0.999, 1e-8, 0.1, 1, 1.0), (0.02, 0.8, 0.95, 1e-6, 0.0, 7, 0.125)):
            expected, bounds = twin.adamw(p, g, m, v, *options)
            found = p.copy(), m.copy(), v.copy()
            with using(isa):
                assert _core.adamw(found[0], g, *found[1:], *options) is None
            for a, b, bound in zip(found, expected, bounds, strict=True):
                check(a, b, bound)


@pytest.mark.parametrize("isa", ISAS)
def test_sgd_is_within_its_bound(isa):
    for n in (*LENGTHS, 50257):
        p, g, m = random((n,), n), random((n,), 1), random((n,), 2)
        for start, momentum, decay, nesterov, first in (
            (None, 0.0, 0.0, False, False),
            (None, 0.0, 0.1, False, True),
            (m, 0.9, 0.1, False, False),
            (m, 0.9, 0.1, True, False),
            (m, 0.9, 0.0, True, True),
        ):
            rest = (0.1, momentum, decay, nesterov, 0.5, first)
            expected, bounds = twin.sgd(p, g, start, *rest)
            found = p.copy(), None if start is None else start.copy()
            with using(isa):
                assert _core.sgd(found[0], g, found[1], *rest) is None
            for a, b, bound in zip(found, expected, bounds, strict=True):
                if b is not None:
                    check(a, b, bound)


@pytest.mark.parametrize("isa", ISAS)
def test_axpy_is_within_its_bound(isa):
    for n in (*LENGTHS, 50257):
        x, into = random((n,), n), random((n,), n + 1)
        expected = into + np.float64(np.float32(0.3)) * x
        bound = twin.gamma(2) * (np.abs(ref.f64(into)) + np.abs(0.3 * ref.f64(x))) + twin.TINY
        with using(isa):
            _core.axpy(x, 0.3, into)
        check(into, expected, bound)


# --- the same bytes for any number of workers; nothing beyond the ends ---


def everything(place=lambda x: x):
    """Bytes of all kernels on arrays that are large enough for several workers; `place` puts each into memory."""
    x, dy = place(random((700, 257), 1)), place(random((700, 257), 2))
    weight, ids = place(random((257,), 3)), place(np.random.default_rng(4).integers(0, 9, 700).astype(np.int32))
    into, logits = place(random((9, 257), 5)), place(random((700, 257), 6, 4.0))
    targets = place(np.random.default_rng(7).integers(0, 257, 700))
    p, m, v, q = (place(a) for a in (random((700, 257), 8), random((700, 257), 9), dy**2, random((700, 257), 10)))
    found = [a for layer in (True, False) for a in _core.norm_backward(dy, x, weight, True, 1e-5, layer)]
    for act in ACTS:
        found += _core.map_backward(dy, x, logits, act, 2.0)
    found += [_core.softmax_backward(dy, x), _core.column_sums(x), _core.dropout(x, 0.1, 5, 6, 3)]
    found.append(np.float64(_core.sum_of_squares(x)))
    found += [_core.cross_entropy_losses(logits, targets, 0.1), _core.cross_entropy(logits, targets, None, 0.1, 0.5)]
    _core.embedding_backward(dy, ids, into)
    _core.adamw(p, dy, m, v, 1e-3, 0.9, 0.99, 1e-8, 0.1, 3, 0.5)
    _core.sgd(q, dy, m, 0.1, 0.9, 0.1, True, 0.5)
    _core.axpy(x, 0.3, q)
    return [a.tobytes() for a in (*found, logits, into, p, m, v, q)]


@pytest.mark.parametrize("isa", ISAS)
def test_workers_change_no_bit(isa):
    with using(isa):
        with threads(1):
            alone = everything()
        for workers in WORKERS[1:]:
            with threads(workers):
                assert everything() == alone


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("front", [False, True])
def test_nothing_beyond_the_ends_is_touched(isa, front):
    with using(isa):
        assert everything(lambda x: guarded(x, front)) == everything()


def test_dropout_is_the_same_on_every_instruction_set():
    x = random((1000,), 1)
    found = set()
    for isa in ISAS:
        with using(isa):
            found.add(_core.dropout(x, 0.3, 1, 2, 5).tobytes() + np.float64(_core.sum_of_squares(x)).tobytes())
    assert len(found) == 1
