"""Matrix products of every weight type on every instruction set of this machine, against float64 twins."""
import zlib

import cases
import numpy as np
import pytest
import reference as ref
import reference_blocks as blocks
from kernel_checks import ISAS, check, packed, random, same_bits, threads, using

from pyllm import _core, ops


def weight_of(case):
    """(raw bytes, Weight) of a case, the seed drawn from its name."""
    raw = blocks.random_rows(case.dtype, case.n, case.k, seed=zlib.crc32(str(case).encode()))
    return raw, packed(case.dtype, raw, case.k)


def twin(x, case, raw, bias=None):
    """(exact result, bound) of a linear case with the type's own rounding of activations."""
    if case.dtype in cases.QUANTISED:
        y, bound = ref.quantised_linear(x, case.dtype, raw), ref.quantised_linear_bound(x, case.dtype, raw)
        return (y, bound) if bias is None else (y + bias, bound + ref.gamma(2) * (np.abs(y) + np.abs(bias)))
    x = blocks.round_bf16(x) if case.dtype == "BF16" else x
    weight = blocks.dequantise(case.dtype, raw)
    return ref.linear(x, weight, bias), ref.linear_bound(x, weight, bias)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", cases.TYPES)
def test_linear_is_within_its_bound(isa, dtype):
    chosen = [case for case in cases.LINEAR if case.dtype == dtype]
    assert len(chosen) > 20
    for seed, case in enumerate(chosen):
        raw, weight = weight_of(case)
        x = random((case.rows, case.k), seed)
        bias = random((case.n,), seed + 1) if seed % 3 == 0 else None
        with using(isa):
            y = ops.linear(x, weight, bias)
        try:
            check(y, *twin(x, case, raw, bias))
        except AssertionError as error:
            raise AssertionError(f"{case}, bias {bias is not None}: {error}") from error


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", cases.QUANTISED)
def test_high_precision_is_within_its_bound_and_nearer(isa, dtype):
    """Two int8 terms: the second holds the first one's remainder."""
    for rows, n in ((1, 17), (5, 33), (13, 16), (65, 15)):
        case = cases.Linear(rows, 512, n, dtype)
        raw, weight = weight_of(case)
        x = random((rows, 512), rows)
        with using(isa):
            y, plain = ops.linear(x, weight, precision="high"), ops.linear(x, weight)
        check(y, ref.quantised_linear(x, dtype, raw, 2), ref.quantised_linear_bound(x, dtype, raw, 2))
        exact = ref.matmul(x, blocks.dequantise(dtype, raw, np.float64).T)
        assert np.linalg.norm(y - exact) < np.linalg.norm(plain - exact) / 50


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["F32", "BF16", "Q4_1", "Q6_K"])
def test_large_products_are_the_rows_of_small_ones(isa, dtype):
    """Above 10^9 operations the eager call runs in slices, between which an interrupt is noticed."""
    case = cases.Linear(500, 1024, 1111, dtype)
    raw, weight = weight_of(case)
    x = random((case.rows, case.k), 3)
    with using(isa):
        y = ops.linear(x, weight)
        assert same_bits(y[:8], ops.linear(x[:8].copy(), weight))
        assert same_bits(y[-3:], ops.linear(x[-3:].copy(), weight))
    check(y[:, :9], *twin(x, case, raw[:9]))
    check(y[:, -9:], *twin(x, case, raw[-9:]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", cases.TYPES)
def test_a_row_alone_has_the_bits_it_has_among_others(isa, dtype):
    k = 256 if cases.GROUP[dtype] == 256 else 96
    case = cases.Linear(67, k, 49, dtype)
    _, weight = weight_of(case)
    x = random((case.rows, k), 11)
    with using(isa):
        whole = ops.linear(x, weight)
        for rows in (1, 2, 3, 5, 13, 33):
            for first in range(0, case.rows - rows + 1, max(rows, 7)):
                part = ops.linear(x[first : first + rows].copy(), weight)
                assert same_bits(part, whole[first : first + rows]), f"rows {first}..{first + rows - 1}"
        with threads(1):
            assert same_bits(ops.linear(x, weight), whole)
        with threads(3):
            assert same_bits(ops.linear(x, weight), whole)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_many_inputs_and_many_rows_change_no_bit(isa, dtype):
    """Inputs beyond a panel's share of the cache go slice by slice, rows beyond 16 MB ready are made so in parts."""
    for rows, k, n in ((29, 7001, 49), (301, 3 * 4096 + 2, 33), (700, 9001, 17)):
        case = cases.Linear(rows, k, n, dtype)
        raw, weight = weight_of(case)
        x, bias = random((rows, k), rows), random((n,), 1)
        first = random((rows, n), 2)
        with using(isa):
            y, added = ops.linear(x, weight, bias), _core.linear(x, weight, into=first.copy(), add=True)
            for at in (0, 12, rows - 1):  # few rows go through whole panels
                assert same_bits(y[at : at + 1], ops.linear(x[at : at + 1].copy(), weight, bias))
            turned = _core.linear(np.ascontiguousarray(x.T), weight, bias, transposed=True)
            with threads(1):
                assert same_bits(y, ops.linear(x, weight, bias))
        assert same_bits(y, turned)
        np.testing.assert_allclose(added - first, y - bias, atol=1e-3 * np.abs(y).max())
        part = slice(0, rows, 37)
        check(y[part], *twin(x[part], case, raw, bias))


def integer_case(dtype, k, seed):
    """x of small integers with one +-127 per 32 (activation scale exactly 1); weights with scales of 2^-4."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, (5, k)).astype(np.float32)
    x.reshape(5, -1, 32)[:, :, 5] = rng.choice([-127, 127], (5, k // 32))
    raw = blocks.random_rows(dtype, 19, k, seed)
    block = blocks.BLOCKS[dtype]
    view = raw.reshape(-1, block.nbytes)
    for at in block.halves:
        view[:, at : at + 2] = np.array([2**-4], "<f2").view(np.uint8)
    return x, raw


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", cases.QUANTISED)
def test_integer_parts_are_exact(isa, dtype):
    """All partial sums are integers times 2^-4 below 2^24, so the float32 answer must be the exact one, bit for bit."""
    for seed in range(20):
        k = 256
        x, raw = integer_case(dtype, k, seed)
        weight = packed(dtype, raw, k)
        exact = ref.matmul(x, blocks.dequantise(dtype, raw, np.float64).T)
        assert np.abs(exact).max() * 16 < 2**24
        for rows in (1, 2, 5):
            with using(isa):
                y = ops.linear(x[:rows].copy(), weight)
            assert np.array_equal(y, exact[:rows]), f"seed {seed}, {rows} rows"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", cases.QUANTISED)
@pytest.mark.parametrize("fill", [0x00, 0xFF, 0x7F, 0x80, 0x88, 0x77])
def test_extreme_codes_do_not_saturate(isa, dtype, fill):
    """All codes at one extreme against activations of +-127: sixteen-bit pair sums would overflow here."""
    block = blocks.BLOCKS[dtype]
    raw = np.full((3, 512 // block.values * block.nbytes), fill, np.uint8)
    for at in block.halves:
        raw.reshape(-1, block.nbytes)[:, at : at + 2] = np.array([2**-6], "<f2").view(np.uint8)
    weight = packed(dtype, raw, 512)
    sign = np.where(np.random.default_rng(fill).random((3, 512)) < 0.5, -1, 1)
    for x in (np.full((2, 512), 127.0), np.full((2, 512), -127.0), 127.0 * sign):
        x = x.astype(np.float32)
        with using(isa):
            y = ops.linear(x, weight)
        exact, bound = ref.quantised_linear(x, dtype, raw), ref.quantised_linear_bound(x, dtype, raw)
        assert (np.abs(y - exact) <= bound).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e30])
def test_very_small_and_very_large_activations(isa, scale):
    """int8 rounding must not divide by zero or overflow: x's own answer within half a step, or a flushed group."""
    case = cases.Linear(3, 64, 17, "Q8_0")
    raw, weight = weight_of(case)
    x = random((3, 64), 21) * np.float32(scale)
    with using(isa):
        y = ops.linear(x, weight)
    exact = ref.matmul(x, blocks.dequantise("Q8_0", raw, np.float64).T)
    slack = ref.activation_error(x, "Q8_0", raw) + ref.quantised_linear_bound(x, "Q8_0", raw)
    assert (np.abs(y - exact) <= slack).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", cases.TYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_shows_and_stays_in_its_row(isa, dtype, bad):
    case = cases.Linear(9, 256, 17, dtype)
    _, weight = weight_of(case)
    x = random((9, 256), 31)
    with using(isa):
        clean = ops.linear(x, weight)
        x[4, 100] = bad
        y = ops.linear(x, weight)
    assert not np.isfinite(y[4]).any()
    rest = np.arange(9) != 4
    assert same_bits(y[rest], clean[rest])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", cases.TYPES)
def test_weights_give_back_the_values_of_the_file(isa, dtype):
    k = 512
    raw = blocks.random_rows(dtype, 37, k, seed=5)
    weight = packed(dtype, raw, k)
    assert (weight.dtype, tuple(weight.shape)) == (dtype, (37, k))
    expected = blocks.dequantise(dtype, raw)
    with using(isa, proof=False):
        for row, rows in ((0, 37), (0, 1), (36, 1), (15, 2), (16, 16), (31, 6)):
            assert same_bits(weight.dequantise(row, rows), expected[row : row + rows])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", cases.TYPES)
def test_embedding_rows_are_the_values_of_the_file(isa, dtype):
    raw = blocks.random_rows(dtype, 53, 256, seed=6)
    weight = packed(dtype, raw, 256)
    ids = np.array([[0, 52, 15, 16], [17, 17, 31, 47]])
    with using(isa):
        y = ops.embedding(ids, weight)
    assert same_bits(y, blocks.dequantise(dtype, raw)[ids])


@pytest.mark.parametrize("isa", ISAS)
def test_matmul_is_within_its_bound(isa):
    for seed, (m, k, n) in enumerate([(1, 1, 1), (2, 3, 17), (13, 97, 33), (5, 256, 16), (65, 31, 65), (16, 577, 15)]):
        a, b = random((m, k), seed), random((k, n), seed + 100)
        with using(isa):
            y = ops.matmul(a, b)
        check(y, ref.matmul(a, b), ref.matmul_bound(a, b, extra=2))
    a, b = random((2, 3, 7, 19), 50), random((19, 11), 51)
    with using(isa):
        y = ops.matmul(a, b)
    check(y, ref.matmul(a, b), ref.matmul_bound(a, b, extra=2))


@pytest.mark.parametrize("isa", ISAS)
def test_strided_and_foreign_inputs(isa):
    """Transposed, sliced, reversed and Fortran-ordered arrays mean their values, not their bytes."""
    a, b = random((24, 40), 60), random((40, 36), 61)
    with using(isa):
        plain = ops.matmul(a, b)
        assert same_bits(ops.matmul(np.asfortranarray(a), np.asfortranarray(b)), plain)
        assert same_bits(ops.matmul(a.T.copy().T, b.T.copy().T), plain)
        wide = np.zeros((48, 80), np.float32)
        wide[::2, ::2] = a
        assert same_bits(ops.matmul(wide[::2, ::2], b), plain)
        assert same_bits(ops.matmul(a[::-1], b)[::-1], plain)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"matmul.*5.*3.*differ|matmul.*\(8, 5\).*\(4, 3\)"):
        ops.matmul(np.zeros((8, 5), np.float32), np.zeros((4, 3), np.float32))
    weight = packed("F32", np.zeros((4, 12), np.uint8), 3)
    with pytest.raises(ValueError, match="linear"):
        ops.linear(np.zeros((8, 5), np.float32), weight)
    with pytest.raises(ValueError, match="bias"):
        ops.linear(np.zeros((8, 3), np.float32), weight, np.zeros(5, np.float32))
    with pytest.raises(ValueError, match=r"33.*32|32.*33"):
        _core.Weight("Q4_1", 4, 33)
    with pytest.raises(ValueError, match="160"):
        _core.Weight("Q4_1", 4, 64).fill(0, 4, np.zeros(159, np.uint8))
    with pytest.raises(ValueError, match="Q9_9"):
        _core.Weight("Q9_9", 4, 64)
    for row, rows in ((1, 3), (0, 5), (16, 1), (-16, 4)):  # from a multiple of 16, inside the matrix
        with pytest.raises((ValueError, IndexError)):
            _core.Weight("Q4_1", 4, 64).fill(row, rows, np.zeros(rows * 40, np.uint8))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ("F32", "BF16"))
@pytest.mark.parametrize(("n", "k"), [(24, 64), (40, 39), (16, 480)])
@pytest.mark.parametrize("scale", (1.0, 1e-20, 1e-23, 1e18))
def test_a_row_alone_has_its_bits_where_sums_vanish_or_overflow(isa, dtype, n, k, scale):
    """Down to the sign of zero: a row alone goes through other tiles than a row among many."""
    rng = np.random.default_rng(k)
    weight = _core.Weight(dtype, n, k)
    weight.fill_floats((rng.standard_normal((n, k)) * scale).astype(np.float32))
    x = (rng.standard_normal((37, k)) * scale * 10.0 ** rng.integers(-3, 3, (37, k))).astype(np.float32)
    x[rng.random(x.shape) < 0.3] = 0
    x[5, 3], x[6, 4] = np.inf, np.nan
    with using(isa, proof=False):
        together = _core.linear(x, weight)
        alone = np.concatenate([_core.linear(x[i : i + 1], weight) for i in range(37)])
    assert same_bits(together, alone)
