"""Runs that are stopped or interrupted anywhere, in any way, go on and end with the same bytes."""

import copy
import itertools
import math
import signal
import threading
from dataclasses import asdict

import numpy as np
import pytest
import tiny_training as tiny
import torch
from tiny_training import end_of, trainer
from transformers.trainer_pt_utils import LabelSmoother

from pyllm import _core, ops
from pyllm.auto import new_config, new_model
from pyllm.models.classifier import ClassifierConfig, TextClassifier
from pyllm.train import (
    Callback,
    CheckpointError,
    Checkpoints,
    Log,
    Trainer,
    TrainingArguments,
    TrainingError,
    check_facts,
    read,
    read_checkpoint,
)
from pyllm.train.checkpoint import plain

CASES = [
    ("packed", "fp32", 1, "cosine"),
    ("packed", "bf16", 3, "linear"),
    ("conversations", "fp32", 3, "one_cycle"),
    ("conversations", "bf16", 1, "inverse_sqrt"),
    ("packed", "bf16", 1, "constant"),
]


class Stop(Callback):
    """Does something after step `at`."""

    def __init__(self, at, action=Trainer.stop):
        self.at, self.action = at, action

    def on_step_end(self, trainer, values):
        if trainer.step == self.at:
            self.action(trainer)


def interrupt(owner, name, at, after, patch):
    """Let the method `name` of an object or a class raise KeyboardInterrupt once, at its `at`-th call: before or after
    its work.
    """
    method, calls = getattr(owner, name), itertools.count(1)

    def call(*words, **named):
        now = next(calls) == at
        if now and not after:
            raise KeyboardInterrupt
        found = method(*words, **named)
        if now:
            raise KeyboardInterrupt
        return found

    patch.setattr(owner, name, call)


def test_labels_are_smoothed_as_transformers_smooths_them(tmp_path):
    """Of language models, of encoder-decoders in place of their own, of classifiers; validation without."""
    data, pair = tiny.Random(), new_config("transformer", vocab_size=50, d_model=8, nhead=2, num_encoder_layers=1,
                                           num_decoder_layers=1, dim_feedforward=8, dropout=0.0)  # fmt: skip
    run = trainer(
        tmp_path, data, valid=data, label_smoothing_factor=0.3, max_steps=1, learning_rate=0.0, weight_decay=0
    )
    ids, targets, _ = data.batch(0, 2)
    result = run.train()

    def smoothed(logits, wanted, factor=0.3):
        out = {"logits": torch.tensor(np.asarray(logits, np.float32))}
        return LabelSmoother(epsilon=factor)(out, torch.tensor(np.asarray(wanted, np.int64))).item()

    logits = np.concatenate([run.model.eval()(row).logits for row in ids.reshape(2, -1)])
    order = data.batch(0, 12)
    losses = [read(tmp_path)[0]["loss"], smoothed(logits, targets.reshape(2, -1))]
    every = np.concatenate([run.model(row).logits for row in order.ids.reshape(12, -1)])
    losses += [result.valid_loss, smoothed(every, order.targets.reshape(12, -1), 0.0)]
    model = new_model(pair)
    with ops.smoothing(0.3), ops.documents(np.array([0, 3, 6])):
        losses.append(model.loss(np.array([4, 5, 6, 0, 7, 8]), np.array([-100] * 3 + [7, 8, 0])).item())
    losses.append(
        smoothed(model.eval()(np.array([[4, 5, 6]]), decoder_input_ids=np.array([[0, 7, 8]])).logits, [[7, 8, 0]])
    )
    classifier = TextClassifier(tiny.model(), ClassifierConfig(("a", "b", "c"), "last", 0)).train()
    with ops.smoothing(0.3):
        losses.append(classifier.loss(np.array([[4, 5, 6]]), np.array([2])).item())
    losses.append(smoothed(classifier.eval().logits([np.array([4, 5, 6], np.int32)]), [2]))
    assert np.allclose(losses[::2], losses[1::2], rtol=1e-4), losses
    with pytest.raises(ValueError, match="label_smoothing_factor is 1, allowed is 0 up to"):
        trainer(tmp_path / "x", data, label_smoothing_factor=1)
    assert "label_smoothing_factor" not in TrainingArguments("x").binding()


