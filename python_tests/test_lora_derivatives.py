"""Derivatives of adapted products, dropout and the loss of a packed head, beside float64 on the same stored numbers."""

import gguf
import numpy as np
import pytest
from lora_cases import distance

from pyllm import _core, ops
from pyllm.tensor import Tensor


def stored(dtype, numbers):
    """The bytes of a matrix in a file."""
    return gguf.quantize(numbers, gguf.GGMLQuantizationType[dtype]).reshape(-1).view(np.uint8)


def case(dtype):
    """x, A, B, cotangent, a packed weight of dtype and the float64 numbers that it holds."""
    rng = np.random.default_rng(11)
    shapes = ((21, 64), (5, 64), (48, 5), (21, 48), (48, 64))
    x, a, b, dy, w = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    weight = _core.Weight(dtype, 48, 64)
    weight.fill(0, 48, stored(dtype, w))
    return x, a, b, dy, weight, weight.dequantise(0, 48).astype(np.float64)


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "Q8_0", "Q4_1"])
def test_gradients_are_those_of_float64(dtype, kind):
    x, a, b, dy, weight, w = case(dtype)
    leaves = [Tensor(each.copy(), requires_grad=True) for each in (x, a, b)]
    with ops.autocast(kind):
        y = ops.linear(leaves[0], ops.Adapted(weight, leaves[1], leaves[2], 1.5))
    y.backward(dy)
    x, a, b, dy = (each.astype(np.float64) for each in (x, a, b, dy))
    dh = dy @ b
    exact = dy @ w + 1.5 * dh @ a, 1.5 * dh.T @ x, 1.5 * dy.T @ (x @ a.T)
    # A product of operands rounded to bf16 is off by 2^-8 of the sum of its absolute terms; fp32 by far less.
    unit = 2.0**-8 if kind == "bf16" else 2.0**-19
    sliced = 2.0**-19 if dtype == "F32" else 2.0**-8  # dy W, of slices that are read back as bf16
    size = [np.abs(each) for each in (x, a, b, dy)]
    through = size[3] @ size[2]
    bounds = (
        sliced * size[3] @ np.abs(w) + 2 * unit * 1.5 * through @ size[1],
        2 * unit * 1.5 * through.T @ size[0],
        2 * unit * 1.5 * size[3].T @ (size[0] @ size[1].T),
    )
    for leaf, value, bound in zip(leaves, exact, bounds, strict=True):
        assert (np.abs(leaf.grad - value) <= 1.05 * bound).all()
    if dtype == "F32" and kind == "fp32":
        np.testing.assert_allclose(y.data, x @ w.T + 1.5 * x @ a.T @ b.T, rtol=1e-4, atol=1e-4)


def test_residual_and_bias_get_their_gradients():
    x, a, b, dy, weight, _ = case("F32")
    residual, bias = (Tensor(each, requires_grad=True) for each in (dy * 2, dy[0]))
    y = ops.linear_add(residual, x, ops.Adapted(weight, Tensor(a, True), Tensor(b, True), 1.0), bias)
    y.backward(dy)
    np.testing.assert_allclose(residual.grad, dy)
    np.testing.assert_allclose(bias.grad, dy.sum(0), rtol=1e-5, atol=1e-5)


def test_dropout_is_its_own_derivative_and_is_drawn_again():
    x = Tensor(np.ones((40, 50), np.float32), requires_grad=True)
    y = ops.dropout(x, 0.25, 7, 3, offset=1000)
    y.backward(np.full(y.shape, 2, np.float32))
    np.testing.assert_array_equal(x.grad, 2 * y.data)
    assert set(np.unique(y.data)) == {np.float32(0), np.float32(1 / 0.75)} and 0.7 < (y.data > 0).mean() < 0.8
    np.testing.assert_array_equal(y.data[20:], ops.dropout(np.ones((20, 50)), 0.25, 7, 3, offset=2000))
    with pytest.raises(ValueError, match="allowed are 0 up to"):
        ops.dropout(x, 1.0, 0, 0)


def test_what_the_adapter_reads_is_dropped_and_differs_from_batch_to_batch():
    x, a, b, dy, weight, w = case("F32")
    leaves = [Tensor(each.copy(), requires_grad=True) for each in (x, a, b)]
    adapted = ops.Adapted(weight, leaves[1], leaves[2], 1.5, 0.5, 9)
    with ops.noise(4, 6):
        y = ops.linear(leaves[0], adapted)
    y.backward(dy)
    mask = _core.dropout(np.ones_like(x), 0.5, 4, 9, 6 << 32).astype(np.float64)
    dh = 1.5 * dy.astype(np.float64) @ b
    np.testing.assert_allclose(y.data, x @ w.T + 1.5 * (mask * x) @ a.T @ b.T, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(leaves[0].grad, dy @ w + mask * (dh @ a), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(leaves[1].grad, dh.T @ (mask * x), rtol=1e-3, atol=1e-3)
    plain = ops.linear(x, adapted).data  # outside of noise nothing is dropped
    np.testing.assert_allclose(plain, x @ w.T + 1.5 * x @ a.T @ b.T, rtol=1e-3, atol=1e-3)
    with ops.noise(4, 7):
        assert not np.array_equal(ops.linear(x, adapted).data, y.data)


@pytest.mark.parametrize("dtype", ["F32", "Q8_0"])
def test_a_packed_head_scores_in_pieces(dtype, monkeypatch):
    rng = np.random.default_rng(2)
    x, targets = rng.standard_normal((23, 64)).astype(np.float32), rng.integers(0, 90, 23)
    targets[4] = -100
    weight = _core.Weight(dtype, 90, 64)
    weight.fill(0, 90, stored(dtype, rng.standard_normal((90, 64)).astype(np.float32)))
    w = weight.dequantise(0, 90).astype(np.float64)
    found = []
    for most in (90 * 23, 90 * 5):  # at once, and five rows at a time
        monkeypatch.setattr("pyllm.ops.loss._FEWER", most)
        leaf = Tensor(x.copy(), requires_grad=True)
        loss = ops.linear_cross_entropy(leaf, weight, targets)
        loss.backward(np.float32(3))
        found.append((loss.item(), leaf.grad))
        assert ops.linear_cross_entropy(x, weight, targets) == np.float32(loss.item())
    z = x.astype(np.float64) @ w.T
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    kept = targets >= 0
    exact = -np.log(p[kept, targets[kept]]).mean()
    p[kept, targets[kept]] -= 1
    p[~kept] = 0
    for loss, gradient in found:
        assert abs(loss - exact) < (1e-5 if dtype == "F32" else 2e-3) * exact
        assert distance(gradient, 3 / kept.sum() * p @ w) < (1e-5 if dtype == "F32" else 2e-2)
    np.testing.assert_array_equal(found[0][1], found[1][1])
