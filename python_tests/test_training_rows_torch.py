"""Row-wise kernels of training beside torch, and what they say of wrong arguments."""

import numpy as np
import pytest
import torch
from kernel_checks import ISAS, random, using

from pyllm import _core

CLOSE = {"rtol": 2e-5, "atol": 2e-6}  # two float32 computations of a few dozen roundings each


def tensor(x, grad=True):
    return torch.tensor(x, requires_grad=grad)


@pytest.mark.parametrize("isa", ISAS)
def test_norms_agree_with_torch(isa):
    x, dy, weight, bias = random((6, 48), 1), random((6, 48), 2), random((48,), 3), random((48,), 4)
    leaves = tensor(x), tensor(weight), tensor(bias)
    torch.nn.functional.layer_norm(leaves[0], (48,), leaves[1], leaves[2], 1e-5).backward(torch.tensor(dy))
    with using(isa):
        found = _core.norm_backward(dy, x, weight, True, 1e-5, True)
        rms = _core.norm_backward(dy, x, weight, False, 1e-5, False)
    for a, leaf in zip(found, leaves, strict=True):
        np.testing.assert_allclose(a, leaf.grad.numpy(), **CLOSE)
    leaves = tensor(x), tensor(weight)
    torch.nn.functional.rms_norm(leaves[0], (48,), leaves[1], 1e-5).backward(torch.tensor(dy))
    for a, leaf in zip(rms[:2], leaves, strict=True):
        np.testing.assert_allclose(a, leaf.grad.numpy(), **CLOSE)


@pytest.mark.parametrize("isa", ISAS)
def test_activations_agree_with_torch(isa):
    f = torch.nn.functional
    pairs = {"silu": f.silu, "gelu": f.gelu, "gelu_tanh": lambda t: f.gelu(t, approximate="tanh"), "relu": f.relu,
             "tanh": torch.tanh, "sigmoid": torch.sigmoid}  # fmt: skip
    x, dy = random((1000,), 1, 3.0), random((1000,), 2)
    x[:3] = 0, -0.0, 30
    for act, function in pairs.items():
        leaf = tensor(x)
        y = function(leaf)
        y.backward(torch.tensor(dy))
        with using(isa):
            np.testing.assert_allclose(_core.map(x, None, act), y.detach().numpy(), **CLOSE)
            np.testing.assert_allclose(_core.map_backward(dy, x, None, act)[0], leaf.grad.numpy(), **CLOSE)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_agrees_with_torch(isa, smoothing):
    logits = random((40, 97), 1, 3.0)
    targets = np.random.default_rng(2).integers(0, 97, 40)
    targets[[0, 7, 39]] = -100
    leaf = tensor(logits)
    mean = torch.nn.functional.cross_entropy(leaf, torch.tensor(targets), label_smoothing=smoothing)
    mean.backward()
    count = int((targets != -100).sum())
    with using(isa):
        losses = _core.cross_entropy(logits, targets, None, smoothing, 1 / count)
    np.testing.assert_allclose(losses.sum() / count, mean.item(), **CLOSE)
    np.testing.assert_allclose(logits, leaf.grad.numpy(), **CLOSE)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_agrees_with_torch_over_steps(isa, decay):
    start, scale = random((1000,), 1), 0.25
    p, m, v = start.copy(), np.zeros(1000, np.float32), np.zeros(1000, np.float32)
    leaf = tensor(start.copy())
    optimiser = torch.optim.AdamW([leaf], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=decay)
    for step in range(1, 21):
        g = random((1000,), step + 1, 0.1)
        leaf.grad = torch.tensor(g * np.float32(scale))
        optimiser.step()
        with using(isa):
            _core.adamw(p, g, m, v, 1e-2, 0.9, 0.95, 1e-8, decay, step, scale)
    np.testing.assert_allclose(p, leaf.detach().numpy(), **CLOSE)
    assert np.abs(p - start).max() > 1e-2


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_agrees_with_torch_over_steps(isa, momentum, nesterov):
    start, scale = random((1000,), 1), 0.25
    p, m = start.copy(), np.zeros(1000, np.float32) if momentum else None
    leaf = tensor(start.copy())
    optimiser = torch.optim.SGD([leaf], lr=1e-2, momentum=momentum, weight_decay=0.1, nesterov=nesterov)
    for step in range(20):
        g = random((1000,), step + 1)
        leaf.grad = torch.tensor(g * np.float32(scale))
        optimiser.step()
        with using(isa):
            _core.sgd(p, g, m, 1e-2, momentum, 0.1, nesterov, scale, step == 0)
    np.testing.assert_allclose(p, leaf.detach().numpy(), **CLOSE)


# --- arguments ---

