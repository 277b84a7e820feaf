"""Encoders: what transformers' models of every family, variant and head give, whatever the batch; saved and learned."""

import contextlib
import json

import numpy as np
import pytest
import torch
import transformers
from kernel_checks import same_bits, threads
from tiny_encoders import CASES, LENGTH, VARIANTS, VOCABULARY, auto, batch, error, tensors, theirs

import pyllm
from pyllm.auto.new import new_config
from pyllm.auto.saving import family_of
from pyllm.auto.weights import FOLDER, places

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def pair(tmp_path, variant, task, **changes):
    """(transformers' model, ours of its folder)."""
    reference = theirs(variant, task, **changes)
    reference.save_pretrained(tmp_path / "theirs")
    return reference, auto(pyllm, task).from_pretrained(tmp_path / "theirs")


def given(reference, inputs, **more):
    with torch.no_grad():
        return reference(**tensors(inputs), **more)


@pytest.mark.parametrize(("variant", "task"), CASES)
def test_the_answers_are_those_of_transformers(tmp_path, variant, task):
    """Rows, pooled rows, logits, the rows and the attention of every layer; and again from the folder that we write."""
    reference, model = pair(tmp_path, variant, task)
    inputs = batch(variant)
    seen = inputs["attention_mask"] == 1
    found = model(**inputs, output_hidden_states=True, output_attentions=True)
    wanted = given(reference, inputs, output_hidden_states=True, output_attentions=True)
    for field in found._fields:
        name = "sop_logits" if field == "seq_relationship_logits" and variant.startswith("albert") else field
        mine, other = getattr(found, field), getattr(wanted, name, None)
        if mine is None:
            assert other is None
            continue
        if field == "attentions":
            assert len(mine) == len(other)
            for a, b in zip(mine, other, strict=True):
                for row, n in enumerate(seen.sum(axis=1)):
                    np.testing.assert_allclose(a[row, :, :n, :n].sum(axis=-1), 1, rtol=1e-6)
                    assert error(a[row, :, :n, :n], b[row, :, :n, :n]) < 1e-5
                    assert not a[row, :, n:].any() and not a[row, :, :, n:].any()
            continue
        layers = ((mine, other),) if field != "hidden_states" else zip(mine, other, strict=True)
        for a, b in layers:
            tokens = a.ndim == 3 or a.shape == seen.shape
            assert a.dtype == np.float32 and error(a[seen] if tokens else a, b[seen] if tokens else b) < 1e-4
            assert not tokens or not a[~seen].any()
    model.save_pretrained(tmp_path / "ours")
    assert json.loads((tmp_path / "ours/config.json").read_text())["architectures"] == [type(reference).__name__]
    again = type(reference).from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    for a, b in zip(given(again, inputs).to_tuple(), given(reference, inputs).to_tuple(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("variant", "task"), CASES)
def test_state_dicts_pass_both_ways(tmp_path, variant, task):
    """Under transformers' names: theirs into a new model, and ours into theirs."""
    reference, model = pair(tmp_path, variant, task)
    fresh = auto(pyllm, task).from_config(model.config, seed=5)
    inputs = batch(variant)
    assert not np.array_equal(fresh(**inputs)[0].data, model(**inputs)[0])
    fresh.load_state_dict(reference.state_dict()).eval()
    for a, b in zip(fresh(**inputs), model(**inputs), strict=True):
        assert (a is None and b is None) or np.array_equal(a, b)
    mine, other = fresh.state_dict(), reference.state_dict()
    unused = {"cls.predictions.bias", "lm_head.bias", "predictions.bias"} if "untied" in variant else set()
    assert set(other) - unused == set(mine)
    assert all(np.array_equal(mine[name], other[name].numpy()) for name in mine)


@pytest.mark.parametrize("variant", ["bert", "roberta", "distilbert", "albert groups", "mpnet", "electra"])
def test_bytes_depend_neither_on_company_nor_padding_nor_threads(tmp_path, monkeypatch, variant):
    """A sequence alone, in a batch, padded right and left, in lists, in groups, with one thread and two: same bits."""
    _, model = pair(tmp_path, variant, "MaskedLM")
    inputs = batch(variant)
    whole = model(**inputs).logits
    rows = [inputs["input_ids"][i, :n] for i, n in enumerate(inputs["attention_mask"].sum(axis=1))]
    types = inputs.get("token_type_ids")
    for i, row in enumerate(rows):
        kinds = None if types is None else types[i, : len(row)]
        alone = model(row, token_type_ids=kinds).logits
        assert alone.shape == (1, len(row), VOCABULARY) and same_bits(alone[0], whole[i, : len(row)])
        left = {"input_ids": np.zeros((1, 20), int), "attention_mask": np.zeros((1, 20), int)}
        left["input_ids"][0, -len(row) :], left["attention_mask"][0, -len(row) :] = row, 1
        if kinds is not None:
            left["token_type_ids"] = np.zeros((1, 20), int)
            left["token_type_ids"][0, -len(row) :] = kinds
        assert same_bits(model(**left).logits[0, -len(row) :], whole[i, : len(row)])
    kinds = None if types is None else [types[i, : len(row)] for i, row in enumerate(rows)][::-1]
    lists = model(rows[::-1], token_type_ids=kinds).logits
    assert isinstance(lists, list) and all(same_bits(a, whole[2 - i, : len(a)]) for i, a in enumerate(lists))
    for count in (1, 2):
        with threads(count):
            assert same_bits(model(**inputs).logits, whole)
    monkeypatch.setattr("pyllm.models.encoder.TOGETHER", 1)
    assert same_bits(model(**inputs).logits, whole)


def test_a_trace_shows_what_lies_between(tmp_path):
    """Weights by the same name as everywhere, equal to output_attentions'; the embedding, every layer, the logits."""
    _, model = pair(tmp_path, "bert", "MaskedLM")
    ids = batch("bert")["input_ids"][1:2]
    with pyllm.trace(model) as seen:
        watched = model(ids, output_attentions=True, output_hidden_states=True)
    for i, weights in enumerate(watched.attentions):
        np.testing.assert_allclose(seen[f"layers.{i}.attention.weights"], weights[0], atol=1e-6)
        np.testing.assert_allclose(seen[f"layers.{i}"], watched.hidden_states[i + 1][0], atol=1e-6)
    assert np.array_equal(seen["embedding"], watched.hidden_states[0][0])
    assert np.array_equal(seen["logits"], watched.logits[0])
    np.testing.assert_allclose(model(ids).logits, watched.logits, atol=1e-5)


@pytest.mark.parametrize("variant", ["bert", "roberta"])
def test_positions_may_be_given(tmp_path, variant):
    """Left padding as transformers has it: positions count the columns, which position_ids can say."""
    reference, model = pair(tmp_path, variant, "Model")
    ids = np.random.default_rng(1).integers(3, VOCABULARY, (2, LENGTH))
    mask = (np.arange(LENGTH) >= 5) * np.ones((2, 1), int)
    places = np.broadcast_to(np.arange(LENGTH) + 2, ids.shape)
    found = model(ids, mask, position_ids=places)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": np.ascontiguousarray(places)}
    assert error(found.last_hidden_state[mask == 1], given(reference, inputs).last_hidden_state[mask == 1]) < 1e-4


LABELS = {
    "MaskedLM": lambda random, shape: np.where(random.random(shape) < 0.3, random.integers(0, VOCABULARY, shape), -100),
    "TokenClassification": lambda random, shape: np.where(
        random.random(shape) < 0.8, random.integers(0, 3, shape), -100
    ),
    "SequenceClassification": lambda random, shape: random.integers(0, 3, shape[0]),
    "NextSentencePrediction": lambda random, shape: random.integers(0, 2, shape[0]),
    "PreTraining": lambda random, shape: np.where(
        random.random(shape) < 0.3, random.integers(0, VOCABULARY, shape), -100
    ),
    "Replaced": lambda random, shape: random.integers(0, 2, shape),
}


def learned(reference, model, inputs, labels):
    """Both losses; gradients by name are left in both."""
    loss = reference(**tensors(inputs | labels)).loss
    loss.backward()
    mine = model.train()(**inputs, **labels).loss
    mine.backward()
    assert abs(mine.item() - loss.item()) < 1e-5 * max(1, abs(loss.item()))
    return {name: parameter.value.grad for name, parameter in model.own_parameters().items()}


@pytest.mark.parametrize(("variant", "task"), [case for case in CASES if case[1] != "Model"])
def test_losses_and_gradients_are_those_of_torch(tmp_path, variant, task):
    """Every gradient, by transformers' names; what padding hides has no labels. From rows the loss is the same."""
    reference, model = pair(tmp_path, variant, task)
    inputs, random = batch(variant), np.random.default_rng(3)
    kind = "Replaced" if (task, variant[:7]) == ("PreTraining", "electra") else task
    labels = LABELS[kind](random, inputs["input_ids"].shape)
    labels = np.where(inputs["attention_mask"] == 1, labels, -100) if labels.ndim == 2 else labels
    inputs["input_ids"][1, 5] = reference.config.pad_token_id  # seen, and its row does not learn from that
    more = {"labels": labels}
    if kind == "PreTraining":
        second = "sentence_order_label" if variant.startswith("albert") else "next_sentence_label"
        more[second] = random.integers(0, 2, 3)
    gradients = learned(reference, model, inputs, more)
    names = {path: place.name for path, place, _ in places(model, family_of(model)[1], FOLDER)}
    wanted = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert set(names) == set(gradients)
    for path, name in names.items():
        assert name in wanted, name
        b = wanted[name].numpy()
        a = np.zeros_like(b) if gradients[path] is None else gradients[path]
        size = np.abs(b).max()
        assert np.abs(a - b).max() <= 1e-4 * size + 1e-7, (path, np.abs(a - b).max(), size)
    ids, types = inputs["input_ids"], inputs.get("token_type_ids")
    seen = inputs["attention_mask"] == 1
    with pyllm.ops.documents(np.cumsum([0, *seen.sum(axis=1)])):
        following = {"following": more[second]} if kind == "PreTraining" else {}
        flat = labels[seen] if labels.ndim == 2 else labels
        mine = model.loss(ids[seen], flat, None if types is None else types[seen], **following)
    assert abs(mine.item() - model(**inputs, **more).loss.item()) < 1e-6


@pytest.mark.parametrize("variant", ["bert", "albert groups", "mpnet"])
def test_gradient_checkpointing_keeps_the_bits(variant):
    """Within noise, with dropout everywhere: the loss and every gradient."""
    family, fields = VARIANTS[variant]
    config = new_config(family, **fields, hidden_dropout_prob=0.2)
    ids = np.random.default_rng(0).integers(3, VOCABULARY, (2, LENGTH))
    found = []
    for enabled in (False, True):
        model = pyllm.AutoModelForMaskedLM.from_config(config, seed=1)
        if enabled:
            model.gradient_checkpointing_enable()
        with pyllm.ops.noise(3, 0):
            loss = model.loss(ids, np.where(ids % 3 == 0, ids, -100))
        loss.backward()
        found.append([loss.data, *(each.grad for each in model.parameters() if each.grad is not None)])
    assert len(found[0]) > 20 and all(same_bits(a, b) for a, b in zip(*found, strict=True))
    plain = pyllm.AutoModelForMaskedLM.from_config(config, seed=1).loss(ids, np.where(ids % 3 == 0, ids, -100))
    assert plain.item() != found[0][0]


WEIGHTS = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.15}
PLACES = {  # fields -> the embedding's, a layer's two and its attention's weights, the classifier's
    "bert": (WEIGHTS, 0.2, [0.2, 0.2, 0.15], [0.0, 0.2]),
    "bert relu": (WEIGHTS, 0.2, [0.2, 0.2, 0.15], [0.0, 0.3]),
    "roberta": (WEIGHTS | {"classifier_dropout": 0.4}, 0.2, [0.2, 0.2, 0.15], [0.4, 0.4]),
    "distilbert": ({"dropout": 0.2, "attention_dropout": 0.15, "seq_classif_dropout": 0.5}, 0.2, [0.2, 0.2, 0.15],
                   [0.0, 0.5]),
    "mpnet": (WEIGHTS, 0.2, [0.2, 0.2, 0.15], [0.2, 0.2]),
    "electra wide": (WEIGHTS, 0.2, [0.2, 0.2, 0.15], [0.3, 0.3]),
    "albert groups": (WEIGHTS | {"classifier_dropout_prob": 0.4}, 0.2, [0.2, 0.0, 0.15], [0.0, 0.4]),
}  # fmt: skip


