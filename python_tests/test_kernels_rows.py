"""Norms, softmax, activations and rotary positions on every instruction set, against float64 twins."""
import cases
import numpy as np
import pytest
import reference as ref
from kernel_checks import ISAS, check, random, same_bits, threads, using

from pyllm import _core, ops

SHAPES = [(3, n) for n in cases.LENGTHS] + [(rows, 33) for rows in cases.ROWS] + [(2, 576), (1, 1536), (2, 3, 5, 64)]
SPREADS = ((1.0, 0.0), (1e-3, 0.0), (100.0, 0.0), (1.0, 50.0))  # (scale, shift)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("scale, shift", SPREADS)
def test_norms_are_within_their_bounds(isa, scale, shift):
    for seed, shape in enumerate(SHAPES):
        x = random(shape, seed, scale) + np.float32(shift)
        weight, bias = random(shape[-1:], seed + 1), random(shape[-1:], seed + 2)
        with using(isa):
            rms = ops.rms_norm(x, weight, 1e-5)
            layer = ops.layer_norm(x, weight, bias)
            bare = ops.layer_norm(x, weight, eps=1e-3)
        check(rms, ref.rms_norm(x, weight, 1e-5), ref.rms_norm_bound(x, weight, 1e-5))
        check(layer, ref.layer_norm(x, weight, bias), ref.layer_norm_bound(x, weight, bias))
        check(bare, ref.layer_norm(x, weight, None, 1e-3), ref.layer_norm_bound(x, weight, None, 1e-3))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("scale", [1.0, 20.0, 1e-3])
def test_softmax_is_within_its_bound(isa, scale):
    for seed, shape in enumerate(SHAPES):
        x = random(shape, seed, scale)
        with using(isa):
            y = ops.softmax(x)
        check(y, ref.softmax(x), ref.softmax_bound(x))
        assert np.allclose(y.astype(np.float64).sum(axis=-1), 1, atol=(shape[-1] + 1) * ref.U * 2)


@pytest.mark.parametrize("isa", ISAS)
def test_softmax_takes_masked_and_far_values(isa):
    x = np.array([[0, -np.inf, 1, -np.inf], [1e30, 0, -1e30, 1e30], [-1e30, -1e30, -1e30, -1e30]], np.float32)
    with using(isa):
        y = ops.softmax(x)
    assert np.array_equal(y[0, [1, 3]], [0, 0])
    assert np.array_equal(y[1], [0.5, 0, 0, 0.5])
    assert np.array_equal(y[2], [0.25] * 4)


def element_inputs():
    """Every sign and exponent with a few fractions, a fine grid around zero, and the exact edges."""
    exponents = np.ldexp(1.0, np.arange(-149, 128))
    spread = np.concatenate([exponents * f for f in (1, 1.1, 1.37, 1.73)])
    grid = np.linspace(-12, 12, 24001)
    values = np.concatenate([spread, -spread, grid, [0.0, -0.0, 88.7, -88.7, 104.0, -104.0]])
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    return values[np.isfinite(values) & (np.abs(values) < 1e37)]


@pytest.mark.parametrize("isa", ISAS)
def test_elementwise_functions_are_within_their_bounds(isa):
    x = element_inputs()
    with using(isa):
        silu, exact, by_tanh = ops.silu(x), ops.gelu(x), ops.gelu(x, approximate="tanh")
    check(silu, ref.silu(x), ref.silu_bound(x))
    check(exact, ref.gelu(x), ref.gelu_bound(x))
    with np.errstate(over="ignore"):
        check(by_tanh, ref.gelu(x, "tanh"), ref.gelu_bound(x, "tanh"))


@pytest.mark.parametrize("isa", ISAS)
def test_elementwise_lengths_and_swiglu(isa):
    for n in cases.LENGTHS:
        gate, up = random((n,), n, 3.0), random((n,), n + 1)
        with using(isa):
            y, alone = ops.swiglu(gate, up), ops.silu(gate)
        check(y, ref.swiglu(gate, up), ref.swiglu_bound(gate, up))
        check(alone, ref.silu(gate), ref.silu_bound(gate))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cap", [1e-3, 1.0, 30.0, 50.0])
