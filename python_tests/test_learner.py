"""fastai's ways to train: groups of layers, freezing, rates by layer, the recipe, going on after a kill, lr_find."""

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny_training
from kernel_checks import same_bits
from test_classifier import TINY, model_of, texts_of
from tiny_training import end_of

from pyllm.auto import new_config, new_model
from pyllm.data import Labelled
from pyllm.models.mlp import MLP
from pyllm.optim import AdamW
from pyllm.train import Callback, Learner, Recipe, Trainer, TrainingArguments, layer_groups
from pyllm.train.groups import freeze_to, optimizer_of
from pyllm.train.trainer import Result


def names_of(model):
    """The groups as sets of the parameters' names, without what all of a group share."""
    known = {id(parameter): name for name, parameter in model.learned().items()}
    return [{known[id(parameter)] for parameter in group} for group in layer_groups(model)]


def data_of(count=24):
    texts = texts_of(*range(2, 2 + count))
    return Labelled(texts, np.arange(count) % 3)


def learner(folder, family="awd-lstm", callbacks=(), data=None, **more):
    usual = {"num_train_epochs": 1, "per_device_train_batch_size": 6, "learning_rate": 1e-2, "save_steps": 2}
    told = TrainingArguments(str(folder), **(usual | more))
    return Learner(model_of(family), data or data_of(), told, data_of(5), callbacks)


def test_groups_are_fastais():
    found = names_of(model_of("awd-lstm"))
    assert found[0] == {"trunk.embedding.weight"} and len(found) == 4
    assert {name.split(".l")[0][:12] for name in found[1]} == {"trunk.rnns.0"}
    assert all(name.startswith("trunk.rnns.1.") for name in found[2]) and len(found[2]) == 4
    assert all(name.startswith("head.") for name in found[3]) and len(found[3]) == 8
    found = names_of(new_model(new_config("awd-lstm", vocab_size=30, **TINY["awd-lstm"])))
    assert len(found) == 3 and found[-1] == {"embedding.weight", "head.bias"}  # tied: the embedding is the head
    found = names_of(new_model(new_config("lstm", vocab_size=30, **TINY["gru"])))
    assert [len(group) for group in found] == [1, 4, 4, 2] and found[-1] == {"head.weight", "head.bias"}
    found = names_of(model_of("gpt2"))
    assert found[0] == {"trunk.embedding.weight", "trunk.embedding.positions"} and len(found) == 4
    assert {"trunk.norm.weight", "trunk.norm.bias"} < found[2] and "trunk.layers.1.attention.q.weight" in found[2]
    assert [len(group) for group in names_of(MLP(3, 4, 5, 2))] == [2, 2, 2]


def test_frozen_layers_stay_and_the_others_learn(tmp_path):
    learn = learner(tmp_path)
    for n, learning in ((-1, {3}), (2, {2, 3}), (0, {0, 1, 2, 3})):
        before = {name: array.copy() for name, array in learn.model.learned_arrays().items()}
        learn.freeze_to(n)
        learn.fit(1)
        changed = {name for name, array in learn.model.learned_arrays().items() if not same_bits(array, before[name])}
        groups = names_of(learn.model)
        assert {i for i, group in enumerate(groups) if group & changed} == learning
        assert all(group <= changed for i, group in enumerate(groups) if i in learning - {0})
    learn.freeze()
    assert {t.shape for t in learn.model.parameters()} == {p.shape for p in layer_groups(learn.model)[-1]}
    learn.unfreeze()
    assert len(learn.model.parameters()) == len(learn.model.learned())
    with pytest.raises(ValueError, match="freeze_to: group 4, allowed are -4 to 3"):
        learn.freeze_to(4)


