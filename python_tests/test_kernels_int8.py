"""INT8: transformed rows, a scale for each feature and each row, integers between, on every instruction set."""
import numpy as np
import pytest
import reference as ref
import reference_int8 as twin
from kernel_checks import ISAS, check, random, same_bits, threads, using

from pyllm import Tensor, _core, nn, ops

SHAPES = [(1, 64, 16), (1, 384, 1000), (2, 7, 3), (3, 65, 17), (5, 100, 33), (12, 64, 32), (16, 200, 31),
          (17, 130, 100), (67, 384, 49), (300, 1536, 40)]  # fmt: skip


def weight_of(floats):
    weight = _core.Weight("INT8", *floats.shape)
    weight.fill_floats(floats)
    return weight


@pytest.mark.parametrize("isa", ISAS)
def test_a_product_is_its_integers_times_two_scales(isa):
    for seed, (rows, k, n) in enumerate(SHAPES):
        x, w, bias = random((rows, k), seed), random((n, k), seed + 50, 0.1), random((n,), seed)
        with using(isa):
            y, plain = ops.linear(x, weight_of(w), bias), ops.linear(x, weight_of(w))
        exact = twin.int8_linear(x, w)
        check(plain, exact, ref.gamma(4) * np.abs(exact) + ref.TINY)
        check(y, exact + bias, ref.gamma(6) * (np.abs(exact) + np.abs(bias)) + ref.TINY)


@pytest.mark.parametrize("isa", ISAS)
def test_it_is_as_near_as_its_codes_allow(isa):
    """Whatever the twin says: half a step of every transformed number, and outliers change little."""
    x, w = random((40, 512), 1), random((48, 512), 2)
    x[:, 17] *= 30
    with using(isa):
        y = ops.linear(x, weight_of(w))
    mixed, other = (twin.hadamard(np.float64(a)) / 8 for a in (x, w))
    step_x, step_w = (np.abs(a).max(axis=1) / 127 for a in (mixed, other))
    bound = np.abs(mixed).sum(axis=1)[:, None] * step_w / 2 + step_x[:, None] / 2 * np.abs(other).sum(axis=1)
    exact = ref.matmul(x, w.T)
    assert (np.abs(y - exact) <= 1.01 * (bound + 512 * step_x[:, None] * step_w / 4)).all()
    assert np.linalg.norm(y - exact) < 0.015 * np.linalg.norm(exact)


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_alone_has_the_bits_it_has_among_others(isa):
    x, weight = random((67, 200), 3), weight_of(random((49, 200), 4))
    with using(isa):
        whole = ops.linear(x, weight)
        for rows in (1, 2, 3, 5, 13, 33):
            for first in range(0, 67 - rows, 7):
                assert same_bits(ops.linear(x[first : first + rows].copy(), weight), whole[first : first + rows])
        for count in (1, 3):
            with threads(count):
                assert same_bits(ops.linear(x, weight), whole)


@pytest.mark.parametrize("isa", ISAS)
def test_products_beside_one_another_and_added_ones(isa):
    """Weights of several types that share x, and a residual."""
    x, w, other, residual = random((9, 96), 5), random((33, 96), 6), random((20, 96), 7), random((9, 33), 8)
    floats = _core.Weight("F32", 20, 96)
    floats.fill_floats(other)
    with using(isa):
        y, z = ops.linears(x, [(weight_of(w), None), (floats, None)])
        assert same_bits(y, ops.linear(x, weight_of(w))) and same_bits(z, ops.linear(x, floats))
        added = ops.linear_add(residual, x, weight_of(w))
    check(added, residual + np.float64(y), ref.gamma(2) * (np.abs(residual) + np.abs(y)))


@pytest.mark.parametrize("isa", ISAS)
def test_strange_rows_touch_no_other(isa):
    x, weight = random((6, 70), 9), weight_of(random((18, 70), 10))
    strange = x.copy()
    strange[1, 3], strange[2, 69], strange[4] = np.nan, np.inf, 0
    with using(isa):
        y, plain = ops.linear(strange, weight), ops.linear(x, weight)
    assert np.isnan(y[[1, 2]]).all() and (y[4] == 0).all()
    assert same_bits(y[[0, 3, 5]], plain[[0, 3, 5]])
    w = random((18, 70), 10)
    w[2, 5], w[3, 0], w[7] = np.nan, -np.inf, 0
    with using(isa):
        y = ops.linear(x, weight_of(w))
    assert np.isnan(y[:, [2, 3]]).all() and (y[:, 7] == 0).all() and same_bits(y[:, 8:], plain[:, 8:])