def test_softcap_is_within_its_bound(isa, cap):
    x = element_inputs()
    with using(isa):
        y = ops.softcap(x, cap)
        assert np.isnan(ops.softcap(np.full(17, np.nan), cap)).all()
    check(y, ref.softcap(x, cap), ref.softcap_bound(x, cap))
    assert np.abs(y).max() <= np.float32(cap)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_add_norm_is_within_its_bound(isa, kind):
    for seed, shape in enumerate(SHAPES):
        x, residual = random(shape, seed, 3.0), random(shape, seed + 1)
        weight, bias = random(shape[-1:], seed + 2), random(shape[-1:], seed + 3) if kind == "layer" else None
        with using(isa):
            y = ops.add_norm(residual, x, ops.Norm(kind, weight, bias, 1e-5))
        arguments = (x, weight, 1e-5) if kind == "rms" else (x, weight, bias, 1e-5)
        normed, bound = getattr(ref, f"{kind}_norm")(*arguments), getattr(ref, f"{kind}_norm_bound")(*arguments)
        check(y, residual + normed, bound + ref.U * (np.abs(residual + normed) + bound))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dim", [2, 14, 16, 20, 64, 72, 128])
def test_heads_are_normalised_and_turned_within_their_bound(isa, dim):
    weights = random((2, dim), 1) + np.float32(1)
    frequency, _ = ref.rotary_frequencies(dim, 10000.0)
    for rows, heads, groups in ((1, 1, 1), (3, 4, 2), (70, 3, 1)):
        parts = random((rows, heads, dim), dim, 5.0), random((rows, groups, dim), dim + 1)
        with using(isa):
            turned = _core.heads(*parts, *weights, 1e-6, ops.rotary_table(frequency, dim, rows))
        for x, weight, y in zip(parts, weights, turned, strict=True):
            check(y, ref.heads(x, weight, 1e-6, frequency), ref.heads_bound(x, weight, 1e-6, frequency))
        with threads(1), using(isa):
            alone = _core.heads(*parts, *weights, 1e-6, ops.rotary_table(frequency, dim, rows))
        assert all(same_bits(a, b) for a, b in zip(alone, turned, strict=True))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["silu", "gelu", "softmax"])
def test_nan_is_not_hidden(isa, name):
    x = random((4, 33), 9)
    x[2, 17] = np.nan
    with using(isa):
        y = getattr(ops, name)(x)
    assert np.isnan(y[2, 17])
    assert np.isfinite(y[[0, 1, 3]]).all()


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_alone_has_the_bits_it_has_among_others(isa):
    for n in (1, 17, 64, 257):
        x, weight, bias = random((13, n), n), random((n,), 1), random((n,), 2)
        functions = (
            lambda v, weight=weight: ops.rms_norm(v, weight, 1e-5),
            lambda v, weight=weight, bias=bias: ops.layer_norm(v, weight, bias),
            ops.softmax,
            ops.silu,
            ops.gelu,
        )
        with using(isa):
            for function in functions:
                whole = function(x)
                for i in range(13):
                    assert same_bits(function(x[i : i + 1].copy()), whole[i : i + 1])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim", [2, 8, 24, 64, 80, 128])
def test_rotary_is_within_its_bound(isa, interleaved, dim):
    positions = np.array([0, 1, 2, 63, 64, 1000, 8191])
    x = random((2, len(positions), 3, dim), dim)
    frequency, _ = ref.rotary_frequencies(dim, 10000.0)
    with using(isa):
        y = ops.rotary(x, positions, theta=10000.0, interleaved=interleaved)
    inner, arguments = x.swapaxes(1, 2), (positions, frequency, interleaved)
    check(y.swapaxes(1, 2), ref.rotary(inner, *arguments), ref.rotary_bound(inner, *arguments, angle_roundings=0))
    assert np.array_equal(y[:, 0], x[:, 0])