@pytest.mark.parametrize("variant", PLACES)
def test_what_is_dropped_is_what_transformers_drops(variant):
    """Each place with its share and draws of its own, shared layers too; within noise alone, each batch another."""
    family, fields = VARIANTS[variant]
    changes, embedding, layer, head = PLACES[variant]
    model = pyllm.AutoModelForSequenceClassification.from_config(new_config(family, **(fields | changes)), seed=1)
    assert model.dropout.p == embedding and [each.p for each in model.head.dropouts] == head
    layers = [[*one.dropouts.results, *one.dropouts.weights] for one in model.layers]
    assert all([each.p for each in one] == layer for one in layers)
    assert not any(one.dropouts.inner.p for one in model.layers)
    drops = [model.dropout, *model.head.dropouts, *(each for one in layers for each in one)]
    streams = [each.stream for each in drops if each.p]
    assert len(streams) == len(set(streams)) >= 4
    ids, losses = np.random.default_rng(0).integers(3, VOCABULARY, (2, LENGTH)), []
    for step in (None, 0, 0, 1):
        with contextlib.nullcontext() if step is None else pyllm.ops.noise(3, step):
            losses.append(model.loss(ids, np.array([0, 1])).item())
    assert losses[1] == losses[2] and len(set(losses)) == 3


