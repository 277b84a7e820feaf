"""Every operation's value and derivative, under a random cotangent, beside torch in float64; what is refused."""

import numpy as np
import pytest
import reference_training_rows as twin
import torch
from gradient_checks import CLOSE, learn, leaves, parity
from kernel_checks import random, same_bits

from pyllm import _core, ops
from pyllm.autograd import no_grad
from pyllm.ops import loss as losses
from pyllm.tensor import Tensor

F = torch.nn.functional


# --- arithmetic ---

A, B, ROW, COLUMN, ONE = (random(shape, i) for i, shape in enumerate([(3, 4), (3, 4), (4,), (3, 1), ()]))
PLUS = np.abs(random((3, 4), 7)) + np.float32(0.5)
DEEP = random((2, 3, 4), 8)
SHAPES = [(A, B), (A, ROW), (ROW, A), (A, COLUMN), (COLUMN, ROW), (A, ONE), (ONE, A), (ONE, ONE), (DEEP, COLUMN)]
BINARY = {
    "add": (ops.add, torch.add),
    "subtract": (ops.subtract, torch.subtract),
    "multiply": (ops.multiply, torch.multiply),
    "divide": (ops.divide, torch.divide),
}


@pytest.mark.parametrize("name", list(BINARY))
@pytest.mark.parametrize("place", range(len(SHAPES)))
def test_two_arrays_broadcast(name, place):
    a, b = SHAPES[place]
    if name == "divide":
        b = np.sign(b) * (np.abs(b) + np.float32(0.5))
    parity(*BINARY[name], a, b)


