"""Adafactor beside torch.optim.Adafactor and beside its equations in float64; a killed run goes on to the same bits."""

import json

import numpy as np
import pytest
import tiny_training
import torch
from kernel_checks import random
from tiny_training import end_of, trainer

from pyllm.optim import Adafactor
from pyllm.tensor import Tensor
from pyllm.train import Callback

SHAPES = ((7, 5), (5,), (1, 9), (33, 1), (3, 4, 6))


@pytest.mark.parametrize("decay", (0.0, 0.1))
@pytest.mark.parametrize("scale", (1.0, 0.25))
def test_steps_are_those_of_torch(decay, scale):
    """With gradients beside which torch's bound of 1.2e-7 is nothing."""
    start = [random(shape, i) for i, shape in enumerate(SHAPES)]
    mine = [Tensor(each.copy(), requires_grad=True) for each in start]
    others = [torch.tensor(each.astype(np.float64), requires_grad=True) for each in start]
    ours = Adafactor(mine, lr=0.3, weight_decay=decay)
    theirs = torch.optim.Adafactor(others, lr=0.3, weight_decay=decay)
    for step in range(1, 21):  # past 11, from where 1 / sqrt(t) is below 0.3
        for i, (tensor, other) in enumerate(zip(mine, others, strict=True)):
            tensor.grad = random(tensor.shape, 100 * step + i)
            other.grad = torch.tensor(scale ** (step % 3) * tensor.grad.astype(np.float64))
        ours.step(scale ** (step % 3))  # not the same at every step, which would change nothing
        theirs.step()
    for tensor, other, first in zip(mine, others, start, strict=True):
        np.testing.assert_allclose(tensor.data, other.detach().numpy(), rtol=2e-4, atol=2e-5)
        assert np.abs(tensor.data - first).max() > 0.1


@pytest.mark.parametrize("size", (1e-4, 1e-9, 1e3))
def test_small_and_absent_gradients_are_those_of_the_paper(size):
    start, (eps1, eps2) = random((6, 4), 0), (1e-30, 1e-3)
    mine, twin = Tensor(start.copy(), requires_grad=True), start.astype(np.float64)
    optimizer = Adafactor([mine])
    r, c = np.zeros(6), np.zeros(4)
    for t in range(1, 9):
        mine.grad = size * random((6, 4), t)
        mine.grad[2], mine.grad[:, 1] = 0, 0  # a token that did not occur
        g = mine.grad.astype(np.float64)
        r += ((g**2 + eps1).mean(axis=1) - r) * t**-0.8
        c += ((g**2 + eps1).mean(axis=0) - c) * t**-0.8
        u = g / np.sqrt(np.outer(r, c) / r.mean())
        u /= max(1, np.sqrt((u**2).mean()))
        twin -= max(eps2, np.sqrt((twin**2).mean())) * min(1e-2, t**-0.5) * u
        optimizer.step()
        np.testing.assert_allclose(mine.data, twin, rtol=1e-5, atol=1e-6)
    assert np.array_equal(mine.data[2], start[2]) and np.abs(twin - start).max() > 0.01


class Killed(Exception):
    pass


class Kill(Callback):
    """After a step, as a crash would."""

    def on_step_end(self, trainer, values):
        if trainer.step == 17:
            raise Killed


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    told = {"optim": "adafactor", "learning_rate": 0.05, "max_steps": 40, "save_steps": 3}
    whole = trainer(tmp_path / "whole", tiny_training.Random(), **told)
    whole.train()
    losses = [json.loads(line)["loss"] for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 40 and losses[-1] < losses[0] - 0.5
    with pytest.raises(Killed):
        trainer(tmp_path / "killed", tiny_training.Random(), [Kill()], **told).train()
    trainer(tmp_path / "killed", tiny_training.Random(), **told).train()
    assert end_of(tmp_path / "whole") == end_of(tmp_path / "killed")


def test_what_it_keeps_and_refuses():
    tensors = [Tensor(random(shape, 0), requires_grad=True) for shape in SHAPES]
    optimizer = Adafactor(tensors)
    assert optimizer.state_dict()["0.means"].size == (7 + 5) + 5 + (1 + 9) + (33 + 1) + 3 * (4 + 6)
    with pytest.raises(ValueError, match=r"Adafactor: beta2_decay is 0.8, allowed is 0 or less"):
        Adafactor(tensors, beta2_decay=0.8)
    with pytest.raises(ValueError, match=r"Adafactor: eps is \(0.0, 0.001\), allowed are two numbers of 1e-37 or more"):
        Adafactor(tensors, eps=(0.0, 1e-3))
    with pytest.raises(ValueError, match="Adafactor: lr is -1, allowed is 0 or more"):
        Adafactor(tensors, lr=-1)
