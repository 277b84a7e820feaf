"""What a run refuses by name, and what it leaves alone while it does: the checkpoints it had."""

import errno
import math
import os
import re

import numpy as np
import pytest
import tiny_training as tiny
from tiny_training import end_of, trainer

from pyllm.train import Callback, CheckpointError, Checkpoints, ProgressBar, TrainingArguments, TrainingError, read
from pyllm.train import trainer as module

FACTS = {"config": {"n_embd": 32}, "data": "sha of the data", "tokenizer": {"sha256": "ab"}}


class Seen(Callback):
    """Notes every call."""

    def __init__(self, name, into):
        self.name, self.into = name, into

    def on_train_begin(self, trainer):
        self.into.append((self.name, "begin", trainer.step))

    def on_step_end(self, trainer, values):
        names = {"loss", "lr", "grad_norm", "seconds", "tokens_per_second", "share_of_peak"}
        assert names <= set(values) <= names | {"valid_loss"} and trainer.loss == values["loss"]
        self.into.append((self.name, "step", trainer.step))

    def on_evaluate(self, trainer, step, loss):
        assert trainer.valid_loss == loss
        self.into.append((self.name, "evaluate", step))

    def on_train_end(self, trainer):
        self.into.append((self.name, "end", trainer.step))


class Edited:
    """`inner`, each batch changed by a function of (ids, targets)."""

    def __init__(self, change, inner=None):
        self.change, self.inner = change, inner or tiny.Random()

    def __len__(self):
        return len(self.inner)

    def batch(self, position, size):
        batch = self.inner.batch(position, size)
        self.change(batch.ids, batch.targets)
        return batch


def test_callbacks_are_told_in_order_even_when_a_run_fails(tmp_path):
    seen = []
    callbacks = [Seen("a", seen), Seen("b", seen)]
    told = {"valid": tiny.Random(3), "max_steps": 3, "eval_steps": 2}
    trainer(tmp_path / "new" / "folder", tiny.Random(), callbacks, **told).train()
    wanted = [("begin", 0), ("step", 1), ("evaluate", 2), ("step", 2), ("evaluate", 3), ("step", 3), ("end", 3)]
    assert seen == [(name, *call) for call in wanted for name in "ab"]
    assert (tmp_path / "new" / "folder" / "checkpoint-00000003").is_dir()
    seen.clear()
    poisoned = trainer(tmp_path / "b", tiny.Random(), callbacks[:1])
    poisoned.model.parameters()[0].data[...] = np.nan
    with pytest.raises(TrainingError):
        poisoned.train()
    assert seen == [("a", "begin", 0), ("a", "end", 0)]