@pytest.mark.parametrize("variant", ["bert", "albert groups"])
def test_dropped_attention_weights_have_their_slope(variant):
    """Along a random direction of all weights, within the same draws; transformers' definition is the kernel's twin."""
    family, fields = VARIANTS[variant]
    dropped = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.4, "initializer_range": 0.2}
    model = pyllm.AutoModelForMaskedLM.from_config(new_config(family, **(fields | dropped)), seed=1)
    ids, random = np.random.default_rng(0).integers(3, VOCABULARY, (2, LENGTH)), np.random.default_rng(1)
    targets = np.where(ids % 3 == 0, ids, -100)

    def loss(batch):
        with pyllm.ops.noise(3, batch):
            return model.loss(ids, targets)

    assert len({loss(0).item(), loss(1).item(), model.loss(ids, targets).item()}) == 3
    loss(0).backward()
    weights = [each for each in model.parameters() if each.grad is not None]
    directions = [random.standard_normal(each.shape).astype(np.float32) for each in weights]
    wanted = sum(float((each.grad * d).sum()) for each, d in zip(weights, directions, strict=True))
    values, step = [], 1e-3
    for sign in (1, -1):
        for each, d in zip(weights, directions, strict=True):
            each.data[...] += sign * step * d
        values.append(loss(0).item())
        for each, d in zip(weights, directions, strict=True):
            each.data[...] -= sign * step * d
    assert abs((values[0] - values[1]) / (2 * step) - wanted) < 0.02 * abs(wanted) + 1e-3