MASK = np.array([True, False, True])
UNARY = {
    "square": (lambda x: ops.power(x, 2), lambda x: x**2, A),
    "cube root": (lambda x: ops.power(x, 1 / 3), lambda x: x ** (1 / 3), PLUS),
    "inverse": (lambda x: x**-1.5, lambda x: x**-1.5, PLUS),
    "power 0": (lambda x: x**0, lambda x: x**0, np.float32([[0, 2]])),
    "power 1": (lambda x: x**1, lambda x: x**1, np.float32([[0, 2]])),
    "exp": (ops.exp, torch.exp, A),
    "log": (ops.log, torch.log, PLUS),
    "negative": (lambda x: -x, lambda x: -x, A),
    "two minus": (lambda x: 2 - x, lambda x: 2 - x, A),
    "two over": (lambda x: 2 / x, lambda x: 2 / x, PLUS),
    "sum": (ops.sum, torch.sum, A),
    "sum of one": (ops.sum, torch.sum, ONE),
    "sum over 0": (lambda x: x.sum(0), lambda x: x.sum(0), DEEP),
    "sum over -1 kept": (lambda x: x.sum(-1, True), lambda x: x.sum(-1, True), DEEP),
    "sum over two": (lambda x: ops.sum(x, (0, -1)), lambda x: x.sum((0, -1)), DEEP),
    "sum over all": (lambda x: ops.sum(x, (0, 1, 2), keepdims=True), lambda x: x.sum((0, 1, 2), True), DEEP),
    "mean": (ops.mean, torch.mean, A),
    "mean over 1": (lambda x: x.mean(1), lambda x: x.mean(1), DEEP),
    "reshape": (lambda x: ops.reshape(x, (4, -1)), lambda x: x.reshape(4, -1), DEEP),
    "to one number": (lambda x: x[:1, :1].reshape(()), lambda x: x[:1, :1].reshape(()), A),
    "reshape method": (lambda x: x.reshape(2, 12), lambda x: x.reshape(2, 12), DEEP),
    "transpose": (ops.transpose, lambda x: x.T, A),
    "T": (lambda x: x.T, lambda x: x.T, A),
    "transpose of one": (ops.transpose, lambda x: x * 1, ONE),
    "turned": (lambda x: ops.transpose(x, 1, 2, 0), lambda x: x.permute(1, 2, 0), DEEP),
    "turned from the end": (lambda x: x.transpose(-1, 0, -2), lambda x: x.permute(-1, 0, -2), DEEP),
    "row": (lambda x: x[1], lambda x: x[1], A),
    "element": (lambda x: x[1, 2], lambda x: x[1, 2], A),
    "slice": (lambda x: x[::2, 1:], lambda x: x[::2, 1:], A),
    "rows, one twice": (lambda x: x[[0, 2, 0]], lambda x: x[[0, 2, 0]], A),
    "mask": (lambda x: x[MASK], lambda x: x[torch.tensor(MASK)], A),
    "new axis": (lambda x: x[:, None], lambda x: x[:, None], A),
    "silu": (ops.silu, F.silu, A),
    "gelu": (ops.gelu, F.gelu, A),
    "gelu tanh": (lambda x: ops.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh"), A),
    "relu": (ops.relu, F.relu, A),
    "tanh": (ops.tanh, torch.tanh, A),
    "sigmoid": (ops.sigmoid, torch.sigmoid, A),
    "softcap": (lambda x: ops.softcap(x, 1.5), lambda x: 1.5 * torch.tanh(x / 1.5), A),
    "nothing": (lambda x: ops.activate(x, "none") * 1, lambda x: x * 1, A),
    "softmax": (ops.softmax, lambda x: torch.softmax(x, -1), DEEP),
}


@pytest.mark.parametrize("name", list(UNARY))
def test_one_array(name):
    ours, theirs, x = UNARY[name]
    parity(ours, theirs, x)


DECAY = np.float32([0.5, 2, 1, -1])
SEVERAL = {
    "swiglu": (ops.swiglu, lambda g, u: F.silu(g) * u, A, B),
    "concatenate": (lambda *x: ops.concatenate(x, 1), lambda *x: torch.cat(x, 1), A, COLUMN, B),
    "concatenate the end": (lambda *x: ops.concatenate(x, -1), lambda *x: torch.cat(x, -1), DEEP, DEEP[..., :1]),
    "layer_norm": (ops.layer_norm, lambda x, w, b: F.layer_norm(x, (4,), w, b), DEEP, ROW, DECAY),
    "layer_norm without bias": (lambda x, w: ops.layer_norm(x, w), lambda x, w: F.layer_norm(x, (4,), w), DEEP, ROW),
    "rms_norm": (lambda x, w: ops.rms_norm(x, w), lambda x, w: F.rms_norm(x, (4,), w, 1e-6), DEEP, ROW),
    "matmul": (ops.matmul, torch.matmul, A, random((4, 5), 11)),
    "matmul deep": (lambda a, b: a @ b, torch.matmul, DEEP, random((4, 5), 11)),
    "matmul of a row": (ops.matmul, torch.matmul, ROW, random((4, 5), 11)),
    "linear": (ops.linear, F.linear, DEEP, random((5, 4), 11), random((5,), 12)),
    "linear without bias": (ops.linear, F.linear, A, random((5, 4), 11)),
    "linear of a row": (ops.linear, F.linear, ROW, random((5, 4), 11), random((5,), 12)),
    "linear_add": (
        ops.linear_add, lambda r, x, w, b: r + F.linear(x, w, b),
        random((2, 3, 5), 10), DEEP, random((5, 4), 11), random((5,), 12),
    ),
    "norm_linear": (
        lambda x, n, w, b: ops.norm_linear(x, ops.Norm("rms", n, None, 1e-6), w, b, act="gelu"),
        lambda x, n, w, b: F.gelu(F.linear(F.rms_norm(x, (4,), n, 1e-6), w, b)),
        DEEP, ROW, random((5, 4), 11), random((5,), 12),
    ),
    "gated_linear": (
        lambda x, n, m, g, u: ops.gated_linear(x, ops.Norm("layer", n, m, 1e-5), g, u),
        lambda x, n, m, g, u: F.silu(F.linear(h := F.layer_norm(x, (4,), n, m), g)) * F.linear(h, u),
        DEEP, ROW, DECAY, random((5, 4), 11), random((5, 4), 12),
    ),
    "logits": (
        lambda x, n, w: ops.logits(x, ops.Norm("rms", n, None, 1e-6), w, softcap=2.0),
        lambda x, n, w: 2 * torch.tanh(F.linear(F.rms_norm(x, (4,), n, 1e-6), w) / 2),
        A, ROW, random((5, 4), 11),
    ),
    "add_norm": (
        lambda r, x, w: ops.add_norm(r, x, ops.Norm("rms", w, None, 1e-6)),
        lambda r, x, w: r + F.rms_norm(x, (4,), w, 1e-6), A, B, ROW,
    ),
    "add_norm layer": (
        lambda r, x, w, b: ops.add_norm(r, x, ops.Norm("layer", w, b, 1e-5)),
        lambda r, x, w, b: r + F.layer_norm(x, (4,), w, b), A, B, ROW, DECAY,
    ),
    "mse": (lambda p, t: ops.mse(p, t), F.mse_loss, A, B),
}  # fmt: skip


@pytest.mark.parametrize("name", list(SEVERAL))
def test_several_arrays(name):
    ours, theirs, *arrays = SEVERAL[name]
    parity(ours, theirs, *arrays)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("frozen", [(), (1,), (0, 1, 2)])
def test_products_that_share_x_have_the_bits_of_products_alone(dtype, frozen):
    """Whichever weights learn: x is packed for as many as ask."""
    shapes, x = [(20, 33), (7, 33), (16, 33)], random((2, 9, 33), 3)
    arrays = [(random(shape, 20 + i), random(shape[:1], 30 + i)) for i, shape in enumerate(shapes)]
    cotangents = [random((2, 9, n), 40 + n) for n, _ in shapes]

    def run(product):
        learned = Tensor(x, requires_grad=True)
        parts = [
            (w.copy() if i in frozen else Tensor(w, requires_grad=True), Tensor(b, requires_grad=True))
            for i, (w, b) in enumerate(arrays)
        ]
        with ops.autocast(dtype):
            ys = product(ops.multiply(learned, np.float32(2)), parts)
        total = sum((ops.sum(ops.multiply(y, c)) for y, c in zip(ys, cotangents, strict=True)), Tensor(np.float32(0)))
        total.backward()
        tensors = [learned, *(t for part in parts for t in part if isinstance(t, Tensor))]
        return [y.data for y in ys] + [t.grad for t in tensors]

    together = run(ops.linears)
    apart = run(lambda x, parts: [ops.linear(x, *part) for part in parts])
    assert all(same_bits(a, b) for a, b in zip(together, apart, strict=True))


@pytest.mark.parametrize("name", ["linear", "matmul", "layer_norm", "add_norm", "gated_linear", "concatenate"])
def test_only_what_wants_a_gradient_gets_one(name):
    ours, theirs, *arrays = SEVERAL[name]
    for wanted in range(len(arrays)):
        mine = [Tensor(a, i == wanted) for i, a in enumerate(arrays)]
        other = [torch.tensor(a.astype(np.float64), requires_grad=i == wanted) for i, a in enumerate(arrays)]
        ours(*mine).sum().backward()
        theirs(*other).sum().backward()
        np.testing.assert_allclose(mine[wanted].grad, other[wanted].grad.numpy(), rtol=1e-3, atol=1e-4)
        assert all(tensor.grad is None for i, tensor in enumerate(mine) if i != wanted)


@pytest.mark.parametrize("rows", [1, 33, 200])
def test_products_of_many_shapes(rows):
    x, w, b = random((rows, 70), 1), random((65, 70), 2, 0.2), random((65,), 3)
    parity(ops.linear, F.linear, x, w, b, close={"rtol": 1e-4, "atol": 1e-4})
    parity(ops.matmul, torch.matmul, x, w.T.copy(), close={"rtol": 1e-4, "atol": 1e-4})


def test_embedding_with_positions_and_scale():
    ids = np.array([[1, 3, 1], [0, 1, 2]])

    def theirs(w, p):
        return 1.5 * w[torch.tensor(ids)] + p[:3]

    parity(lambda w, p: ops.embedding(ids, w, p, 1.5), theirs, random((5, 4), 1), random((6, 4), 2))
    parity(lambda w: ops.embedding(ids, w), lambda w: w[torch.tensor(ids)], random((5, 4), 1))


def test_a_frozen_packed_weight_passes_gradients_on():
    x, w = random((9, 70), 1), random((65, 70), 2)
    frozen = _core.Weight("F32", 65, 70)
    frozen.fill_floats(w)
    parity(lambda t: ops.linear(t, frozen), lambda t: F.linear(t, torch.tensor(w.astype(np.float64))), x,
           close={"rtol": 1e-4, "atol": 1e-4})  # fmt: skip


# --- losses ---


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(6, 9), (2, 3, 9)])
def test_cross_entropy(smoothing, shape):
    logits = random(shape, 1, 3.0)
    targets = np.array([3, -100, 0, 8, 8, 1]).reshape(shape[:-1])

    def theirs(x):
        return F.cross_entropy(x.reshape(-1, 9), torch.tensor(targets).reshape(-1), label_smoothing=smoothing)

    parity(lambda x: ops.cross_entropy(x, targets, smoothing), theirs, logits)
    with no_grad():
        mean = ops.cross_entropy(Tensor(logits), targets, smoothing)
    assert mean.item() == pytest.approx(theirs(torch.tensor(logits.astype(np.float64))).item(), rel=1e-5)
    kept = targets.reshape(-1) != -100
    by_twin = twin.losses(logits.reshape(-1, 9).astype(np.float64), targets.reshape(-1), smoothing)
    assert mean.item() == pytest.approx(by_twin[kept].mean(), rel=1e-5)