X = random((4, 8), 1)
W = random((8,), 2)
IDS = np.zeros(4, np.int32)
READ_ONLY = np.frombuffer(bytes(4 * 32), np.float32)
WRONG = {
    "norm_backward: dy .4, 7. and x .4, 8. differ": lambda: _core.norm_backward(X[:, :7].copy(), X, W, True, 1, True),
    "norm_backward: weight .7,., allowed is .8,.": lambda: _core.norm_backward(X, X, W[:7].copy(), True, 1e-5, True),
    "norm_backward: x .., at least one": lambda: _core.norm_backward(X[0, 0], np.float32(1), W, True, 1e-5, True),
    "map_backward: dy .8,. and x .4, 8. differ": lambda: _core.map_backward(W, X, None, "silu"),
    "map_backward: up .8,. and x .4, 8. differ": lambda: _core.map_backward(X, X, W, "silu"),
    "map_backward: cap 0.0+, allowed is": lambda: _core.map_backward(X, X, None, "softcap"),
    "activation: 'sine' is not known; known are none, silu": lambda: _core.map_backward(X, X, None, "sine"),
    "activation: 'cosine' is not known": lambda: _core.map(X, None, "cosine"),
    "softmax_backward: dy .8,. and y .4, 8. differ": lambda: _core.softmax_backward(W, X),
    "embedding_backward: into .8,., allowed is": lambda: _core.embedding_backward(X, IDS, W.copy()),
    "embedding_backward: dy .4, 8., ids .3,. and": lambda: _core.embedding_backward(X, IDS[:3].copy(), X.copy()),
    "embedding_backward: into and dy share memory": lambda: _core.embedding_backward(X, IDS, X),
    "cross_entropy: logits .8,., allowed is": lambda: _core.cross_entropy(W.copy(), IDS.astype(np.int64)),
    "cross_entropy: logits is not C-contiguous": lambda: _core.cross_entropy(X.T, np.zeros(8, np.int64)),
    "cross_entropy: targets .3,., allowed is .4,.": lambda: _core.cross_entropy(X.copy(), np.zeros(3, np.int64)),
    "cross_entropy: weights .8,., allowed is .4,.": lambda: _core.cross_entropy(X.copy(), np.zeros(4, np.int64), W),
    "cross_entropy: smoothing 1.5": lambda: _core.cross_entropy(X.copy(), np.zeros(4, np.int64), None, 1.5),
    "dropout: p 1.0": lambda: _core.dropout(X, 1.0, 1, 1),
    "dropout: p nan": lambda: _core.dropout(X, float("nan"), 1, 1),
    "adamw: p is read-only": lambda: _core.adamw(READ_ONLY, X, X + 0, X + 0, 0.1, 0.9, 0.9, 0, 0, 1),
    "adamw: g has 8 numbers, p 32": lambda: _core.adamw(X + 0, W, X + 0, X + 0, 0.1, 0.9, 0.9, 0, 0, 1),
    "adamw: v has 8 numbers, p 32": lambda: _core.adamw(X + 0, X, X + 0, W + 0, 0.1, 0.9, 0.9, 0, 0, 1),
    "adamw: step 0, allowed": lambda: _core.adamw(X + 0, X, X + 0, X + 0, 0.1, 0.9, 0.9, 0, 0, 0),
    "adamw: beta 1.0+, allowed": lambda: _core.adamw(X + 0, X, X + 0, X + 0, 0.1, 0.9, 1.0, 0, 0, 1),
    "adamw: p and g share memory": lambda: _core.adamw(X, X, X + 0, X + 0, 0.1, 0.9, 0.9, 0, 0, 1),
    "sgd: m is None, momentum needs": lambda: _core.sgd(X + 0, X, None, 0.1, 0.9),
    "sgd: m has 8 numbers, p 32": lambda: _core.sgd(X + 0, X, W + 0, 0.1, 0.9),
    "axpy: x has 8 numbers, into 32": lambda: _core.axpy(W, 1.0, X + 0),
    "axpy: into is not C-contiguous": lambda: _core.axpy(X[:, ::2].copy(), 1.0, (X + 0)[:, ::2]),
}


@pytest.mark.parametrize("message", list(WRONG))
def test_wrong_arguments_are_refused(message):
    before = X.copy()
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
    assert np.array_equal(X, before)


def test_wrong_types_are_refused():
    for call in (
        lambda: _core.axpy(X, 1.0, X.astype(np.float64)),
        lambda: _core.axpy(X, 1.0, X.astype(">f4")),
        lambda: _core.axpy(X, 1.0, X.tolist()),
        lambda: _core.cross_entropy(X.copy(), np.zeros(4, np.float32)),
        lambda: _core.embedding_backward(X, IDS.astype(np.float32), X.copy()),
        lambda: _core.column_sums(X.astype(np.float64)),
        lambda: _core.dropout(X, 0.1, -1, 1),
    ):
        with pytest.raises(TypeError):
            call()


def test_ids_outside_the_vocabulary_are_refused():
    for wrong in (97, -1, 2**40, -101):
        logits, targets = random((5, 97), 1), np.array([0, 96, -100, wrong, 1])
        said = f"cross_entropy: target {wrong} at 3, allowed are 0 to 96, or -100"
        with pytest.raises(IndexError, match=f"^{said}$"):
            _core.cross_entropy(logits, targets)
        assert np.array_equal(logits, random((5, 97), 1))
        with pytest.raises(IndexError, match="cross_entropy_losses: target"):
            _core.cross_entropy_losses(logits, targets)
    into = np.zeros((3, 8), np.float32)
    for wrong in (3, -1):
        with pytest.raises(IndexError, match=f"embedding_backward: id {wrong} at 2, allowed are 0 to 2"):
            _core.embedding_backward(X, np.array([0, 2, wrong, 0], np.int32), into)
    assert not into.any()