@pytest.mark.parametrize("name", ["transformer.h.0.mlp.c_fc.weight", "ln_f", "wte"])
def test_a_weight_that_is_not_finite_is_named_and_nothing_is_overwritten(tmp_path, name):
    """The first tensor that is not finite, though the gradients of all before it are not, either."""
    run = trainer(tmp_path, tiny.Random(), max_steps=4)
    run.train()
    end = end_of(tmp_path)
    again = trainer(tmp_path, tiny.Random(), max_steps=4)
    full = list(again.model.own_parameters())
    chosen = full[len(full) // 2] if name.startswith("transformer") else full[-1] if name == "ln_f" else full[0]
    again.total = 9
    restore = again._restore

    def spoiled(*found):
        restore(*found)
        again.model.own_parameters()[chosen].value.data.reshape(-1)[-1] = np.inf

    again._restore = spoiled
    said = f"train: step 5: loss (nan|inf|-inf|[0-9.]+); the weight {re.escape(chosen)} is not finite; a lower learning"
    with pytest.raises(TrainingError, match=said):
        again.train()
    assert end_of(tmp_path) == end


def test_a_gradient_that_is_not_finite_is_named(tmp_path):
    run = trainer(tmp_path, tiny.Random())
    name = list(run.model.own_parameters())[3]
    norm = run.optimizer.grad_norm

    def spoiled():
        if run.step == 3:
            run.model.own_parameters()[name].value.grad.reshape(-1)[0] = np.nan
        return norm()

    run.optimizer.grad_norm = spoiled
    with pytest.raises(TrainingError, match=f"train: step 4: loss [0-9.]+; the gradient of {re.escape(name)} is not"):
        run.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-00000002"]
    assert trainer(tmp_path, tiny.Random()).train().complete  # what was saved is sound


@pytest.mark.parametrize("rate", [1e30, 3e38])
def test_a_huge_rate_never_leaves_a_checkpoint_that_is_not_finite(tmp_path, rate):
    """Weights may overflow in the very step that is to be saved, with a finite loss before."""
    run = trainer(tmp_path, tiny.Random(), learning_rate=rate, save_steps=1, max_grad_norm=0.0, weight_decay=9.0)
    with pytest.raises(TrainingError, match=r"train: (after )?step \d+: .*is not finite"):
        run.train()
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.newest()
    assert found is None or all(np.isfinite(array).all() for array in found[1].values())


def test_no_targets_at_all(tmp_path):
    """Nothing is learned from them and nothing breaks; an evaluation without targets has no mean."""
    nothing = Edited(lambda ids, targets: targets.fill(-100))
    result = trainer(tmp_path, nothing, valid=nothing, weight_decay=0.0).train()
    assert result.complete and result.loss == 0.0 and math.isnan(result.valid_loss)
    first, last = tiny.model().train().learned_arrays(), end_of(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        tensors = checkpoints.newest()[1]
    assert last and all(np.array_equal(tensors[f"model.{name}"], array) for name, array in first.items())
    assert math.isnan(read(tmp_path)[-1]["valid_loss"]) and read(tmp_path)[-1]["grad_norm"] == 0.0


def test_data_smaller_than_a_batch_goes_round(tmp_path):
    run = trainer(tmp_path, tiny.Random(3), per_device_train_batch_size=5, gradient_accumulation_steps=2, max_steps=0)
    assert run.total == 1
    assert run.train()[:4] == (1, run.loss, None, True) and read(tmp_path)[0]["samples"] == 10


def test_epochs_become_steps():
    def steps(samples, **told):
        return TrainingArguments("run", 4, **told).total_steps(samples)

    assert (steps(40), steps(43), steps(40, num_train_epochs=2.5), steps(1)) == (10, 10, 25, 1)
    assert steps(40, max_steps=3) == 3 and steps(40, gradient_accumulation_steps=5) == 2


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda ids, targets: ids.__setitem__(7, 400), IndexError, "embedding: ids reach from .* to 400, allowed"),
        (lambda ids, targets: ids.__setitem__(7, -1), IndexError, "embedding: ids reach from -1 to"),
        (lambda ids, targets: targets.__setitem__(7, 400), IndexError, "cross_entropy: target 400 at 7, allowed"),
        (lambda ids, targets: targets.__setitem__(9, -7), IndexError, "cross_entropy: target -7 at 9, allowed"),
    ],
)
def test_ids_out_of_range_are_named(tmp_path, change, error, said):
    with pytest.raises(error, match=said):
        trainer(tmp_path, Edited(change)).train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_sequence_beyond_the_positions_is_refused(tmp_path):
    longer = tiny.Random(length=tiny.POSITIONS + 1)
    with pytest.raises(ValueError, match="embedding: a sequence of 25 tokens, positions are 24"):
        trainer(tmp_path, longer).train()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_steps": 7}, r"arguments\.max_steps is 7, allowed is 6; the same as in the checkpoint"),
        ({"num_train_epochs": 2.0}, r"arguments\.num_train_epochs is 2\.0, allowed is 1\.0"),
        ({"learning_rate": 0.5, "bf16": True}, r"arguments\.learning_rate is 0\.5, .*; arguments\.bf16 is true"),
        ({"gradient_accumulation_steps": 2}, r"arguments\.gradient_accumulation_steps is 2, allowed is 1"),
        ({"facts": FACTS | {"config": {"n_embd": 48}}}, r"config\.n_embd is 48, allowed is 32"),
        ({"facts": FACTS | {"data": "other"}}, 'data is "other", allowed is "sha of the data"'),
        ({"facts": FACTS | {"tokenizer": {"sha256": "cd"}}}, r'tokenizer\.sha256 is "cd", allowed is "ab"'),
        ({"facts": {}}, "config is null, allowed is "),
    ],
)
def test_another_run_is_refused_by_name(tmp_path, changes, said):
    trainer(tmp_path, tiny.Random(), facts=FACTS).train()
    end = end_of(tmp_path)
    with pytest.raises(CheckpointError, match=said):
        trainer(tmp_path, tiny.Random(), **({"facts": FACTS} | changes)).train()
    free = {"save_steps": 1, "save_total_limit": 5, "eval_steps": 1, "per_device_eval_batch_size": 1}
    assert trainer(tmp_path, tiny.Random(), facts=FACTS, **free).train().complete and end_of(tmp_path) == end


def test_another_model_or_a_foreign_checkpoint_is_refused(tmp_path):
    trainer(tmp_path / "a", tiny.Random()).train()
    other = trainer(tmp_path / "a", tiny.Random())
    wider = type(other)(tiny.model(n_embd=48), tiny.Random(), other.arguments)
    said = r"checkpoint of step 6: tensor model\.\S+ is \(\d+, 32\), allowed is \(\d+, 48\)"
    with pytest.raises(TrainingError, match=said):
        wider.train()
    with Checkpoints(tmp_path / "b") as checkpoints:
        checkpoints.save(3, {"w": np.zeros(3, np.float32)}, other.facts)
    with pytest.raises(TrainingError, match=r"checkpoint of step 3: tensor model\.\S+ is missing, allowed is"):
        trainer(tmp_path / "b", tiny.Random()).train()
    tensors = {f"model.{n}": a for n, a in other.model.learned_arrays().items()}
    tensors |= {f"optimizer.{n}": a for n, a in other.optimizer.state_dict().items()}
    for name, facts in {"c": other.facts, "d": other.facts | {"counters": {"position": 1}}}.items():
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(3, tensors, facts)
        with pytest.raises(TrainingError, match="checkpoint of step 3 is no trainer's"):
            trainer(tmp_path / name, tiny.Random()).train()
    with pytest.raises(TrainingError, match=r"holds a run of 6 steps; resume, or name another"):
        other.train(resume=False)


