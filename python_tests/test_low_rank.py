"""Kernels under adapters: turned panels, products of low rank, activations of bf16."""

import cases
import numpy as np
import pytest
import reference as ref
import reference_blocks as blocks
from kernel_checks import ISAS, check, guarded, packed, random, same_bits, threads, using

from pyllm import _core

ALL = [(isa, dtype) for isa in ISAS for dtype in cases.TYPES]


def weight_of(dtype, n, k, seed=1):
    return packed(dtype, blocks.random_rows(dtype, n, k, seed=seed), k)


# --- rows of a packed matrix as panels of its transpose ---


@pytest.mark.parametrize(("isa", "dtype"), ALL)
def test_turned_rows_are_the_transpose_in_bf16(isa, dtype):
    k = 256 if dtype in cases.QUANTISED else 33
    weight = weight_of(dtype, 53, k)
    with using(isa, proof=False):
        for row, rows in ((0, 53), (16, 16), (32, 21), (48, 5), (0, 1)):
            part = _core.Weight("BF16", k, rows)
            part.fill_turned(weight, row)
            expected = blocks.round_bf16(weight.dequantise(row, rows)).T
            # Numbers below 1e-38 may have become zero, as products of bf16 take them.
            np.testing.assert_allclose(part.dequantise(0, k), expected, rtol=0, atol=1.2e-38)
            if dtype == "F32":
                exact = _core.Weight("F32", k, rows)
                exact.fill_turned(weight, row)
                assert same_bits(exact.dequantise(0, k), weight.dequantise(row, rows).T)


def test_what_does_not_fit_is_not_turned():
    weight = weight_of("Q4_1", 48, 64)
    for target, row in (("BF16", 8), ("BF16", -16), ("BF16", 48), ("F32", 0)):
        with pytest.raises(ValueError, match="turned into"):
            _core.Weight(target, 64, 16).fill_turned(weight, row)
    with pytest.raises(ValueError, match=r"turned into \(63, 16\)"):
        _core.Weight("BF16", 63, 16).fill_turned(weight, 0)


# --- h^T x ---


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("across", [False, True])
def test_sums_of_few_columns(isa, across):
    shapes = [(rows, r, k) for rows in (1, 31, 33, 100) for r, k in ((1, 5), (4, 16), (16, 33), (21, 300))]
    for seed, (rows, r, k) in enumerate(shapes):
        h, x = random((rows, r), seed), random((rows, k), seed + 50)
        exact, bound = ref.linear(h.T, x.T), ref.linear_bound(h.T, x.T)
        start = random((k, r) if across else (r, k), 7)
        with using(isa):
            fresh, more = np.empty_like(start), start.copy()
            _core.outer(guarded(h), guarded(x), fresh, across=across)
            _core.outer(h, x, more, True, across)
        check(fresh.T if across else fresh, exact, bound)
        np.testing.assert_allclose(more, start + fresh, rtol=1e-6, atol=1e-6)
        with using(isa), threads(3):
            again = np.empty_like(start)
            _core.outer(h, x, again, across=across)
        assert same_bits(again, fresh)
    with pytest.raises(ValueError, match=r"outer: h \(3, 2\), x \(4, 5\)"):
        _core.outer(np.ones((3, 2), np.float32), np.ones((4, 5), np.float32), np.empty((2, 5), np.float32))


# --- products with one of low rank added ---


def product(weights, x, a, b, **options):
    """(all y, all h) of weights that share x, each with its A (bf16, but of F32) and B."""
    lows = []
    for weight, down, up in zip(weights, a, b, strict=True):
        pair = _core.Weight("F32" if weight.dtype == "F32" else "BF16", *down.shape), _core.Weight("F32", *up.shape)
        pair[0].fill_floats(down)
        pair[1].fill_floats(up)
        lows.append(pair)
    return _core.linears(x, weights, [None] * len(weights), lows=lows, **options)