def test_rates_fall_from_layer_to_layer():
    model = model_of("gpt2").train()
    freeze_to(model, 1)
    arguments = TrainingArguments("x", learning_rate=1.0, layer_divisor=2.0)
    optimizer = optimizer_of(model, arguments)
    assert isinstance(optimizer, AdamW)
    rates = {id(tensor): group.options["lr"] for group in optimizer.groups for tensor in group.tensors}
    wanted = {1: 0.25, 2: 0.5, 3: 1.0}
    for i, group in enumerate(layer_groups(model)):
        assert {rates.get(id(parameter.value)) for parameter in group} == {wanted.get(i)}
    optimizer.scale_rates(0.1)
    assert sorted({round(group.options["lr"], 6) for group in optimizer.groups}) == [0.025, 0.05, 0.1]
    decays = {group.options["weight_decay"] for group in optimizer.groups for t in group.tensors if t.ndim == 1}
    assert decays == {0.0}
    with pytest.raises(ValueError, match=r"layer_divisor is 0\.5, allowed is 1 or more"):
        replace(arguments, layer_divisor=0.5)


class Watch(Callback):
    """How many tensors learn in each stage, and the highest rate of a step; may stop after some steps in all."""

    def __init__(self, last=None):
        self.learning, self.rates, self.steps, self.last = [], [], 0, last

    def on_train_begin(self, trainer):
        self.learning.append(len(trainer.model.parameters()))
        self.rates.append([])

    def on_step_end(self, trainer, values):
        self.rates[-1].append(values["lr"])
        self.steps += 1
        if self.steps == self.last:
            trainer.stop()


def test_the_recipe_thaws_layer_after_layer_along_slanted_triangles(tmp_path):
    watch = Watch()
    result = learner(tmp_path, callbacks=[watch], num_train_epochs=5).fit(recipe="ulmfit")
    assert isinstance(result, Result) and result.complete and np.isfinite(result.valid_loss)
    assert watch.learning == [8, 12, 16, 17] and [len(rates) for rates in watch.rates] == [4, 4, 4, 20]
    last = watch.rates[-1]
    assert last[0] == pytest.approx(1e-2 / 32) and np.argmax(last) == 2 and last[2] == pytest.approx(1e-2)
    assert all(a > b for a, b in pairwise(last[2:]))
    watch = Watch()
    learner(tmp_path / "b", callbacks=[watch]).fit(recipe=Recipe(gradual=False, schedule="constant"))
    assert watch.learning == [17] and set(watch.rates[0]) == {1e-2}
    with pytest.raises(ValueError, match="recipe 'fast', allowed are plain, one_cycle, ulmfit"):
        learner(tmp_path).fit(recipe="fast")


@pytest.mark.parametrize("family", ("gpt2", "gru"))
def test_the_recipe_works_for_other_models(tmp_path, family):
    random, targets = np.random.default_rng(0), np.arange(30) % 3  # each class has words of its own
    data = Labelled([random.integers(10 * k, 10 * k + 10, 8).astype(np.int32) for k in targets], targets)
    learn = learner(tmp_path, family, data=data, learning_rate=1e-2, num_train_epochs=25)
    # A net whose lower layers are new has nothing that slower rates would keep: for the GRU all layers learn as fast.
    result = learn.fit(recipe={"gpt2": "ulmfit", "gru": Recipe(layer_divisor=1.0)}[family])
    assert result.complete and result.loss < 0.3 and learn.stage == learn.groups


@pytest.mark.parametrize("last", (3, 4, 7, 14))
def test_a_recipe_that_was_stopped_goes_on_to_the_same_bits(tmp_path, last):
    whole = learner(tmp_path / "a")
    whole.fit(recipe="ulmfit")
    stopped = learner(tmp_path / "b", callbacks=[Watch(last)]).fit(recipe="ulmfit")
    assert stopped.complete == (last in (4, 8, 12, 16)) or not stopped.complete
    again = learner(tmp_path / "b")
    assert again.fit(recipe="ulmfit").complete
    ends = whole.model.learned_arrays()
    assert all(same_bits(ends[name], array) for name, array in again.model.learned_arrays().items())
    for stage in sorted(Path(tmp_path / "a").iterdir()):
        assert end_of(stage) == end_of(tmp_path / "b" / stage.name)


def test_other_stages_in_the_same_folder_are_refused(tmp_path):
    learner(tmp_path).fit(1)
    with pytest.raises(ValueError, match=r"stage\.frozen is 3, allowed is 0"):
        learn = learner(tmp_path)
        learn.freeze()
        learn.fit(1)
    with pytest.raises(ValueError, match="learning_rate"):
        learner(tmp_path).fit(1, lr=0.5)