@pytest.mark.parametrize("most", [1, 50, 97 * 3, 1 << 25])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_linear_cross_entropy_is_the_loss_of_the_product(monkeypatch, most, smoothing):
    monkeypatch.setattr(losses, "_LOGITS", most)
    x, w = random((2, 10, 33), 1), random((97, 33), 2, 0.3)
    targets = np.random.default_rng(3).integers(0, 97, (2, 10))
    targets[0, [0, 3, 9]] = -100
    targets[1, :4] = -100
    ours, whole = learn(x, w), learn(x, w)
    loss = ops.linear_cross_entropy(*ours, targets, label_smoothing=smoothing)
    known = ops.cross_entropy(ops.linear(*whole), targets, smoothing)
    assert loss.item() == pytest.approx(known.item(), rel=1e-6)
    (loss * 3).backward()
    (known * 3).backward()
    for a, b in zip(ours, whole, strict=True):
        np.testing.assert_allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    for wanted in range(2):
        some = [Tensor(a, i == wanted) for i, a in enumerate((x, w))]
        ops.linear_cross_entropy(*some, targets, label_smoothing=smoothing).backward()
        np.testing.assert_allclose(3 * some[wanted].grad, whole[wanted].grad, rtol=1e-4, atol=1e-6)
        assert some[1 - wanted].grad is None
    with no_grad():
        assert ops.linear_cross_entropy(*ours, targets, label_smoothing=smoothing).item() == loss.item()
    with_bias = [*learn(x, w), Tensor(np.zeros(97), True)]
    biased = ops.linear_cross_entropy(*with_bias[:2], targets, with_bias[2], smoothing)
    assert biased.item() == pytest.approx(loss.item(), rel=1e-6)
    biased.backward()
    assert np.abs(with_bias[2].grad).max() > 0


