"""Thin parts for nets of one's own beside PyTorch's: containers, functions, losses, names of arguments."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from gradient_checks import learn, parity

from pyllm import nn, ops
from pyllm.optim import Adam

WEIGHTS = np.array([0.5, 2.0, 1.0, 0.0, 3.0], np.float32)
ROWS = {"row": (), "rows": (6,), "images": (6, 2, 3)}  # shapes of targets


def random(seed, *shape):
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "options"),
    [("ReLU", {}), ("GELU", {}), ("GELU", {"approximate": "tanh"}), ("SiLU", {}), ("Tanh", {}), ("Sigmoid", {})]
    + [(name, {"dim": dim}) for name in ("Softmax", "LogSoftmax") for dim in (-1, 2, 1, -3)],
    ids=str,
)
def test_functions(name, options):
    parity(getattr(nn, name)(**options), getattr(torch.nn, name)(**options), random(1, 3, 4, 5))


@pytest.mark.parametrize("more", [{}, {"reduction": "sum"}, {"reduction": "none"}, {"weight": WEIGHTS}], ids=str)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"ignore_index": 2}], ids=str)
@pytest.mark.parametrize("rows", list(ROWS))
def test_losses_of_classes(rows, options, more):
    options, shape = options | more, ROWS[rows]
    targets = np.random.default_rng(3).integers(0, 5, shape)
    if shape:
        targets.reshape(-1)[2:4] = options.get("ignore_index", -100)
    else:
        targets = np.asarray(1)
    x = random(2, *shape[:1], 5, *shape[1:])
    theirs = {n: torch.tensor(v).double() if n == "weight" else v for n, v in options.items()}
    for name in ("CrossEntropyLoss", "NLLLoss")[: 1 if "label_smoothing" in options else 2]:
        ours, other = getattr(nn, name)(**options), getattr(torch.nn, name)(**theirs)
        parity(lambda a, f=ours: f(a, targets), lambda a, f=other: f(a, torch.tensor(targets)), x)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_numbers(reduction):
    x, t = random(1, 4, 3), np.random.default_rng(2).uniform(size=(4, 3)).astype(np.float32)
    for name in ("MSELoss", "BCEWithLogitsLoss")[: 1 if reduction == "none" else 2]:
        ours, theirs = getattr(nn, name)(reduction=reduction), getattr(torch.nn, name)(reduction=reduction)
        parity(lambda a, f=ours: f(a, t), lambda a, f=theirs: f(a, torch.tensor(t).double()), x)


def test_losses_refuse():
    x = random(1, 4, 5)
    for name, options, targets, found in (
        ("CrossEntropyLoss", {}, np.zeros(5, int), r"targets \(5,\) of x \(4, 5\), allowed are \(4,\)"),
        ("CrossEntropyLoss", {"reduction": "sum"}, np.full(4, 5), "targets from 5 to 5, allowed are 0 to 4"),
        ("CrossEntropyLoss", {"ignore_index": 0}, np.full(4, -100), "allowed are 0 to 4"),
        ("CrossEntropyLoss", {}, x, "targets hold float32, allowed are integers"),
        ("CrossEntropyLoss", {"label_smoothing": 2}, x, "label_smoothing is 2, allowed are 0 to 1"),
        ("NLLLoss", {"weight": np.ones(4)}, np.zeros(4, int), r"weight \(4,\), allowed is \(5,\)"),
        ("MSELoss", {}, x[:1], r"x \(4, 5\) and targets \(1, 5\) differ"),
        ("MSELoss", {"reduction": "max"}, x, "reduction is 'max', allowed are mean, sum, none"),
    ):
        with pytest.raises((ValueError, TypeError, IndexError), match=found):
            getattr(nn, name)(**options)(x, targets)


def test_a_net_by_hand_is_pytorchs():
    def net(m, extra):
        middle = m.Sequential(OrderedDict(up=m.Linear(6, 8), act=m.GELU(), down=m.Linear(8, 6, bias=False)))
        return m.Sequential(m.Embedding(10, 6, 0), middle, m.LayerNorm(6), m.Dropout(0.3), m.Linear(6, 4), *extra)

    torch.manual_seed(1)
    theirs, ours = net(torch.nn, [torch.nn.Tanh()]).eval(), net(nn, [ops.tanh])
    assert list(ours.initialise().state_dict()) == list(theirs.state_dict()) and len(ours) == len(theirs) == 6
    ours.load_state_dict(theirs.state_dict())
    ids = np.array([[1, 0, 9], [0, 2, 2]])
    y, z = ours(ids), theirs(torch.tensor(ids))
    np.testing.assert_allclose(y.data, z.detach().numpy(), rtol=1e-5, atol=1e-6)
    y.sum().backward()
    z.sum().backward()
    for tensor, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(tensor.grad, other.grad.numpy(), rtol=1e-4, atol=1e-5)
    assert not ours[0].weight.value.grad[0].any() and ours[0].weight.value.grad[1].any()
    first = ours[:3]
    assert isinstance(first, nn.Sequential) and first[-1] is ours[2] and [*first] == [ours[0], ours[1], ours[2]]
    assert not np.array_equal(first(ids).data, ours(ids).data[..., :1]) and "act" in ours[1].names


def test_lists_of_parts_and_training():
    class Net(nn.Module):
        def __init__(self):
            self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(2)).append(nn.Linear(3, 1))

        def forward(self, x):
            for layer in self.layers:
                x = ops.tanh(layer(x))
            return x

    net = Net().initialise()
    assert list(net.state_dict()) == [f"layers.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")]
    assert len(net.layers[1:]) == 2 and isinstance(net.layers[1:], nn.ModuleList)
    x = random(1, 32, 3)
    targets, loss, optimizer = np.tanh(x[:, :1] - x[:, 1:2]), nn.MSELoss(), Adam(net.parameters(), 0.03)
    seen = []
    for _ in range(150):
        optimizer.zero_grad()
        found = loss(net(x), targets)
        found.backward()
        optimizer.step()
        seen.append(found.item())
    assert seen[-1] < 0.05 * seen[0]


def test_arguments_have_pytorchs_names():
    assert nn.Linear(in_features=2, out_features=3).num_parameters() == 9
    table = nn.Embedding(num_embeddings=4, embedding_dim=2, padding_idx=-1)
    assert table.padding_idx == 3 and nn.LayerNorm(normalized_shape=(5,)).num_parameters() == 10
    with pytest.raises(ValueError, match="padding_idx is 4, allowed are rows of 4"):
        nn.Embedding(4, 2, 4)
    with pytest.raises(ValueError, match="a part called 'names', allowed are names"):
        nn.Sequential({"names": nn.ReLU()})
    (x,) = learn(random(1, 2, 3))
    assert nn.Sequential()(x) is x


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.transpose(1, 2) * x.transpose(-1, 1),
        lambda x: x.permute(2, 0, 1).reshape(5, 12),
        lambda x: x[0].transpose(0, 1) + x[1].T,
        lambda x: x.mean(dim=1) * x.sum(dim=(0, 1), keepdim=True)[0],
        lambda x: x.view(12, 5).relu().sum(dim=-1, keepdim=True),
        lambda x: (x.exp().sqrt() + x.tanh()).sigmoid(),
    ],
    ids=["transpose", "permute", "matrix", "mean", "view", "functions"],
)
def test_methods_of_tensors(call):
    parity(call, call, random(1, 3, 4, 5))