def test_two_trainers_on_one_folder(tmp_path):
    """The second is refused while the first runs, in the same process, too, and changes nothing."""
    said = []

    class Second(Callback):
        def on_step_end(self, _, values):
            if not said:
                with pytest.raises(CheckpointError, match=rf"lock: .* in use by process {os.getpid()}") as told:
                    trainer(tmp_path / "run", tiny.Random()).train()
                said.append(str(told.value))

    trainer(tmp_path / "run", tiny.Random(), [Second()]).train()
    trainer(tmp_path / "calm", tiny.Random()).train()
    assert said and end_of(tmp_path / "run") == end_of(tmp_path / "calm")


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_one_error_and_the_old_checkpoint_is_good(tmp_path, monkeypatch, call):
    """From the fourth step on the disk is full; when there is room again, the run goes on to the same end."""
    full = []

    class Fill(Callback):
        def on_step_end(self, trainer, values):
            full.extend([1] if trainer.step == 3 else [])

    real = getattr(os, call)

    def refused(*words):
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*words)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refused)
        with pytest.raises(CheckpointError, match="No space left on device"):
            trainer(tmp_path / "run", tiny.Random(), [Fill()]).train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-00000002"]
    assert trainer(tmp_path / "run", tiny.Random()).train().complete
    trainer(tmp_path / "calm", tiny.Random()).train()
    assert end_of(tmp_path / "run") == end_of(tmp_path / "calm")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"output_dir": ""}, "no output_dir"),
        ({"output_dir": 3}, "output_dir is 3, allowed is text"),
        ({"max_steps": 2.5}, "max_steps is 2.5, allowed is a whole number"),
        ({"max_steps": True}, "max_steps is True, allowed is a whole number"),
        ({"max_steps": -2}, "max_steps is -2, allowed is 0 or more"),
        ({"eval_strategy": "epochs"}, "eval_strategy is 'epochs', allowed are steps, epoch, no"),
        ({"report_to": "tensorboard"}, "report_to is 'tensorboard', allowed is 'none'"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end is True, allowed is False"),
        ({"use_cpu": False}, "use_cpu is False, allowed is True"),
        ({"num_train_epochs": 0}, "max_steps and num_train_epochs are both 0"),
        ({"num_train_epochs": math.nan}, "num_train_epochs is nan, allowed is 0 or more"),
        ({"learning_rate": "5e-4"}, "learning_rate is '5e-4', allowed is a number"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"bf16": "yes"}, "bf16 is 'yes', allowed is True or False"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0, allowed is 1 or more"),
        ({"save_total_limit": 0}, "save_total_limit is 0, allowed is 1 or more"),
    ],
)
def test_arguments_that_mean_nothing_are_named(told, said):
    with pytest.raises(ValueError, match=f"TrainingArguments: {re.escape(said)}"):
        TrainingArguments(**({"output_dir": "run"} | told))


def test_schedules_betas_and_facts_are_checked_before_anything_is_written(tmp_path):
    for told, said in [({"lr_scheduler_type": "cosin"}, "'cosin' is not known"), ({"adam_beta1": 1.0}, "betas are")]:
        with pytest.raises(ValueError, match=said):
            trainer(tmp_path / "run", tiny.Random(), **told)
    with pytest.raises(TypeError, match=r"facts\.data\.tokens: is of type int64"):
        trainer(tmp_path / "run", tiny.Random(), facts={"data": {"tokens": np.int64(3)}})
    assert not (tmp_path / "run").exists()


def test_the_share_of_the_peak_is_measured_where_a_run_lasts(tmp_path, monkeypatch):
    """Not in short runs, not where memory is short."""
    for room, patience, measured in [(None, 1e9, False), (1 << 20, 0.0, False), (None, 0.0, True)]:
        monkeypatch.setattr(module, "PATIENCE", patience)
        monkeypatch.setattr(module, "available", lambda room=room: room)
        folder = tmp_path / f"{room} {patience}"
        trainer(folder, tiny.Random(), max_steps=2).train()
        shares = [line["share_of_peak"] for line in read(folder, "timings.jsonl")]
        assert all(0 < share < 1 if measured else math.isnan(share) for share in shares) and len(shares) == 2


def test_the_progress_bar_says_what_is_left(tmp_path, capsys):
    trainer(tmp_path, tiny.Random(), [ProgressBar()], valid=tiny.Random(3)).train()
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"step 1 of 6 \[####  +\] loss [0-9.]+, [0-9,]+ tokens/s, [0-9:]+ left", lines[0])
    assert re.fullmatch(r"step 6: validation loss [0-9.]+", lines[-2]) and "step 6 of 6 [####" in lines[-1]