def test_a_loss_without_any_target_is_zero():
    for call in (
        lambda x, w: ops.linear_cross_entropy(x, w, np.full(3, -100)),
        lambda x, w: ops.cross_entropy(ops.linear(x, w), np.full(3, -100)),
    ):
        x, w = learn(random((3, 4), 1), random((5, 4), 2))
        loss = call(x, w)
        loss.backward()
        assert loss.item() == 0 and not x.grad.any() and not w.grad.any()


@pytest.mark.parametrize("most", [20, 1 << 25])
def test_tied_weights_add_up(monkeypatch, most):
    """One tensor is looked up and is the head: gradients of both uses, and of two calls, come together."""
    monkeypatch.setattr(losses, "_LOGITS", most)
    ids, targets = np.array([[1, 3, 1], [0, 1, 2]]), np.array([[3, 1, -100], [1, 2, 0]])
    (w,), (leaf,) = learn(random((5, 4), 1)), leaves(random((5, 4), 1))
    for _ in range(2):
        h = ops.tanh(ops.embedding(ids, w))
        ops.linear_cross_entropy(h + h, w, targets).backward()
        g = torch.tanh(leaf[torch.tensor(ids)])
        F.cross_entropy(F.linear(g + g, leaf).reshape(-1, 5), torch.tensor(targets).reshape(-1)).backward()
    np.testing.assert_allclose(w.grad, leaf.grad.numpy(), **CLOSE)


