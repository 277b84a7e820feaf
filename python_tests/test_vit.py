"""ViT beside transformers: logits, attentions, gradients, folders both ways; images that it refuses; what it learns."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import pyllm
from pyllm.auto.encoders import AutoModelForImageClassification
from pyllm.auto.new import new_config
from pyllm.errors import ModelFileError
from pyllm.train import Trainer, TrainingArguments

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
VARIANTS = {
    "grey": SIZES | {"image_size": 8, "patch_size": 4, "num_channels": 1},
    "colour": SIZES | {"image_size": 12, "patch_size": 3, "num_channels": 3, "hidden_act": "gelu_new"},
    "one patch": SIZES | {"image_size": 4, "patch_size": 4, "num_channels": 2, "layer_norm_eps": 1e-6},
}
CLASSES = {0: "shirt", 1: "shoe", 2: "bag"}


def pair(folder, variant):
    """(transformers' model with random weights, ours of its folder)."""
    torch.manual_seed(1)
    labels = {"id2label": CLASSES, "label2id": {name: i for i, name in CLASSES.items()}}
    config = transformers.ViTConfig(**VARIANTS[variant], **labels, attn_implementation="eager")
    theirs = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(folder)
    return theirs, AutoModelForImageClassification.from_pretrained(folder)


def images(variant, count=5, seed=0):
    sizes = VARIANTS[variant]
    shape = count, sizes["num_channels"], sizes["image_size"], sizes["image_size"]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def relative(found, exact):
    return float((np.abs(found - exact).max(axis=-1) / np.abs(exact).max(axis=-1)).max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_answers_are_transformers(tmp_path, variant):
    theirs, model = pair(tmp_path, variant)
    pixels = images(variant)
    with torch.no_grad():
        exact = theirs(torch.tensor(pixels), labels=torch.tensor([0, 1, 2, 1, 0]), output_attentions=True,
                       output_hidden_states=True)  # fmt: skip
    found = model(pixels, labels=[0, 1, 2, 1, 0], output_attentions=True, output_hidden_states=True, return_dict=True)
    assert relative(found.logits, exact.logits.numpy()) <= 1e-4 and abs(float(found.loss) - float(exact.loss)) < 1e-4
    assert len(found.attentions) == len(exact.attentions) and found["logits"] is found.logits
    assert len(found.hidden_states) == len(exact.hidden_states)
    for mine, other in zip(found.hidden_states, exact.hidden_states, strict=True):
        assert mine.shape == other.shape and np.abs(mine - other.numpy()).max() <= 1e-4 * np.abs(other.numpy()).max()
    for mine, other in zip(found.attentions, exact.attentions, strict=True):
        assert np.abs(mine - other.numpy()).max() <= 1e-5
    assert model.config.id2label == CLASSES
    alone = np.concatenate([model(pixels[i : i + 1]).logits for i in range(len(pixels))])
    assert np.array_equal(alone, found.logits)  # the bytes of an answer do not depend on the others


@pytest.mark.parametrize("variant", ["grey", "colour"])
def test_gradients_are_torchs(tmp_path, variant):
    theirs, model = pair(tmp_path, variant)
    pixels, wanted = images(variant, 4, 2), [2, 0, 1, 1]
    theirs(torch.tensor(pixels), labels=torch.tensor(wanted)).loss.backward()
    model.train()
    model.loss(pixels, wanted).backward()
    exact = {name: each.grad.numpy() for name, each in theirs.named_parameters()}
    state = model.state_dict()
    assert sum(array.size for array in exact.values()) == sum(array.size for array in state.values())
    ours = {name: parameter.value.grad for name, parameter in model.own_parameters().items()}
    embeddings = "vit.embeddings"
    named = {
        "first": f"{embeddings}.cls_token",
        "positions": f"{embeddings}.position_embeddings",
        "patches": f"{embeddings}.patch_embeddings.projection.weight",
        "patches_bias": f"{embeddings}.patch_embeddings.projection.bias",
        "norm.weight": "vit.layernorm.weight",
        "head.score.weight": "classifier.weight",
    }
    for name, other in named.items():
        assert ours[name].shape == exact[other].shape
        assert np.abs(ours[name] - exact[other]).max() <= 1e-4 * np.abs(exact[other]).max()
    norms = sorted(float(np.linalg.norm(array)) for array in ours.values())
    assert np.allclose(norms, sorted(float(np.linalg.norm(array)) for array in exact.values()), rtol=1e-3, atol=1e-7)


def test_hidden_states_are_transformers(tmp_path):
    theirs, model = pair(tmp_path, "colour")
    pixels = images("colour", 3)
    with torch.no_grad():
        exact = theirs(torch.tensor(pixels), output_hidden_states=True).hidden_states
    found = model(pixels, output_hidden_states=True).hidden_states
    assert [each.shape for each in found] == [(3, 17, 24)] * 3 == [tuple(each.shape) for each in exact]
    for mine, other in zip(found, exact, strict=True):
        assert np.abs(mine - other.numpy()).max() <= 1e-4 * other.abs().max()


@pytest.mark.parametrize(
    ("fields", "labels"),
    [({"num_labels": 1}, [0.5, -2.0]), ({"num_labels": 3, "problem_type": "multi_label_classification"},
     [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]), ({"num_labels": 3, "problem_type": "regression"}, [[0.5, 1, 2], [3, -1, 0]])],
)  # fmt: skip
def test_losses_are_those_of_the_problem(tmp_path, fields, labels):
    torch.manual_seed(1)
    theirs = transformers.ViTForImageClassification(transformers.ViTConfig(**VARIANTS["grey"], **fields)).eval()
    theirs.save_pretrained(tmp_path)
    model, pixels = AutoModelForImageClassification.from_pretrained(tmp_path), images("grey", 2)
    with torch.no_grad():
        exact = theirs(torch.tensor(pixels), labels=torch.tensor(labels)).loss.item()
    assert abs(float(model(pixels, labels=labels).loss) - exact) <= 1e-5 * exact
    assert abs(model.train().loss(pixels, labels).item() - exact) <= 1e-5 * exact


def test_gradient_checkpointing_runs_layers_again_to_the_same_bits(tmp_path):
    _, model = pair(tmp_path, "grey")
    pixels, found = images("grey", 3), []
    for enable in (False, True):
        model = AutoModelForImageClassification.from_pretrained(tmp_path).train()
        runs, layer = [], model.layers[0]
        model.layers[0] = lambda x, own, layer=layer, runs=runs: (runs.append(own), layer(x, own))[1]
        if enable:
            model.gradient_checkpointing_enable()
        model.loss(pixels, [2, 0, 1]).backward()
        assert len(runs) == 1 + enable
        found.append([layer.attention.q.weight.value.grad, model.first.value.grad])
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


def test_folders_go_both_ways(tmp_path):
    theirs, model = pair(tmp_path / "a", "colour")
    model.save_pretrained(tmp_path / "b")
    one, other = (load_file(tmp_path / each / "model.safetensors") for each in "ab")
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    again = transformers.ViTForImageClassification.from_pretrained(tmp_path / "b").eval()
    pixels = torch.tensor(images("colour"))
    with torch.no_grad():
        assert (again(pixels).logits - theirs(pixels).logits).abs().max() < 1e-5  # attention eager there, fused here
    assert json.loads((tmp_path / "b" / "config.json").read_text())["architectures"] == ["ViTForImageClassification"]
    fresh = AutoModelForImageClassification.from_config(model.config, 3)
    assert not np.array_equal(fresh.eval()(images("colour")).logits, model(images("colour")).logits)
    fresh.load_state_dict(model.state_dict())
    assert np.array_equal(fresh.eval()(images("colour")).logits, model(images("colour")).logits)
    wide = AutoModelForImageClassification.from_pretrained(tmp_path / "a", num_labels=7, ignore_mismatched_sizes=True)
    assert wide(images("colour")).logits.shape == (5, 7)
    assert set(wide.missing_keys) == {"classifier.weight", "classifier.bias"}


class Drawn:
    """Images of a bright quarter, whose number is the class, and noise."""

    def __len__(self):
        return 64

    def batch(self, position, size):
        draws = [np.random.default_rng((position + i) % 64) for i in range(size)]
        pixels = np.stack([each.standard_normal((1, 8, 8)) for each in draws]).astype(np.float32)
        classes = np.array([each.integers(4) for each in draws])
        for image, number in zip(pixels, classes, strict=True):
            image[:, 4 * (number // 2) :, 4 * (number % 2) :][:, :4, :4] += 2
        return pixels, classes, np.arange(size + 1, dtype=np.int32)


def test_the_work_of_an_image_is_that_of_all_its_rows():
    model = AutoModelForImageClassification.from_config(new_config("vit", **VARIANTS["grey"]), 0)
    layers = sum(each.num_parameters() for each in model.layers)
    assert model.context_length > 1 and model.training_flops() >= 6 * layers * model.context_length


def test_it_learns_with_the_trainer_and_resumes_to_the_bit(tmp_path):
    sizes = VARIANTS["grey"] | {"hidden_dropout_prob": 0.1}
    config = new_config("vit", **sizes, id2label={i: str(i) for i in range(4)})
    a = {"per_device_train_batch_size": 16, "learning_rate": 3e-3, "lr_scheduler_type": "constant"}
    ends = []
    for name, parts in (("one", (120,)), ("two", (45, 120))):
        for steps in parts:
            model = AutoModelForImageClassification.from_config(config, 0)
            trainer = Trainer(model, Drawn(), TrainingArguments(str(tmp_path / name), max_steps=120, **a))
            if steps < 120:
                trainer.callbacks.append(_stop_at(steps))
            result = trainer.train()
        ends.append(model.learned_arrays())
    assert result.complete and result.loss < 0.4  # ln 4 is 1.39
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])
    model.eval()
    pixels, classes, _ = Drawn().batch(0, 64)
    assert (np.asarray(model(pixels).logits).argmax(axis=1) == classes).mean() > 0.95


def _stop_at(step):
    class Stop(pyllm.train.Callback):
        def on_step_end(self, trainer, values):
            if trainer.step == step:
                trainer.stop()

    return Stop()


def test_what_is_refused(tmp_path):
    _, model = pair(tmp_path, "grey")
    for shape in ((2, 1, 8, 9), (2, 3, 8, 8), (1, 8, 8), (0, 1, 8, 8)):
        with pytest.raises(ValueError, match=r"pixel_values .*allowed are \(images, 1, 8, 8\)"):
            model(np.zeros(shape, np.float32))
    for fields, error in (
        ({"patch_size": 3}, "image_size.*a multiple of patch_size, 3"), ({"qkv_bias": False}, "qkv_bias"),
        ({"num_attention_heads": 5}, "a multiple of the 5 attention heads"), ({"image_size": 0}, "image_size"),
    ):  # fmt: skip
        with pytest.raises(ModelFileError, match=error):
            new_config("vit", **(VARIANTS["grey"] | fields))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["vit.embeddings.cls_token"] = np.zeros((1, 2, 24), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match="cls_token"):
        pyllm.AutoModelForImageClassification.from_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match="vit"):
        pyllm.AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match="one of bert"):
        pyllm.AutoModel.from_pretrained(tmp_path)
