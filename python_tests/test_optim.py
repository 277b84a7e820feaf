"""Optimizers for loops of one's own beside torch.optim's: steps, groups whose rates change, schedules."""

import numpy as np
import pytest
import torch

from pyllm import optim
from pyllm.tensor import Tensor

SHAPES = ((7, 5), (5,), (3, 4, 6))


def random(seed, *shape):
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def both(name, *args, split=False, **options):
    """Tensors and an optimizer of ours, and of torch's in float64; split: in two groups."""
    start = [random(i, *shape) for i, shape in enumerate(SHAPES)]
    mine = [Tensor(each.copy(), requires_grad=True) for each in start]
    others = [torch.tensor(each.astype(np.float64), requires_grad=True) for each in start]
    groups = [[{"params": p[:1]}, {"params": p[1:], "lr": 0.03}] if split else p for p in (mine, others)]
    return (
        mine,
        others,
        *(getattr(m, name)(g, *args, **options) for m, g in zip((optim, torch.optim), groups, strict=True)),
    )


def step(mine, others, ours, theirs, seed, scale=1.0):
    """One step of each by the same random gradients."""
    for i, (tensor, other) in enumerate(zip(mine, others, strict=True)):
        tensor.grad = random(100 * seed + i, *tensor.shape)
        other.grad = torch.tensor(scale * tensor.grad.astype(np.float64))
    ours.step(scale)
    theirs.step()


def same(mine, others):
    for tensor, other in zip(mine, others, strict=True):
        np.testing.assert_allclose(tensor.data, other.detach().numpy(), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Adam", {}),
        ("Adam", {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-4}),
        ("AdamW", {}),
        ("RMSprop", {}),
        ("RMSprop", {"weight_decay": 0.1, "momentum": 0.8, "alpha": 0.9, "eps": 1e-4}),
        ("SGD", {"momentum": 0.9}),
    ],
    ids=str,
)
def test_steps_are_those_of_torch(name, options, scale):
    pair = both(name, 0.02, **options)
    held = [tensor.data.copy() for tensor in pair[0]]
    for seed in range(1, 9):
        step(*pair, seed, scale)
    same(*pair[:2])
    assert all(np.abs(tensor.data - each).max() > 0.05 for tensor, each in zip(pair[0], held, strict=True))
    assert np.array_equal(pair[0][0].grad, random(800, *SHAPES[0]))  # a decay is not put into the user's gradients
    assert getattr(optim, name).defaults["lr"] == getattr(torch.optim, name)([torch.zeros(1)]).defaults["lr"]


def test_rates_are_set_by_group():
    pair = both("Adam", 0.01, split=True)
    for seed in range(1, 4):
        for optimizer in pair[2:]:
            for group in optimizer.param_groups:
                group["lr"] *= 0.5
        step(*pair, seed)
    same(*pair[:2])
    (first, second), (other, _) = (each.param_groups for each in pair[2:])
    assert first["lr"] == other["lr"] == 0.00125 and second["lr"] == 0.03 / 8
    assert (
        first["params"] == pair[0][:1] and {"betas", "eps", "weight_decay"} < set(first) and pair[2].rate == first["lr"]
    )


def test_a_scheduler_moves_all_groups():
    pair = both("SGD", lr=0.1, split=True)

    def factor(epoch):
        return 1 / (epoch + 1)

    schedulers = [m.lr_scheduler.LambdaLR(o, factor) for m, o in zip((optim, torch.optim), pair[2:], strict=True)]
    for seed in range(1, 5):
        step(*pair, seed)
        for each in schedulers:
            each.step()
        assert schedulers[0].get_last_lr() == pytest.approx(schedulers[1].get_last_lr())
    same(*pair[:2])
    assert schedulers[0].get_last_lr() == pytest.approx([0.02, 0.006])


@pytest.mark.filterwarnings("ignore:Detected call of")  # of the scheduler before the optimizer
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 100])
@pytest.mark.parametrize("warmup", [0, 2, 6])
def test_one_cycle_is_torchs(steps, warmup):
    factor = optim.one_cycle(steps, warmup)
    assert 0 < factor(steps + 5) <= 1
    if warmup > steps:
        return
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    share = {"pct_start": warmup / steps} if warmup else {}
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps, cycle_momentum=False, **share)
    for step in range(steps):
        assert factor(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        if step + 1 < steps:
            theirs.step()


def test_refusals():
    x = Tensor(np.ones(3), requires_grad=True)
    assert optim.SGD(params=[x], lr=0.5).rate == 0.5
    for name, options, found in (
        ("Adam", {"betas": (1.0, 0.9)}, r"betas are \(1.0, 0.9\), allowed is from 0 to below 1"),
        ("RMSprop", {"alpha": 1.0}, "RMSprop: alpha is 1.0, allowed is from 0 to below 1"),
        ("RMSprop", {"centered": True}, "RMSprop: option centered, known are lr, alpha"),
        ("Adam", {"lr": -1.0}, "lr is -1.0, allowed is 0 or more"),
    ):
        with pytest.raises(ValueError, match=found):
            getattr(optim, name)([x], **options)
