"""NT-ASGD beside torch.optim.ASGD and Merity's own rule; the slanted triangle beside its formula."""

import math

import numpy as np
import pytest
import tiny_training
import torch
from kernel_checks import random, same_bits
from tiny_training import end_of, trainer

from pyllm.optim import NTASGD, schedule
from pyllm.tensor import Tensor
from pyllm.train import Callback


@pytest.mark.parametrize("decay", (0.0, 0.1))
def test_steps_and_average_are_those_of_torch(decay):
    start = random((5, 3), 0)
    mine, other = Tensor(start.copy(), requires_grad=True), torch.tensor(start.astype(np.float64), requires_grad=True)
    optimizer = NTASGD([mine], n=1, lr=0.3, weight_decay=decay)
    optimizer.heard(1.0)
    twin = None
    for step in range(1, 13):
        gradient = random((5, 3), step)
        if step == 5:  # the third loss is above the first one: averaging begins after four steps
            optimizer.heard(2.0)
            assert not optimizer.averaging
            optimizer.heard(3.0)
            assert optimizer.averaging
        if step == 5:
            twin = torch.optim.ASGD([other], lr=0.3, lambd=0.0, t0=0, weight_decay=decay)
        mine.grad = gradient
        optimizer.step()
        if twin is None:
            other.data -= 0.3 * (torch.tensor(gradient.astype(np.float64)) + decay * other.data)
        else:
            other.grad = torch.tensor(gradient.astype(np.float64))
            twin.step()
        np.testing.assert_allclose(mine.data, other.detach().numpy(), rtol=1e-5, atol=1e-6)
    average = twin.state[other]["ax"].numpy()
    with optimizer.averaged():
        np.testing.assert_allclose(mine.data, average, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mine.data, other.detach().numpy(), rtol=1e-5, atol=1e-6)
    optimizer.take_average()
    np.testing.assert_allclose(mine.data, average, rtol=1e-5, atol=1e-6)


def merity(losses, n):
    """After which of the losses averaging begins, as the paper's algorithm has it; None: never."""
    logs = []
    for t, loss in enumerate(losses):
        if t > n and loss > min(logs[: t - n]):
            return t
        logs.append(loss)
    return None


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("n", (1, 3, 5))
def test_averaging_begins_where_merity_says(seed, n):
    losses = 3 + np.cumsum(np.random.default_rng(seed).normal(-0.1, 0.3, 40)).astype(np.float32)
    optimizer, begun = NTASGD([Tensor(np.zeros(2), requires_grad=True)], n=n), None
    for t, loss in enumerate(losses):
        optimizer.steps += 1
        optimizer.heard(float(loss))
        if optimizer.averaging and begun is None:
            begun = t
            assert optimizer.clock[0] == t + 1
    assert begun == merity(losses.tolist(), n)


def test_a_run_goes_on_to_the_same_bits_and_ends_with_the_average(tmp_path):
    valid = tiny_training.Random(3)
    told = {"optim": "nt_asgd", "learning_rate": 40.0, "eval_steps": 1, "max_steps": 30, "max_grad_norm": 0.2}
    whole = trainer(tmp_path / "a", tiny_training.Random(), valid=valid, **told)
    whole.train()
    assert whole.optimizer.averaging and int(whole.optimizer.clock[0]) < 28
    ends = whole.model.learned_arrays()
    flat = np.concatenate([group.numbers for group in whole.optimizer.groups])
    assert same_bits(flat, np.concatenate([state["average"] for state in whole.optimizer.state]))
    first = trainer(tmp_path / "b", tiny_training.Random(), valid=valid, **told)
    first.callbacks.append(Stop(17))
    assert not first.train().complete
    again = trainer(tmp_path / "b", tiny_training.Random(), valid=valid, **told)
    assert again.train().complete
    assert all(same_bits(ends[name], array) for name, array in again.model.learned_arrays().items())
    assert end_of(tmp_path / "a") == end_of(tmp_path / "b")


class Stop(Callback):
    """Ends a run after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer, values):
        if trainer.step == self.step:
            trainer.stop()


def test_it_asks_for_what_it_judges_by(tmp_path):
    for valid, steps, found in ((None, 1, "no validation data"), (tiny_training.Random(3), 0, "eval_steps 0")):
        with pytest.raises(ValueError, match=f"nt_asgd with {found}"):
            trainer(tmp_path, tiny_training.Random(), valid=valid, optim="nt_asgd", eval_steps=steps)
    with pytest.raises(ValueError, match="optim is 'rms', allowed are adamw, adafactor, sgd, nt_asgd"):
        trainer(tmp_path, tiny_training.Random(), optim="rms")
    with pytest.raises(ValueError, match="NTASGD: n is 0"):
        NTASGD([Tensor(np.zeros(2), requires_grad=True)], n=0)


@pytest.mark.parametrize("steps", (1, 7, 40, 1000))
def test_the_slanted_triangle_is_its_formula(steps):
    factor, ratio, share = schedule("slanted_triangular", steps), 32, 0.1
    cut = max(1, math.floor(steps * share))
    for t in range(steps):
        p = t / cut if t < cut else 1 - (t - cut) / max(1, steps - cut)
        assert factor(t) == pytest.approx((1 + p * (ratio - 1)) / ratio)
        if cut == steps * share and t >= cut:  # the paper's own words, where the cut is no fraction
            assert p == pytest.approx(1 - (t - cut) / (cut * (1 / share - 1)))
    assert max(map(factor, range(steps))) == (1.0 if steps > 1 else factor(0))
    assert schedule("slanted_triangular", 100, 50)(50) == 1.0
