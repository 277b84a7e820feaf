"""Pieces that are run again on the way back: the same bits as without, less memory, whatever surrounds them."""

import gc
import json
import subprocess
import sys
import threading
import weakref
from contextlib import ExitStack

import numpy as np
import pytest
import tiny_families
import tiny_models
import tiny_training
from gradient_checks import learn
from kernel_checks import random, same_bits

import pyllm
import pyllm.cli.main
from pyllm import checkpoint, no_grad, ops
from pyllm.autograd import enabled
from pyllm.ops.dropout import noise_now
from pyllm.ops.precision import product_type
from pyllm.optim import AdamW
from pyllm.tensor import Tensor
from pyllm.train import LoraConfig, TrainingArguments, add_adapter

A, W = random((3, 4), 0), random((4, 4), 1)
AGAIN = "checkpoint: the function computed something else when it was run again; allowed is the same"


def bits(loss, tensors):
    """Of a result and all gradients, after the walk back."""
    loss.backward(np.full(loss.shape, 0.7, np.float32))
    return [loss.data.tobytes(), *(None if t.grad is None else t.grad.tobytes() for t in tensors)]


def both(f, *arrays):
    """f(run, *tensors) with pieces that are kept and with pieces that are run again: equal bits."""
    kept, again = ([*learn(*arrays)] for _ in range(2))
    expected = bits(f(lambda function, *x: function(*x), *kept), kept)
    assert bits(f(checkpoint, *again), again) == expected and any(expected[1:])


# --- the function ---


def test_parameters_that_are_not_given_get_their_gradients():
    both(lambda run, x, w: run(lambda h: ops.tanh(ops.linear(h, w)) @ w, x * 2).sum(), A, W)
    both(lambda run, w: run(lambda x: ops.tanh(ops.linear(x, w)), A).sum(), W)  # nothing given needs a gradient


def test_a_piece_amid_uses_of_the_same_tensors():
    """Three and more gradients of one tensor are added in the order in which they were without pieces."""

    def f(run, x, w):
        h, k = x * 1.3, ops.tanh(x)
        y = run(lambda a, b: ops.linear_add(b, ops.gelu(a), w) * k + ops.softmax(a), h, k)
        return (y + h * k + ops.linear(h, w) + ops.linear_add(k, y, w)).sum()

    both(f, A, W)