@pytest.fixture(autouse=True)
def threads():
    """Whatever a test sets, the next one begins with the usual number of threads."""
    before = _core.threads()
    yield
    _core.set_threads(before)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: " ".join(map(str, case)))
def case(request, tmp_path_factory):
    """(data, arguments, what an undisturbed run of them ends with)."""
    kind, dtype, accumulate, schedule = request.param
    folder = tmp_path_factory.mktemp("case")
    data = tiny.data_of(kind, folder)
    arguments = {"bf16": dtype == "bf16", "gradient_accumulation_steps": accumulate, "lr_scheduler_type": schedule,
                 "warmup_steps": 2, "valid": tiny.Random(3), "eval_steps": 3}  # fmt: skip
    result = trainer(folder / "run", data, **arguments).train()
    assert result.complete and result.step == 6 and math.isfinite(result.loss) and math.isfinite(result.valid_loss)
    assert [line["step"] for line in read(folder / "run") if "valid_loss" in line] == [3, 6]
    return data, arguments, end_of(folder / "run")


def goes_on(folder, case, threads=1):
    """A new trainer goes on to the end, with so many threads and another beginning that must not matter."""
    data, arguments, end = case
    _core.set_threads(threads)
    result = trainer(folder, data, seed=99, **arguments).train()
    assert result.complete and end_of(folder) == end
    return True


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_stopped_run_ends_with_the_same_bytes(case, at, tmp_path):
    data, arguments, _ = case
    result = trainer(tmp_path / "run", data, [Stop(at)], **arguments).train()
    assert (result.step, result.complete) == (at, False)
    assert goes_on(tmp_path / "run", case, 1 + at % 3)


PLACES = {  # owner and method, and the call at which it is disturbed, for `many` batches in a step
    "batch": (lambda run: run.data, "batch", lambda many: 3 * many),
    "loss": (lambda run: run.model, "loss", lambda many: 4 * many),
    "norm": (lambda run: run.optimizer, "grad_norm", lambda many: 4),
    "update": (lambda run: run.optimizer, "update", lambda many: 6),  # one group has changed, or both
    "step": (lambda run: run.optimizer, "step", lambda many: 5),
    "evaluate": (lambda run: run.valid, "batch", lambda many: 2),
    "log": (lambda run: Log, "add", lambda many: 4),
    "timings": (lambda run: Log, "time", lambda many: 4),
    "save": (lambda run: Checkpoints, "save", lambda many: 2),
    "last evaluation": (lambda run: run, "evaluate", lambda many: 2),
    "last log": (lambda run: Log, "add", lambda many: 6),
}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("case", CASES[1:3], indirect=True)
def test_an_interrupt_anywhere_ends_with_the_same_bytes(case, place, after, tmp_path, monkeypatch):
    """Mid-accumulation, in the model, half-way through the weights, in the evaluation, the log and the save."""
    data, arguments, end = case
    run = trainer(tmp_path / "run", copy.copy(data), **(arguments | {"valid": copy.copy(arguments["valid"])}))
    owner, name, at = PLACES[place]
    with monkeypatch.context() as patch:
        interrupt(owner(run), name, at(run.arguments.gradient_accumulation_steps), after, patch)
        result = run.train()
    whole = place == "last log" and after
    assert not result.complete or whole
    folder = tmp_path / "run"
    newest = max(int(path.name[-8:]) for path in folder.glob("checkpoint-*"))
    assert result.step == newest and read_checkpoint(folder / f"checkpoint-{newest:08d}")[0] == newest
    again = run.train()  # the same trainer, in the same process
    assert again.complete and end_of(folder) == end