@pytest.mark.parametrize("isa", ISAS)
def test_rows_come_back_and_gradients_flow_through(isa):
    floats = random((37, 130), 11)
    weight = weight_of(floats)
    numbers = twin.int8_numbers(floats)
    with using(isa):
        ids = np.array([36, 0, 5], np.int32)
        check(_core.embedding(ids, weight), numbers[ids], ref.gamma(8) * np.abs(floats).max() * 64)
        x, dy = Tensor(random((4, 130), 12), requires_grad=True), random((4, 37), 13)
        ops.sum(ops.multiply(ops.linear(x, weight), dy)).backward()
    check(weight.dequantise(16, 21), numbers[16:], ref.gamma(8) * np.abs(floats).max() * 64)
    assert np.linalg.norm(numbers - floats) < 0.01 * np.linalg.norm(floats)
    check(x.grad, ref.matmul(dy, numbers), 2**-7 * (np.abs(dy) @ np.abs(numbers)))


def test_what_it_refuses():
    with pytest.raises(ValueError, match="65536"):
        _core.Weight("INT8", 16, 65537)
    weight = _core.Weight("INT8", 16, 64)
    with pytest.raises(ValueError, match="no file stores INT8"):
        weight.fill(0, 16, np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match="not transposed"):
        weight.fill_floats(np.zeros((64, 16), np.float32), transposed=True)
    for rows, row in ((15, None), (32, None), (17, 0), (16, 8), (16, 16)):
        with pytest.raises(ValueError, match=r"shape|rows"):  # a whole matrix, or whole groups of 16 rows from `row` on
            weight.fill_floats(np.zeros((rows, 64), np.float32), row=row)
    with pytest.raises(ValueError, match="Q8_0"):
        _core.Weight("Q8_0", 16, 64).fill_floats(np.zeros((16, 64), np.float32))


def test_the_largest_sums_do_not_overflow():
    x, w = np.zeros((3, 65536), np.float32), np.zeros((16, 65536), np.float32)
    x[:, ::64], w[:, ::64] = 127, -127  # of which the transform makes 127 everywhere
    exact = -(127.0**2) * 1024
    for isa in ISAS:
        with using(isa):
            assert np.allclose(ops.linear(x, weight_of(w)), exact, rtol=1e-6)
            assert np.allclose(ops.linear(x, weight_of(-w)), -exact, rtol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["INT8", "BF16", "F32"])
def test_gelu_of_a_product_is_as_near_as_its_operands_are(isa, dtype):
    """Of rounded operands within 3e-7 |x|, of float32 the operation's own bits; beyond 5 the limits."""
    x, w, bias = random((29, 64), 5, 12), random((50, 64), 6), random((50,), 7)
    with using(isa):
        weight = _core.Weight(dtype, *w.shape)
        weight.fill_floats(w)
        plain = ops.linear(x, weight, bias)
        y = _core.linears(x, [weight], [bias], False, None, None, (), "gelu")[0][0]
        alone = ops.gelu(plain)
    assert np.abs(plain).max() > 20 > 3 > np.abs(plain).min()
    if dtype == "F32":
        assert same_bits(y, alone)
    check(y, ref.gelu(plain), 3.1e-7 * np.abs(plain) + ref.TINY)


def test_attention_beside_coarse_weights_is_in_bf16_where_that_is_quick(monkeypatch):
    monkeypatch.setattr(_core, "quick_pairs", lambda: True)
    floats = random((32, 32), 8)
    kinds = {name: _core.Weight(name, 32, 32) for name in ("F32", "F16", "BF16", "INT8", "Q4_1")}
    found = {name: ops.type_beside(weight) for name, weight in kinds.items()}
    assert found == {"F32": "F32", "F16": "F32", "BF16": "BF16", "INT8": "BF16", "Q4_1": "BF16"}
    assert ops.type_beside(floats) == ops.type_beside(Tensor(floats)) == "F32"
    with ops.autocast("bf16"):
        assert ops.type_beside(floats) == "BF16"
    part = nn.MultiHeadAttention(32, 4)
    part.k.weight.value = kinds["INT8"]
    q, k, v, starts = random((9, 32), 1), random((9, 32), 2), random((9, 32), 3), np.array([0, 9], np.int32)
    y = part.over(q, k, v, starts)
    assert same_bits(y, ops.row_attention(q, k, v, starts, 4, 4, False, 8**-0.5, kind="BF16"))
    assert not same_bits(y, ops.row_attention(q, k, v, starts, 4, 4, False, 8**-0.5))
    monkeypatch.setattr(_core, "quick_pairs", lambda: False)
    assert same_bits(part.over(q, k, v, starts), ops.row_attention(q, k, v, starts, 4, 4, False, 8**-0.5))


@pytest.mark.parametrize("isa", ISAS)
def test_pairs_are_quick_on_amd_with_instructions_for_them(isa):
    with using(isa, proof=False), open("/proc/cpuinfo", encoding="utf-8") as file:
        assert _core.quick_pairs() == ("AuthenticAMD" in file.read() and isa == "avx512vnni")