WRONG = {
    "linear: x .2, 5. @ W .4, 3.: 5 and 3 differ": lambda: ops.linear(np.zeros((2, 5)), np.zeros((4, 3))),
    "linear: weight has shape .3,.": lambda: ops.linear(np.zeros((2, 3)), np.zeros(3)),
    "linear_add: residual .2, 3. and the product .2, 4.": lambda: ops.linear_add(
        np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((4, 3))
    ),
    "linear: bias has shape .3,., allowed is .4,.": lambda: ops.linear(np.zeros((2, 3)), np.zeros((4, 3)), np.zeros(3)),
    "matmul: a .2, 3. @ b .4, 3.: 3 and 4 differ": lambda: ops.matmul(np.zeros((2, 3)), np.zeros((4, 3))),
    "mse: prediction .2, 1. and targets .2,. differ": lambda: ops.mse(np.zeros((2, 1)), np.zeros(2)),
    "cross_entropy: 3 targets for 2 rows": lambda: ops.cross_entropy(np.zeros((2, 5)), [1, 2, 3]),
    "linear_cross_entropy: x .2, 3. and weight .4, 5.": lambda: ops.linear_cross_entropy(
        np.zeros((2, 3)), np.zeros((4, 5)), [1, 2]
    ),
    "silu: gate .2,. and up .3,. differ": lambda: ops.swiglu(np.zeros(2), np.zeros(3)),
    "layer_norm: weight has shape .3,., allowed is .4,.": lambda: ops.layer_norm(A, np.zeros(3)),
    "softcap: 0, allowed is a number above 0": lambda: ops.softcap(A, 0),
    "autocast: 'fp8', allowed are": lambda: ops.autocast("fp8").__enter__(),
}


@pytest.mark.parametrize("message", list(WRONG))
def test_wrong_shapes_are_refused(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match="power: exponent is of type Tensor, allowed is a plain number"):
        Tensor(A) ** Tensor(A)
    with pytest.raises(TypeError, match="cross_entropy: targets hold float64, allowed are integers"):
        ops.cross_entropy(A, np.array([0.0, 1.7, 2.0]))
    with pytest.raises(TypeError, match="embedding: ids hold float32"):
        ops.embedding(ONE, A)
    with pytest.raises(TypeError, match="exp: x holds <U1, allowed are real numbers"):
        ops.exp("a")
    for wrong in (5, -1, -100):
        with pytest.raises(IndexError, match="embedding: ids reach from"):
            ops.embedding([0, wrong], random((5, 4), 1))


# --- products in bf16 ---


def rounded(x):
    """To bfloat16, ties to even, as float64."""
    return torch.tensor(np.asarray(x, np.float32)).bfloat16().double().numpy()


@pytest.mark.parametrize("rows", [1, 40])
def test_autocast_rounds_operands_and_nothing_else(rows):
    x, w, b = random((rows, 70), 1), random((65, 70), 2, 0.2), random((65,), 3)
    dy = random((rows, 65), 4)
    with ops.autocast("bf16"):
        tensors = learn(x, w, b)
        y = ops.linear(*tensors)
    y.backward(dy)  # outside: what the product was made in holds for its gradients
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(y.data, rounded(x) @ rounded(w).T + b, **close)
    np.testing.assert_allclose(tensors[0].grad, rounded(dy) @ rounded(w), **close)
    np.testing.assert_allclose(tensors[1].grad, rounded(dy).T @ rounded(x), **close)
    np.testing.assert_allclose(tensors[2].grad, dy.sum(0), **close)
    with ops.autocast("bf16"):
        x2, m = learn(x, w.T)
        z = ops.matmul(x2, m)
        with ops.autocast("fp32"):
            plain = ops.matmul(x, w.T.copy())
    z.backward(dy)
    np.testing.assert_allclose(z.data, rounded(x) @ rounded(w).T, **close)
    np.testing.assert_allclose(x2.grad, rounded(dy) @ rounded(w), **close)
    np.testing.assert_allclose(m.grad, rounded(x).T @ rounded(dy), **close)
    assert same_bits(plain, ops.matmul(x, w.T.copy()))
    assert np.abs(plain - z.data).max() > 1e-3  # bf16 was used at all


def test_autocast_of_the_loss():
    x, w = random((20, 33), 1), random((97, 33), 2, 0.3)
    targets = np.random.default_rng(3).integers(0, 97, 20)
    with ops.autocast("bf16"):
        ours = learn(x, w)
        loss = ops.linear_cross_entropy(*ours, targets)
    loss.backward()
    logits = rounded(x) @ rounded(w).T
    slope = twin.loss_gradient(logits, targets, np.ones(20), 0.0, 1 / 20)
    assert loss.item() == pytest.approx(twin.losses(logits, targets).mean(), rel=1e-4)
    np.testing.assert_allclose(ours[0].grad, rounded(slope) @ rounded(w), rtol=1e-2, atol=1e-4)
    np.testing.assert_allclose(ours[1].grad, rounded(slope).T @ rounded(x), rtol=1e-2, atol=1e-4)