def test_an_interrupt_saves_what_is_whole(tmp_path, monkeypatch):
    """Before the weights change the steps so far are saved; between two steps only what was saved before counts."""
    for name, at, saved in [("grad_norm", 4, 3), ("step", 4, 2)]:
        run = trainer(tmp_path / name, tiny.Random())
        interrupt(run.optimizer, name, at, False, monkeypatch)
        assert run.train().step == saved
    run = trainer(tmp_path / "first", tiny.Random())
    with monkeypatch.context() as patch:
        interrupt(run.optimizer, "update", 1, True, patch)
        assert run.train()[:4] == (0, run.loss, None, False)
    with pytest.raises(TrainingError, match="train: the weights are between two steps, nothing was saved; make the"):
        run.train()
    assert not list((tmp_path / "first").glob("checkpoint-*"))


def test_the_first_signal_waits_for_the_step_and_the_second_does_not(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    once = trainer(tmp_path / "once", tiny.Random(), [Stop(3, lambda run: signal.raise_signal(signal.SIGINT))])
    once.optimizer.update = raised(once.optimizer.update, 3)  # both at the third step: the second is too late to matter
    assert once.train()[:4] == (2, once.loss, None, False)
    once = trainer(tmp_path / "once", tiny.Random(), [Stop(3, lambda run: signal.raise_signal(signal.SIGINT))])
    assert once.train()[0::3] == (3, False)
    assert signal.getsignal(signal.SIGINT) is before
    assert trainer(tmp_path / "once", tiny.Random()).train().complete
    trainer(tmp_path / "calm", tiny.Random()).train()
    assert end_of(tmp_path / "once") == end_of(tmp_path / "calm")


def raised(update, step):
    """An update in which, at this step, Ctrl-C is pressed twice."""
    calls = itertools.count(2)

    def twice(*words):
        update(*words)
        if next(calls) == 2 * step:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    return twice


def test_other_threads_and_handlers_keep_their_signals(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(trainer(tmp_path / "a", tiny.Random()).train()))
    thread.start()
    thread.join()
    assert results[0].complete
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        stop = Stop(2, lambda run: signal.raise_signal(signal.SIGINT))
        assert trainer(tmp_path / "b", tiny.Random(), [stop]).train().complete and seen == [1]
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_damaged_checkpoint_is_passed_over(case, tmp_path, caplog):
    data, arguments, _ = case
    trainer(tmp_path, data, [Stop(5)], **arguments).train()
    newest = tmp_path / "checkpoint-00000005" / "tensors.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert goes_on(tmp_path, case) and "checkpoint-00000005/tensors.safetensors" in caplog.text


def test_a_run_without_any_sound_checkpoint_does_not_begin_anew(tmp_path):
    trainer(tmp_path, tiny.Random()).train()
    for path in tmp_path.glob("checkpoint-*/manifest.json"):
        path.write_bytes(b"{}")
    with pytest.raises(TrainingError, match=r"no checkpoint of .* is sound; checkpoint-00000006/manifest.json: "):
        trainer(tmp_path, tiny.Random()).train()
    assert len(list(tmp_path.glob("checkpoint-*"))) == 2 and len(read(tmp_path)) == 6


def test_a_finished_run_says_how_it_ended(tmp_path):
    first = trainer(tmp_path, tiny.Random(), valid=tiny.Random(3)).train()
    end = end_of(tmp_path)
    assert trainer(tmp_path, tiny.Random(), valid=tiny.Random(3)).train() == first and end_of(tmp_path) == end


def test_one_trainer_can_be_stopped_and_goes_on(tmp_path):
    stop = Stop(3)
    run = trainer(tmp_path / "run", tiny.Random(), [stop])
    assert run.train().step == 3
    assert run.train()[:4] == (6, run.loss, None, True)
    trainer(tmp_path / "calm", tiny.Random()).train()
    assert end_of(tmp_path / "run") == end_of(tmp_path / "calm")


def test_runs_of_older_versions_go_on_where_what_they_do_not_name_is_as_usual():
    pair, texts = asdict(new_config("transformer", vocab_size=50)), plain(asdict(ClassifierConfig(("a", "b"))), "texts")
    for part, now, later in (("config", pair, "bias"), ("settings", texts, "problem_type")):
        saved = {part: {name: value for name, value in now.items() if name != later}}
        check_facts(saved, {part: now}, (part,))
        with pytest.raises(CheckpointError, match=f"{part}.{later} is "):
            check_facts(saved, {part: now | {later: False}}, (part,))
