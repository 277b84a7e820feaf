"""A run of the Trainer on shards, step by step beside the loop that a user of PyTorch would write."""

import math

import numpy as np
import pytest
import tiny_training as tiny
import torch
from training_cases import both_new

from pyllm import _core
from pyllm.data import Packed, Shards
from pyllm.train import Trainer, TrainingArguments, read

STEPS, WARMUP, RATE, BATCH, MANY = 200, 20, 2e-3, 4, 2


@pytest.fixture(autouse=True)
def one_thread():
    """Products this small are slower with several."""
    before = _core.threads(), torch.get_num_threads()
    _core.set_threads(1)
    torch.set_num_threads(1)
    yield
    _core.set_threads(before[0])
    torch.set_num_threads(before[1])


def padded(batch):
    """(ids, targets) of PyTorch, (documents, longest): each a row that begins at position 0, filled up with -100."""
    spans = list(zip(batch.starts[:-1], batch.starts[1:], strict=True))
    ids = torch.zeros(len(spans), max(end - start for start, end in spans), dtype=torch.int64)
    targets = torch.full_like(ids, -100)
    for row, (start, end) in enumerate(spans):
        ids[row, : end - start] = torch.tensor(batch.ids[start:end])
        targets[row, : end - start] = torch.tensor(batch.targets[start:end])
    return ids, targets


def factor(step):
    """A straight rise to the peak, then half a cosine down to a tenth of it."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def torch_run(model, data):
    """(loss, norm of the gradient, rate) of each step: matrices decay, all gradients are clipped to 1 together."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for step in range(STEPS):
        batches = [padded(data.batch((step * MANY + i) * BATCH, BATCH)) for i in range(MANY)]
        count = sum(int((targets != -100).sum()) for _, targets in batches)
        total = 0.0
        optimizer.zero_grad()
        for ids, targets in batches:
            logits = model(ids).logits.flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum") / count
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
        yield total, norm, rate


def test_200_logged_steps_are_pytorchs(tmp_path):
    sizes = {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": tiny.POSITIONS, "vocab_size": tiny.VOCABULARY}
    mine, theirs = both_new(tmp_path / "m", "gpt2", **sizes)
    data = Packed(Shards(tiny.shards(tmp_path / "p", documents=60)), tiny.POSITIONS, seed=5)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=STEPS, warmup_steps=WARMUP, learning_rate=RATE, weight_decay=0.1,
        per_device_train_batch_size=BATCH, gradient_accumulation_steps=MANY, max_grad_norm=1.0,
        lr_scheduler_type="cosine", save_steps=0,
    )  # fmt: skip
    assert Trainer(mine, data, arguments).train().complete
    found = np.array([[line[name] for name in ("loss", "grad_norm", "lr")] for line in read(tmp_path / "run")])
    expected = np.array(list(torch_run(theirs, data)))
    assert found.shape == expected.shape == (STEPS, 3)
    assert len(data) < STEPS * BATCH * MANY  # several epochs, each in its own order
    clipped = expected[:, 1] > 1
    assert clipped.any() and not clipped.all() and expected[-1, 0] < 0.6 * expected[0, 0]
    assert np.abs(found[:, 0] - expected[:, 0]).max() <= 1e-4
    assert np.abs(found[:, 1] / expected[:, 1] - 1).max() <= 1e-2
    assert np.allclose(found[:, 2], expected[:, 2], rtol=1e-12)
