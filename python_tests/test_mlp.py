"""Training begins here: the 50 gradients of the net 5-4-3-2-1, worked out by hand, and what rests on them."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from kernel_checks import same_bits, threads

from pyllm import nn, ops
from pyllm.models.mlp import MLP
from pyllm.optim import SGD, AdamW, clip_grad_norm_
from pyllm.tensor import Tensor

SIZES = (5, 4, 3, 2, 1)
ACTS = ("tanh", "relu")


@pytest.fixture(autouse=True)
def one_thread():
    """Nets as small as these wait for a second thread longer than they compute."""
    with threads(1):
        yield


def drawn(act, seed=0):
    """Weights and biases of the net in float64, inputs (7, 5) and what they should become (7, 1)."""
    draw = np.random.default_rng(seed)
    numbers = {}
    for i, (before, after) in enumerate(pairwise(SIZES)):
        numbers[f"layers.{i}.weight"] = draw.normal(0, 0.8, (after, before))
        numbers[f"layers.{i}.bias"] = draw.normal(0.2, 0.3, after)
    numbers = {name: each.astype(np.float32).astype(np.float64) for name, each in numbers.items()}
    x = draw.normal(0, 1, (7, 5)).astype(np.float32).astype(np.float64)
    return numbers, x, draw.normal(0, 1, (7, 1)).astype(np.float32).astype(np.float64)


def slope(a, act):
    """How fast act(z) grows, from a = act(z): 1 - tanh^2, or whether relu is open."""
    return 1 - a * a if act == "tanh" else (a > 0).astype(np.float64)


def bend(z, act):
    return np.tanh(z) if act == "tanh" else np.maximum(z, 0)


def by_hand(p, x, target, act):
    """The mean squared error of the net and its 50 gradients, each line one use of the chain rule. float64.

    z1 = W1 x + b1, a1 = act(z1); z2 = W2 a1 + b2, a2 = act(z2); z3 = W3 a2 + b3, a3 = act(z3); y = W4 a3 + b4.
    """
    w1, w2, w3, w4 = (p[f"layers.{i}.weight"] for i in range(4))
    b1, b2, b3, b4 = (p[f"layers.{i}.bias"] for i in range(4))
    a1 = bend(x @ w1.T + b1, act)
    a2 = bend(a1 @ w2.T + b2, act)
    a3 = bend(a2 @ w3.T + b3, act)
    y = a3 @ w4.T + b4
    loss = np.mean((y - target) ** 2)

    dy = 2 * (y - target) / y.size  # d loss / d y
    dz3 = dy @ w4 * slope(a3, act)  # through W4, then through act
    dz2 = dz3 @ w3 * slope(a2, act)
    dz1 = dz2 @ w2 * slope(a1, act)
    return loss, {
        "layers.3.weight": dy.T @ a3,  # every weight: what came out times what went in
        "layers.3.bias": dy.sum(axis=0),
        "layers.2.weight": dz3.T @ a2,
        "layers.2.bias": dz3.sum(axis=0),
        "layers.1.weight": dz2.T @ a1,
        "layers.1.bias": dz2.sum(axis=0),
        "layers.0.weight": dz1.T @ x,
        "layers.0.bias": dz1.sum(axis=0),
    }


def net(act, numbers):
    """The same net of pyllm."""
    return MLP(*SIZES, act=act).load_state_dict({name: each.astype(np.float32) for name, each in numbers.items()})


def gradients(model):
    return {name: parameter.value.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("act", ACTS)
def test_the_gradients_by_hand_are_the_slopes_of_the_loss(act):
    numbers, x, target = drawn(act)
    _, found = by_hand(numbers, x, target, act)
    checked = 0
    for name, array in numbers.items():
        for i in range(array.size):
            ends = []
            for step in (1e-6, -1e-6):
                moved = {**numbers, name: array.copy()}
                moved[name].flat[i] += step
                ends.append(by_hand(moved, x, target, act)[0])
            assert found[name].flat[i] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6, abs=1e-9)
            checked += 1
    assert checked == 50


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_fifty_gradients_are_those_by_hand(act, seed):
    numbers, x, target = drawn(act, seed)
    wanted_loss, wanted = by_hand(numbers, x, target, act)
    model = net(act, numbers)
    loss = ops.mse(model(x.astype(np.float32)), target.astype(np.float32))
    loss.backward()
    assert loss.item() == pytest.approx(wanted_loss, rel=1e-5)
    found = gradients(model)
    assert sum(each.size for each in found.values()) == 50
    for name, gradient in wanted.items():
        assert found[name].shape == gradient.shape and found[name].dtype == np.float32
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(found[name], gradient, rtol=1e-4, atol=1e-5 * scale + 1e-8, err_msg=name)
    assert sum(np.count_nonzero(each) for each in wanted.values()) > 25  # not a dead net


def test_fifty_numbers_to_learn():
    model = MLP(5, 4, 3, 2, 1)
    assert model.num_parameters() == 50
    sizes = [layer.num_parameters() for layer in model.layers]
    assert sizes == [24, 15, 8, 3]
    assert len(model.parameters()) == 8 and sum(t.size for t in model.parameters()) == 50
    assert repr(model) == "MLP(5, 4, 3, 2, 1, act='relu'): 50 parameters"


def test_a_net_of_wrong_sizes_is_refused():
    for sizes in ((), (5,), (5, 0, 1), (5, -1)):
        with pytest.raises(ValueError, match=r"mlp: sizes .*, allowed are two or more, each at least 1"):
            MLP(*sizes)
    with pytest.raises(ValueError, match=r"linear: x \(2, 4\) @ W \(4, 5\): 4 and 5 differ"):
        MLP(5, 4, 1)(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="activation: 'sine' is not known"):
        MLP(5, 4, 1, act="sine")(np.zeros((2, 5), np.float32))


def test_first_values_keep_to_their_bound_and_to_the_seed():
    model = MLP(400, 300, 2)
    for layer, inputs in zip(model.layers, (400, 300), strict=True):
        for parameter in (layer.weight, layer.bias):
            numbers = parameter.array()
            assert np.abs(numbers).max() <= inputs**-0.5
        assert np.std(layer.weight.array()) == pytest.approx(inputs**-0.5 / math.sqrt(3), rel=0.1)
    first, same, other = (MLP(6, 5, 1).initialise(seed).state_dict() for seed in (3, 3, 4))
    for name, numbers in first.items():
        assert same_bits(numbers, same[name])
        assert not np.array_equal(numbers, other[name])


# --- beside PyTorch ---


def torch_net(act, numbers):
    """The same net of PyTorch in fp32."""
    layers = []
    for before, after in pairwise(SIZES):
        layers += [torch.nn.Linear(before, after), torch.nn.Tanh() if act == "tanh" else torch.nn.ReLU()]
    peer = torch.nn.Sequential(*layers[:-1])
    named = {name.replace("layers.", ""): torch.tensor(each, dtype=torch.float32) for name, each in numbers.items()}
    peer.load_state_dict({f"{2 * int(k[0])}{k[1:]}": v for k, v in named.items()})
    return peer


OPTIMISERS = {
    "sgd": (lambda p: SGD(p, lr=0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
    "momentum": (
        lambda p: SGD(p, lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "adamw": (
        lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("name", list(OPTIMISERS))
def test_fifty_steps_as_torch_makes_them(act, name):
    numbers, x, target = drawn(act, 5)
    model, peer = net(act, numbers), torch_net(act, numbers)
    ours, theirs = OPTIMISERS[name][0](model.parameters()), OPTIMISERS[name][1](peer.parameters())
    x32, target32 = x.astype(np.float32), target.astype(np.float32)
    for step in range(50):
        loss = ops.mse(model(x32), target32)
        peer_loss = torch.nn.functional.mse_loss(peer(torch.tensor(x32)), torch.tensor(target32))
        ours.zero_grad()
        theirs.zero_grad()
        loss.backward()
        peer_loss.backward()
        assert loss.item() == pytest.approx(peer_loss.item(), rel=1e-4), step
        if step == 0:
            for tensor, other in zip(model.parameters(), peer.parameters(), strict=True):
                np.testing.assert_allclose(tensor.grad, other.grad.numpy(), rtol=1e-4, atol=1e-6)
        ours.step()
        theirs.step()
    moved = 0.0
    for (path, start), tensor, other in zip(numbers.items(), model.parameters(), peer.parameters(), strict=True):
        np.testing.assert_allclose(tensor.data, other.detach().numpy(), rtol=1e-3, atol=1e-4, err_msg=path)
        moved = max(moved, float(np.abs(tensor.data - start).max()))
    assert moved > 0.01


def test_a_tensor_alone_is_one_and_not_its_rows():
    for given in (lambda w: w, lambda w: [{"params": w, "lr": 0.5}], lambda w: iter([w])):
        w = Tensor(np.ones((2, 2)), requires_grad=True)
        theirs = torch.nn.Parameter(torch.ones(2, 2))
        w.grad = np.array([[3, 0], [0, 4]])
        theirs.grad = torch.tensor(w.grad.copy())
        assert clip_grad_norm_(w, 0.5) == torch.nn.utils.clip_grad_norm_(theirs, 0.5).item() == 5
        SGD(given(w), lr=0.5).step()
        torch.optim.SGD([theirs], lr=0.5).step()
        np.testing.assert_allclose(w.data, theirs.detach().numpy(), rtol=1e-6)


def test_it_learns_a_made_function():
    draw = np.random.default_rng(0)
    x = draw.uniform(-1, 1, (512, 5)).astype(np.float32)
    y = (np.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]).astype(np.float32)
    model = MLP(5, 32, 32, 1, act="tanh").initialise(1)
    optimiser = AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(400):
        rows = slice(64 * (step % 8), 64 * (step % 8) + 64)
        loss = ops.mse(model(x[rows]), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with_all = ops.mse(model(x), y).item()
    assert with_all < 0.005 < 0.3 < np.var(y)


# --- state ---


def test_the_state_goes_round(tmp_path):
    model = MLP(*SIZES).initialise(3)
    state = model.state_dict()
    assert list(state) == [f"layers.{i}.{part}" for i in range(4) for part in ("weight", "bias")]
    other = MLP(*SIZES).initialise(4)
    assert other.load_state_dict(state) is other
    for name, numbers in other.state_dict().items():
        assert same_bits(numbers, state[name])
    state["layers.0.weight"][0, 0] += 1  # a copy was taken
    assert other.state_dict()["layers.0.weight"][0, 0] != state["layers.0.weight"][0, 0]
    theirs = {name: torch.tensor(each) for name, each in model.state_dict().items()}
    theirs |= {"layers.3.bias": Tensor([7.0])}
    assert other.load_state_dict(theirs).state_dict()["layers.3.bias"] == [7.0]
    assert all(tensor.requires_grad for tensor in other.parameters())


def test_a_wrong_state_is_named_and_changes_nothing():
    model = MLP(*SIZES)
    before = {name: numbers.copy() for name, numbers in model.state_dict().items()}
    state = {name: np.zeros_like(numbers) for name, numbers in before.items()}
    del state["layers.1.bias"], state["layers.2.weight"]
    state["head.weight"] = np.zeros(1)
    state["layers.0.weight"] = np.zeros((5, 4))
    with pytest.raises(ValueError) as caught:
        model.load_state_dict(state)
    said = str(caught.value)
    assert said.startswith("load_state_dict: ")
    for part in (
        "missing layers.1.bias", "missing layers.2.weight", "unknown head.weight",
        "layers.0.weight has shape (5, 4), allowed is (4, 5)",
    ):  # fmt: skip
        assert part in said
    assert "layers.3" not in said
    for name, numbers in model.state_dict().items():
        assert same_bits(numbers, before[name])
    with pytest.raises(TypeError, match="holds <U1, allowed are real numbers"):
        model.load_state_dict({**before, "layers.3.bias": np.array(["a"])})


def test_parameters_without_a_value_say_so():
    model = nn.Linear(3, 2, bias=True)
    assert model.parameters() == []
    for call in (model.state_dict, model.train):
        with pytest.raises(ValueError, match="parameter: it has no value yet"):
            call()


def test_running_and_learning_give_the_same_bits():
    draw = np.random.default_rng(1)
    model = MLP(37, 50, 21, 3, act="gelu").initialise(2)
    x = draw.standard_normal((9, 37)).astype(np.float32)
    learning = model(x)
    assert isinstance(learning, Tensor) and learning.requires_grad
    tensors, state = model.parameters(), model.state_dict()
    state = {name: numbers.copy() for name, numbers in state.items()}
    assert model.eval() is model and model.parameters() == []
    assert model.eval() is model  # twice is once
    running = model(x)
    assert isinstance(running, np.ndarray)
    assert same_bits(running, learning.data)
    assert same_bits(np.concatenate([model(row) for row in x.reshape(9, 1, 37)]), running)
    for name, numbers in model.state_dict().items():
        assert same_bits(numbers, state[name])
    model.train()
    assert all(a is b for a, b in zip(model.parameters(), tensors, strict=True))  # an optimizer still holds them
    assert same_bits(model(x).data, running)


def test_a_step_between_two_runs_is_seen():
    model = MLP(3, 4, 1).initialise(0)
    x = np.ones((2, 3), np.float32)
    optimiser = SGD(model.parameters(), lr=0.5)
    before = model.eval()(x).copy()
    ops.mse(model.train()(x), np.full((2, 1), 9.0)).backward()
    optimiser.step()
    after = model.eval()(x)
    assert np.abs(after - before).max() > 1e-3
    assert same_bits(after, model.train()(x).data)