def test_a_stage_that_was_refused_is_none(tmp_path):
    learn = learner(tmp_path)
    with pytest.raises(ValueError, match="learning_rate is -1"):
        learn.fit(1, lr=-1)
    assert learn.stage == 0 and learn.fit(1).complete and learn.stage == 1
    with pytest.raises(ValueError, match="learning_rate"):
        learn = learner(tmp_path)
        learn.fit(1, lr=0.5)
    assert learn.stage == 0 and learn.fit(1).complete
    assert [each.name for each in tmp_path.iterdir()] == ["stage-1"]


def test_a_slice_of_rates_goes_from_the_first_layer_to_the_last(tmp_path):
    seen = []

    class Rates(Callback):
        def on_train_begin(self, trainer):
            by_tensor = {id(t): g.options["lr"] for g in trainer.optimizer.groups for t in g.tensors}
            seen.append([{by_tensor[id(p.value)] for p in group} for group in layer_groups(trainer.model)])

    learn = learner(tmp_path, callbacks=[Rates()])
    assert learn.fit_one_cycle(1, slice(1e-3, 8e-3)).complete and learn.fit(1, slice(1e-3, 1e-3)).complete
    each, same = ([rate for (rate,) in groups] for groups in seen)
    assert each == pytest.approx([1e-3, 2e-3, 4e-3, 8e-3]) and same == pytest.approx([1e-3] * 4)
    for rates in (slice(1e-2), slice(1e-2, 1e-3), slice(0, 1.0), slice(1e-3, float("inf")), slice(1e-3, 1e-2, 2)):
        with pytest.raises(ValueError, match=r"fit: lr slice.*allowed are a number and slice\(lowest, highest\)"):
            learn.fit(1, rates)


def test_one_cycle_rises_and_falls(tmp_path):
    watch = Watch()
    learner(tmp_path, callbacks=[watch]).fit_one_cycle(5, 1e-2)
    (rates,) = watch.rates
    assert len(rates) == 20 and np.argmax(rates) == 5 and rates[0] < rates[5] / 20 and rates[-1] < 1e-5 * rates[5]


def test_the_search_for_a_rate_puts_the_weights_back_and_draws(tmp_path):
    learn = learner(tmp_path / "run")
    before = {name: array.copy() for name, array in learn.model.learned_arrays().items()}
    found = learn.lr_find(end_lr=100.0, num_it=60)
    assert all(same_bits(before[name], array) for name, array in learn.model.learned_arrays().items())
    assert found.lrs[0] == pytest.approx(1e-7) and all(a < b for a, b in pairwise(found.lrs))
    assert found.losses[-1] > 4 * min(found.losses) or len(found.lrs) == 60
    assert found.lrs[0] < found.steep < 10 * found.minimum
    found.plot(tmp_path / "lr.svg")
    drawn = (tmp_path / "lr.svg").read_text()
    assert drawn.startswith("<svg xmlns=") and "polyline" in drawn and "log10 of the learning rate" in drawn
    with pytest.raises(ValueError, match=r"lr\.png: allowed are files ending \.svg"):
        found.plot(tmp_path / "lr.png")
    assert not (tmp_path / "run").exists()
    assert learn.fit(1).complete
    with pytest.raises(ValueError, match="lr_find: 5 steps"):
        learn.lr_find(num_it=5)


def test_runs_of_older_versions_go_on(tmp_path):
    """Their checkpoints do not name the fields that came later."""
    told = TrainingArguments("x")
    assert {"optim", "layer_divisor"} & set(told.binding()) == set()
    assert replace(told, optim="sgd").binding()["optim"] == "sgd"
    assert replace(told, layer_divisor=2.6).binding()["layer_divisor"] == 2.6


def test_plain_sgd_trains(tmp_path):
    run = tiny_training.trainer(tmp_path, tiny_training.Random(), optim="sgd", learning_rate=0.1, max_steps=12)
    first = run.train()
    assert isinstance(run, Trainer) and first.complete and first.loss < 6.0
    shutil.rmtree(tmp_path)