@pytest.mark.parametrize("seed", range(20))
def test_random_graphs_in_random_pieces(seed):
    draw = np.random.default_rng(seed)
    plan = [[int(n) for n in draw.integers(0, (8, 1 << 30, 1 << 30, 3))] for _ in range(30)]
    moves = (
        lambda a, b: a + b, lambda a, b: ops.tanh(a) * b, lambda a, b: ops.softmax(a), lambda a, b: ops.tanh(a @ b),
        lambda a, b: ops.linear_add(a, ops.gelu(b), a), lambda a, b: a.T + b, lambda a, b: ops.rms_norm(a, b[0]),
        lambda a, b: ops.concatenate([a[:1], b[1:]]),
    )  # fmt: skip

    def f(run, *given):
        def piece(pool, depth, steps):
            pool = list(pool)
            while steps:
                kind, i, j, down = steps.pop(0)
                if down == 0 and depth:
                    return pool[-1] + pool[-2]  # what was between is needed no more, or is by a closure
                if down == 1 and depth < 3:
                    pool.append(run(lambda *x, rest=tuple(steps): piece(x, depth + 1, list(rest)), *pool[-3:]))
                    del steps[: len(steps) // 2]
                pool.append(moves[kind](pool[i % len(pool)], pool[j % len(pool)]))
            return ops.tanh(pool[-1] + pool[-2] + pool[-3])

        return piece(given, 0, list(plan)).sum()

    both(f, *(random((4, 4), 100 * seed + i, 0.5) for i in range(3)))


def test_several_results_walked_one_by_one():
    kept, again = learn(A, W), learn(A, W)
    found = []
    for run, (x, w) in [(lambda f, h: f(h), kept), (checkpoint, again)]:
        up, down = run(lambda h, w=w: (ops.linear(h, w), ops.tanh(h)), x * 2)
        up.sum().backward()
        found.append([x.grad.tobytes(), w.grad.tobytes()])
        with pytest.raises(ValueError, match="this graph has been walked already"):
            down.sum().backward()  # by way of x * 2, as without pieces
    assert found[0] == found[1]


def test_pieces_within_pieces_are_run_as_often_as_they_lie_deep():
    calls = []

    def deep(x, n):
        calls.append(n)
        return ops.tanh(x) if n == 0 else checkpoint(lambda y: deep(ops.tanh(y), n - 1), x) * 2

    x, other = learn(A, A)
    deep(x, 3).sum().backward()
    assert [calls.count(n) for n in range(3, -1, -1)] == [1, 2, 3, 4]
    h = other
    for _ in range(3):
        h = ops.tanh(h)
    (ops.tanh(h) * 2 * 2 * 2).sum().backward()
    assert same_bits(x.grad, other.grad)


def test_what_it_ran_under_is_there_again():
    """autocast, noise and documents are over, or others, when the gradient comes, perhaps in another thread."""
    q, w = random((12, 8), 3), random((8, 8), 4)

    def layer(x, w):
        seen.append((product_type(), enabled()))
        seed, offset = noise_now()
        h = ops.dropout(x, 0.3, seed, 5, offset)
        h = ops.linear(h, w)
        return ops.self_attention(h, None, [(w, None)] * 3, 2, 2, 0, 0.5)

    def f(run, x, w):
        with ops.autocast("bf16"), ops.noise(3, 9), ops.documents([0, 5, 12]):
            return run(layer, x, w)

    found = []
    for run in (lambda f, *x: f(*x), checkpoint):
        tensors, seen = learn(q, w), []
        y = f(run, *tensors)
        with no_grad(), ops.noise(4, 4), ops.documents([0, 1, 12]), ops.autocast("fp32"):
            walk = threading.Thread(target=lambda y=y, tensors=tensors: found.append(bits(y, tensors)))
            walk.start()
            walk.join()
        assert seen[-1] == ("BF16", True) and product_type() == "F32" and noise_now() is None
    assert seen[:-1] == [("BF16", False)] and found[0] == found[1]


def test_where_nothing_learns_it_just_runs():
    calls = []

    def double(x):
        calls.append(enabled())
        return x * 2.0

    (x,) = learn(A)
    with no_grad():
        assert not checkpoint(double, x).requires_grad
    assert same_bits(checkpoint(double, A), A * 2) and not checkpoint(double, Tensor(A)).requires_grad
    assert calls == [False] * 3
    with pytest.raises(RuntimeError, match="inside"):
        checkpoint(lambda x: (_ for _ in ()).throw(RuntimeError("inside")), x)
    assert enabled() and (x * 2).requires_grad


def test_a_piece_is_walked_once():
    (x,) = learn(A)
    loss = checkpoint(ops.tanh, x).sum()
    loss.backward()
    first = x.grad.copy()
    with pytest.raises(ValueError, match="backward: this graph has been walked already"):
        loss.backward()
    assert same_bits(x.grad, first)


def test_a_function_that_changes_is_refused():
    x, w = learn(A, W)
    other = {
        "fewer": lambda x: x * 2, "more": lambda x: ops.tanh(ops.tanh(x * 2)), "shape": lambda x: ops.tanh((x * 2)[:2]),
        "tensor": lambda x: ops.tanh(x @ w), "none": lambda x: A, "uses": lambda x: ops.tanh(w[:3] * 2),
    }  # fmt: skip
    for name, then in other.items():
        functions = iter([lambda x: ops.tanh(x * 2), then])
        y = checkpoint(lambda x, functions=functions: next(functions)(x), x)
        with pytest.raises(ValueError, match=AGAIN):
            y.backward(np.ones(y.shape))
        with pytest.raises(ValueError, match="walked already"):
            y.backward(np.ones(y.shape))
        assert enabled() and x.grad is None, name
    once = iter([ops.tanh])
    y = checkpoint(lambda x: next(once)(x), x)
    with pytest.raises(StopIteration):
        y.sum().backward()
    assert enabled() and x.grad is None


def test_loss_within_a_piece_adds_up_where_the_optimizer_keeps_gradients():
    """Memory that is lent for a gradient before its walk is lent in the second run."""
    targets = np.arange(3) % 4
    found = []
    for run in (lambda f, *x: f(*x), checkpoint):
        x, w = learn(A, W)
        optimizer = AdamW([w], lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            for _ in range(2):
                run(lambda h, w=w: ops.linear_cross_entropy(ops.tanh(ops.linear(h, w)), w, targets), x).backward()
            optimizer.step()
        found.append([w.data.tobytes(), w.grad.tobytes(), x.grad.tobytes()])
    assert found[0] == found[1]


def test_nothing_is_kept_and_what_is_not_walked_is_let_go():
    made = []

    def f(x):
        h = x * 2
        made.append(weakref.ref(h))
        return ops.tanh(h)

    gc.disable()
    try:
        (x,) = learn(A)
        given = x * 3
        data, y = weakref.ref(given), checkpoint(f, given)
        assert made[0]() is None and enabled()
        del given
        assert data() is not None
        y.sum().backward()
        assert data() is None and made[1]() is None
        given = x * 3
        data, y = weakref.ref(given), checkpoint(lambda x: checkpoint(f, x), given)
        del given, y
        assert data() is None
    finally:
        gc.enable()


def test_a_trace_sees_what_is_run_again():
    model = tiny_training.model(n_layer=2)
    ids, targets, _ = tiny_training.Random().batch(0, 1)
    found = []
    for again in (False, True):
        model.zero_grad()
        if again:
            model.gradient_checkpointing_enable()
        with pyllm.trace(model) as trace:
            loss = model.loss(ids, targets)
        loss.backward()
        found.append([trace[name].tobytes() + trace.grad(name).tobytes() for name in sorted(trace.names())])
    assert found[0] == found[1]


# --- models ---


def tiny(folder, family, dtype=None):
    config = tiny_models.gpt2_config() if family == "gpt2" else tiny_families.config(family)
    weights = tiny_models.random_weights(config)
    if dtype is None:
        tiny_models.write_folder(folder / "model", config, weights)
    else:
        tiny_models.write_gguf(folder / "model", config, weights, dtype)
    return pyllm.AutoModelForCausalLM.from_pretrained(folder / "model")


def step(model, dtype, **noise):
    """Loss and all gradients of packed documents."""
    ids, targets = np.random.default_rng(1).integers(2, 300, (2, 70))
    with ExitStack() as stack:
        stack.enter_context(ops.documents([0, 1, 30, 70]))
        stack.enter_context(ops.autocast(dtype))
        if noise:
            stack.enter_context(ops.noise(**noise))
        loss = model.loss(ids, targets)
    return bits(loss, model.parameters())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["gpt2", *tiny_families.OWN])
def test_every_family_learns_with_the_same_bits(family, dtype, tmp_path):
    model = tiny(tmp_path, family).train()
    expected = step(model, dtype)
    model.zero_grad()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing and step(model, dtype) == expected and None not in expected
    ids = np.arange(2, 12)
    logits = model(ids).logits  # recorded, and run
    model.gradient_checkpointing_disable()
    model.forget_program()
    assert not model.is_gradient_checkpointing and same_bits(model(ids).logits, logits)


@pytest.mark.parametrize("stored", [None, "Q8_0"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox"])
def test_adapters_with_dropout_learn_with_the_same_bits(family, stored, tmp_path):
    model = tiny(tmp_path, family, stored)
    add_adapter(model, LoraConfig(r=4, lora_dropout=0.2))
    for i, part in enumerate(model.learned().values()):
        part.learn(random(part.shape, i, 0.1))
    expected, other = (step(model, "bf16", seed=1, batch=batch) for batch in (2, 3) if model.zero_grad() is None)
    model.zero_grad()
    model.gradient_checkpointing_enable()
    assert step(model, "bf16", seed=1, batch=2) == expected and expected[0] != other[0] and None not in expected


MEMORY = """
import sys
import numpy as np
from pyllm.auto import new_config, new_model

def taken(line):
    return 1024 * int(next(each for each in open("/proc/self/status") if each.startswith(line)).split()[1])

model = new_model(new_config("gpt2", n_embd=128, n_layer=12, n_head=4, n_positions=512, vocab_size=97))
if sys.argv[1] == "on":
    model.gradient_checkpointing_enable()
ids, targets = np.random.default_rng(0).integers(0, 97, (2, 8, 512))
model.loss(ids[:1, :8], targets[:1, :8]).backward()
before = taken("VmRSS")
model.loss(ids, targets).backward()
print(taken("VmHWM") - before)
"""


def test_less_memory_is_taken():
    """Twelve layers of 21 MB each, of which 2 MB are their inputs, and one layer's gradients."""
    took = {}
    for when in ("off", "on"):
        done = subprocess.run([sys.executable, "-c", MEMORY, when], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        took[when] = int(done.stdout)
    assert took["off"] > 200e6 and took["on"] < 0.4 * took["off"], took


# --- runs ---


@pytest.mark.parametrize("first", [False, True])
def test_a_run_goes_on_with_it_and_without(first, tmp_path):
    data = tiny_training.data_of("packed", tmp_path)
    arguments = {"bf16": True, "gradient_accumulation_steps": 2}
    tiny_training.trainer(tmp_path / "whole", data, **arguments).train()
    run = tiny_training.trainer(tmp_path / "run", data, gradient_checkpointing=first, **arguments)
    run.callbacks.append(Third())
    assert run.train().step == 3 and run.model.is_gradient_checkpointing == first
    run = tiny_training.trainer(tmp_path / "run", data, gradient_checkpointing=not first, **arguments)
    assert run.train().complete
    assert tiny_training.end_of(tmp_path / "run") == tiny_training.end_of(tmp_path / "whole")


class Third(pyllm.train.Callback):
    """Ends a run after three steps."""

    def on_step_end(self, trainer, values):
        if trainer.step == 3:
            trainer.stop()


def test_models_without_layers_are_refused(tmp_path):
    arguments = TrainingArguments(str(tmp_path), gradient_checkpointing=True)
    with pytest.raises(ValueError, match="train: gradient_checkpointing: MLP has no gradient_checkpointing_enable"):
        pyllm.Trainer(pyllm.MLP(2, 1), [1], arguments)
    with pytest.raises(ValueError, match="gradient_checkpointing is 1, allowed is True or False"):
        TrainingArguments(str(tmp_path), gradient_checkpointing=1)


def test_the_speed_of_a_step_is_measured_with_it(capsys):
    words = ["bench", "train", "--config", "n_layer=1,n_head=2,n_embd=32,n_positions=48,vocab_size=99", "--batch", "1",
             "--context", "8", "--runs", "1", "--json"]  # fmt: skip
    found = []
    for more in ([], ["--gradient-checkpointing"]):
        assert pyllm.cli.main.main([*words, *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert [each["gradient_checkpointing"] for each in found] == [False, True] and found[0]["loss"] == found[1]["loss"]