@pytest.mark.parametrize(("isa", "dtype"), [(isa, dtype) for isa in ISAS for dtype in ("F32", "BF16", "Q4_1", "Q6_K")])
def test_products_take_one_of_low_rank_on_top(isa, dtype):
    for rows, rank in ((1, 4), (7, 16), (65, 5)):
        x = random((rows, 256), rows)
        weights = [weight_of(dtype, n, 256, n) for n in (40, 16, 33)]
        a = [random((rank, 256), 1 + i, 0.1) for i in range(3)]
        b = [random((n, rank), 5 + i) for i, n in enumerate((40, 16, 33))]
        with using(isa):
            ys, hs = product(weights, x, a, b)
            plain = [_core.linear(x, weight) for weight in weights]
        for y, h, p, down, up in zip(ys, hs, plain, a, b, strict=True):
            read = x if dtype == "F32" else blocks.round_bf16(x)
            down = down if dtype == "F32" else blocks.round_bf16(down)
            check(h, ref.linear(read, down), ref.linear_bound(read, down) + 1e-30)
            expected = p.astype(np.float64) + ref.linear(h, up)
            check(y, expected, 2 * ref.linear_bound(h, up) + 4e-7 * np.abs(expected) + 1e-6 * np.abs(p).max())
        with using(isa), threads(3):
            again = product(weights, x, a, b)
            first = product(weights, x[:1].copy(), a, b)
            given = _core.linears(x, weights[:1], [None], lows=[(hs[0], _floats(b[0]))])[0][0]
        assert all(same_bits(one, other) for one, other in zip(again[0] + again[1], ys + hs, strict=True))
        assert all(same_bits(one, other[:1]) for one, other in zip(first[0], ys, strict=True))
        assert same_bits(given, ys[0])


def _floats(matrix):
    weight = _core.Weight("F32", *matrix.shape)
    weight.fill_floats(matrix)
    return weight


def test_a_slice_of_columns_is_read_as_it_lies():
    x, weight = random((20, 96), 1), weight_of("F32", 24, 32)
    into = random((20, 24), 2)
    expected = into + _core.linear(x[:, 32:64].copy(), weight)
    _core.linear(x[:, 32:64], weight, into=into, add=True)
    assert same_bits(into, expected)
    with pytest.raises(ValueError, match="allowed are"):
        _core.linears(x[:, :32], [weight], [None], lows=[(random((19, 2), 1), _floats(random((24, 2), 1)))])
    with pytest.raises(ValueError, match="allowed are"):
        _core.linears(x[:, :32], [weight], [None], lows=[(weight_of("Q8_0", 2, 32), _floats(random((24, 2), 1)))])


# --- inputs of activations in bf16 ---


@pytest.mark.parametrize("isa", ISAS)
def test_activations_of_bf16_are_those_of_the_rounded_numbers(isa):
    for n in (1, 15, 16, 33, 1000):
        x, up, dy = (random((n,), seed, 2.0) for seed in (1, 2, 3))
        rounded = [blocks.round_bf16(each).astype(np.float32) for each in (x, up)]
        for other in (up, None):
            second = rounded[1] if other is not None else None
            with using(isa):
                y, kept, kept_up = _core.map_halves(guarded(x), other, "silu")
                assert same_bits(y, _core.map(rounded[0], second, "silu"))
                assert same_bits(y, _core.map(guarded(kept), kept_up, "silu"))
                halves = _core.map_backward(dy, kept, kept_up, "silu")
                whole = _core.map_backward(dy, rounded[0], second, "silu")
            assert same_bits((kept.astype(np.uint32) << 16).view(np.float32), rounded[0])
            assert all(a is b is None or same_bits(a, b) for a, b in zip(halves, whole, strict=True))
    assert _core.map_halves(x, None, "none", wanted=False)[0] is None
    with pytest.raises(TypeError, match=r"float64, allowed are float32 and uint16"):
        _core.map(x.astype(np.float64), None, "silu")
    with pytest.raises((TypeError, ValueError), match="differ"):
        _core.map(kept, up, "silu")