@pytest.mark.parametrize("variant", ["bert", "roberta", "distilbert", "albert", "mpnet", "electra"])
def test_learning_in_bfloat16_stays_near(variant):
    """The loss within 1 %, every gradient's direction within 0.99 of float32's."""
    family, fields = VARIANTS[variant]
    model = pyllm.AutoModelForMaskedLM.from_config(new_config(family, **fields, initializer_range=0.2), seed=1)
    ids = np.random.default_rng(0).integers(3, VOCABULARY, (4, LENGTH))
    targets = np.where(ids % 3 == 0, ids, -100)
    found = []
    for kind in ("fp32", "bf16"):
        model.zero_grad()
        with pyllm.autocast(kind):
            loss = model.loss(ids, targets)
        loss.backward()
        found.append((loss.item(), {name: p.value.grad for name, p in model.own_parameters().items()}))
    (exact, wanted), (near, gradients) = found
    assert 0 < abs(near - exact) < 0.01 * exact
    for name, b in wanted.items():
        if b is not None and np.linalg.norm(b) > 1e-6:
            a = gradients[name]
            assert (a * b).sum() > 0.99 * np.linalg.norm(a) * np.linalg.norm(b), name


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification", "single_label_classification", None])
@pytest.mark.parametrize("classes", [1, 3])
def test_problem_types(tmp_path, problem, classes):
    """The loss that the configuration asks for, or that classes and labels tell; and its gradient at the logits."""
    if problem == "single_label_classification" and classes == 1:
        classes = 2
    reference, model = pair(tmp_path, "bert", "SequenceClassification", problem_type=problem, num_labels=classes)
    random = np.random.default_rng(0)
    labels = random.random((3, classes)).astype(np.float32)
    if problem == "multi_label_classification":
        labels = (labels > 0.5).astype(np.float32)
    if problem == "single_label_classification" or (problem is None and classes > 1):
        labels = random.integers(0, classes, 3)
    gradients = learned(reference, model, batch("bert"), {"labels": labels})
    wanted = reference.classifier.weight.grad.numpy()
    assert np.abs(gradients["head.score.weight"] - wanted).max() <= 1e-4 * np.abs(wanted).max()
    model.save_pretrained(tmp_path / "ours")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert (config.problem_type, config.num_labels) == (problem, classes)
