"""Adapters of encoders and their heads beside transformers' models in torch: scores, gradients, folders, refusals."""

import json

import numpy as np
import pytest
import tiny_encoders
import torch
import transformers
from lora_cases import distance
from lora_torch import PREFIX, called, gradients, matrices, stored, write
from safetensors.numpy import load_file, save_file
from tiny_encoders import batch, error, tensors, theirs

import pyllm
from pyllm import ops
from pyllm.auto import encoders
from pyllm.errors import ModelFileError
from pyllm.models.encoder import TOGETHER
from pyllm.optim import AdamW
from pyllm.train import LoraConfig

VARIANTS = ("bert", "roberta", "distilbert", "albert groups", "mpnet", "electra")
CASES = [(v, task) for v in VARIANTS for task in ("SequenceClassification", "TokenClassification")]
CASES += [("bert", "Model"), ("bert", "MaskedLM"), ("roberta", "MaskedLM"), ("albert", "PreTraining")]
CASES += [("electra", "PreTraining")]
HEADS = {"bert": {"classifier"}, "roberta": {"classifier.dense", "classifier.out_proj"},
         "distilbert": {"pre_classifier", "classifier"}, "albert groups": {"classifier"}}  # fmt: skip
HEADS["mpnet"] = HEADS["electra"] = HEADS["roberta"]


def opened(task, path, **options):
    """Our model of a folder."""
    module = pyllm if task == "SequenceClassification" else encoders
    return tiny_encoders.auto(module, task).from_pretrained(path, **options)


def base(folder, variant, task, **changes):
    """(transformers' model, our model of the same numbers)."""
    model = theirs(variant, task, **changes)
    model.save_pretrained(folder / "base")
    return model, opened(task, folder / "base")


def learned(model, spread=0.3, **fields):
    """The model with an adapter of random B, whose head, if it learns, is another too."""
    model.add_adapter(LoraConfig(**({"r": 4, "lora_alpha": 8} | fields)))
    rng = np.random.default_rng(3)
    for name, parameter in model.learned().items():
        if not name.endswith("lora_A"):
            parameter.learn(rng.standard_normal(parameter.shape).astype(np.float32) * np.float32(spread))
    return model.eval()


def scores(out):
    """The first of what a model gives, transformers' or ours."""
    return np.asarray(out[0] if isinstance(out[0], np.ndarray) else out[0].detach().numpy())


def apart(ours, wanted, inputs):
    """The error of scores, where there is no padding."""
    mask = inputs["attention_mask"] == 1
    return error(ours[mask], wanted[mask]) if ours.shape[:2] == mask.shape else error(ours, wanted)


# --- beside torch ---


@pytest.mark.parametrize(("variant", "task"), CASES)
def test_written_folders_say_in_torch_what_our_model_says(variant, task, tmp_path):
    model, ours = base(tmp_path, variant, task)
    inputs = batch(variant)
    before = scores(ours(**inputs))
    after = scores(learned(ours)(**inputs))
    assert distance(after, before) > 0.05
    ours.save_pretrained(tmp_path / "adapter")
    wanted = scores(called(model, tmp_path / "adapter", **tensors(inputs)))
    assert apart(after, wanted, inputs) < 1e-4
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    names = {n.removeprefix(PREFIX) for n in load_file(tmp_path / "adapter" / "adapter_model.safetensors")}
    whole = {name.rpartition(".")[0] for name in names if ".lora_" not in name}
    kinds = {"SequenceClassification": "SEQ_CLS", "TokenClassification": "TOKEN_CLS", "Model": "FEATURE_EXTRACTION"}
    assert config["task_type"] == kinds.get(task) and config["base_model_name_or_path"] == str(tmp_path / "base")
    classes = kinds.get(task) in ("SEQ_CLS", "TOKEN_CLS")
    assert config["modules_to_save"] == (["classifier", "score"] if classes else None)
    head = {"classifier"} if task == "TokenClassification" else HEADS.get(variant)
    assert whole == (head if classes else set())
    again = opened(task, tmp_path / "adapter")
    np.testing.assert_array_equal(scores(again(**inputs)), after)
    assert not again.missing_keys and again.config.id2label == model.config.id2label
    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    plain = tiny_encoders.auto(transformers, task).from_pretrained(tmp_path / "merged").eval()
    assert apart(scores(plain(**tensors(inputs))), wanted, inputs) < 1e-4
    ours.set_adapter(None)
    np.testing.assert_array_equal(scores(ours(**inputs)), before)


MADE = {
    ("bert", "SequenceClassification"): (("query", "value"), {"classifier.weight": (4, 32), "classifier.bias": (4,)}),
    ("roberta", "SequenceClassification"): (
        ("attention.output.dense", "key"),
        {"classifier.dense.weight": (32, 32), "classifier.dense.bias": (32,), "classifier.out_proj.weight": (4, 32),
         "classifier.out_proj.bias": (4,)},
    ),
    ("distilbert", "SequenceClassification"): (
        ("q_lin", "lin2"),
        {"pre_classifier.weight": (32, 32), "pre_classifier.bias": (32,), "classifier.weight": (4, 32),
         "classifier.bias": (4,)},
    ),
    ("albert groups", "TokenClassification"): (("ffn",), {"classifier.weight": (4, 32), "classifier.bias": (4,)}),
    ("bert", "TokenClassification"): (("dense",), {"classifier.weight": (4, 32), "classifier.bias": (4,)}),
}  # fmt: skip


@pytest.mark.parametrize(("variant", "task"), MADE)
def test_pefts_folders_open_on_a_model_without_a_head(variant, task, tmp_path, caplog):
    """As PEFT writes them: it says nothing of classes but by the size of the head."""
    theirs(variant, "Model").save_pretrained(tmp_path / "base")
    model = tiny_encoders.auto(transformers, task).from_pretrained(tmp_path / "base", num_labels=4).eval()
    ends, whole = MADE[variant, task]
    kind = "SEQ_CLS" if task == "SequenceClassification" else "TOKEN_CLS"
    modules = {name: shape for name, shape in matrices(model, *(f".{e}" for e in ends)).items() if "pooler" not in name}
    more = {"task_type": kind, "modules_to_save": ["classifier", "score"]}
    folder = write(tmp_path / "adapter", tmp_path / "base", modules, whole, **more)
    ours, inputs = opened(task, folder), batch(variant)
    wanted = scores(called(model, folder, **tensors(inputs)))
    assert apart(scores(ours(**inputs)), wanted, inputs) < 1e-4
    assert ours.config.num_labels == 4 and not ours.missing_keys and "random" not in caplog.text
    assert pyllm.auto.classifiers.head_of(folder) == f"For{task}"


def by_name(model, folder, arrays):
    """Arrays of what learns, by PEFT's names: the folder that holds them in the place of the numbers."""
    for name, parameter in model.learned().items():
        parameter.learn(arrays[name])
    model.save_pretrained(folder)
    return {name.removeprefix(PREFIX): a for name, a in load_file(folder / "adapter_model.safetensors").items()}


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(("variant", "task"), CASES[:12])
def test_gradients_of_adapter_and_head_are_torchs(variant, task, many, tmp_path):
    """many: more rows than a group of sequences has that runs through all layers at once."""
    model, ours = base(tmp_path, variant, task)
    learned(ours).save_pretrained(tmp_path / "adapter")
    rng = np.random.default_rng(2)
    count, length = (160, 39) if many else (3, 12)
    if variant in ("roberta", "mpnet"):
        length = min(length, 37)  # its table begins behind the padding token
    rows = count + 8 * (variant in ("roberta", "mpnet"))
    inputs = {"input_ids": rng.integers(3, tiny_encoders.VOCABULARY, (rows, length))}
    labels = rng.integers(0, 3, (rows,) if task == "SequenceClassification" else (rows, length))
    loss, wanted = gradients(model, tmp_path / "adapter", **tensors(inputs | {"labels": labels}))
    assert (rows * length * 32 > TOGETHER) == many
    ours.train()
    with ops.documents(np.arange(0, rows * length + 1, length, dtype=np.int32)):
        mine = ours.loss(inputs["input_ids"].reshape(-1), labels.reshape(-1))
    assert abs(mine.item() - loss) < 1e-5 * loss
    mine.backward()
    found = by_name(ours, tmp_path / "g", {name: each.value.grad for name, each in ours.learned().items()})
    assert set(found) == set(wanted) and any("classifier" in name for name in found)
    worst = max(float(np.abs(wanted[name]).max()) for name in wanted)
    for name, gradient in found.items():
        size = max(float(np.abs(wanted[name]).max()), 1e-3 * worst)  # of keys' B it is zero but for rounding
        assert np.abs(gradient - wanted[name]).max() < 2e-4 * size, name


# --- as they are stored ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "q8_0", "q4_0", "q4_1"])
def test_an_adapter_learns_on_weights_as_they_are_stored(dtype, tmp_path):
    base(tmp_path, "bert", "SequenceClassification", hidden_size=64, intermediate_size=96)
    ours = opened("SequenceClassification", tmp_path / "base", dtype=dtype)
    inputs = batch("bert")
    before = ours(**inputs).logits
    ours.add_adapter(LoraConfig(r=4, lora_dropout=0.1))
    # The head learns in float32, whose products round nothing; a whole model of these types rounds more.
    assert distance(ours.eval()(**inputs).logits, before) < (1e-6 if dtype in ("float32", "float16") else 0.02)
    trunk = {name: each for name, each in ours.own_parameters().items() if not name.startswith("head.")}
    held = {name: each.array().tobytes() for name, each in trunk.items()}
    kinds = {each.value.dtype for each in trunk.values() if each.packed}
    assert kinds == {{"float32": "F32", "bfloat16": "BF16", "float16": "F16"}.get(dtype, dtype.upper())}
    lengths = inputs["attention_mask"].sum(axis=1)
    ids = np.concatenate([row[:n] for row, n in zip(inputs["input_ids"], lengths, strict=True)])
    optimizer, losses = AdamW(ours.train().parameters(), lr=1e-2), []
    for step in range(15):
        optimizer.zero_grad()
        with ops.documents(np.cumsum([0, *lengths]).astype(np.int32)), ops.noise(1, step):
            loss = ours.loss(ids, np.array([0, 1, 2]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert {name: each.array().tobytes() for name, each in trunk.items()} == held
    total, trained = ours.num_parameters(), ours.num_parameters(only_trainable=True)
    tables = sum(each.weight.size for each in (ours.words, ours.positions, ours.types))
    assert ours.training_flops() == 4 * (total - tables) + 2 * trained
    after = ours.eval()(**inputs).logits
    assert after.argmax(axis=1).tolist() == [0, 1, 2]
    ours.save_pretrained(tmp_path / "adapter")
    again = opened("SequenceClassification", tmp_path / "adapter", dtype=dtype)
    if dtype in ("float32", "float16"):
        np.testing.assert_array_equal(again(**inputs).logits, after)
    else:
        assert distance(again(**inputs).logits, after) < 0.02
    ours.merge_and_unload()
    assert distance(ours(**inputs).logits, after) < (1e-5 if dtype in ("float32", "float16") else 0.1)
    ours.set_adapter(None)


def test_layers_that_are_run_again_give_the_same_bits(tmp_path):
    _, ours = base(tmp_path, "bert", "TokenClassification")
    learned(ours).train()
    ids, targets = np.arange(3, 33)[None], np.arange(30)[None] % 3
    found = []
    for enable in (ours.gradient_checkpointing_disable, ours.gradient_checkpointing_enable):
        enable()
        ours.zero_grad()
        with ops.noise(1, 2):
            ours.loss(ids, targets).backward()
        found.append({name: each.value.grad.tobytes() for name, each in ours.learned().items()})
    assert found[0] == found[1]


# --- several, and what learns whole ---


def test_heads_take_turns_with_their_adapters(tmp_path):
    _, ours = base(tmp_path, "bert", "SequenceClassification")
    inputs = batch("bert")
    plain = ours(**inputs).logits
    one = learned(ours)(**inputs).logits
    ours.add_adapter(LoraConfig(r=2, target_modules=["v"]), "other", seed=5)
    np.testing.assert_array_equal(ours.eval()(**inputs).logits, plain)  # it begins with the model's head
    two = learned_again(ours, 0.7)(**inputs).logits
    assert distance(two, one) > 0.05
    wanted = {f"layers.{i}.attention.v.lora_{each}" for i in range(2) for each in "AB"}
    assert set(ours.learned()) == wanted | {"head.score.weight", "head.score.bias"}
    pyllm.auto.adapters.save_adapter(ours, tmp_path / "one", "default")
    assert ours.active_adapter == "other"
    np.testing.assert_array_equal(ours(**inputs).logits, two)
    ours.set_adapter("default")
    np.testing.assert_array_equal(ours(**inputs).logits, one)
    again = opened("SequenceClassification", tmp_path / "base").load_adapter(tmp_path / "one", "mine").eval()
    np.testing.assert_array_equal(again(**inputs).logits, one)
    state = ours.state_dict()
    assert set(state) == set(ours.learned())
    ours.train().load_state_dict({name: np.zeros_like(array) for name, array in state.items()})
    ours.set_adapter(None)
    np.testing.assert_array_equal(ours.eval()(**inputs).logits, plain)


def learned_again(model, spread):
    rng = np.random.default_rng(9)
    for parameter in model.learned().values():
        parameter.learn(rng.standard_normal(parameter.shape).astype(np.float32) * np.float32(spread))
    return model.eval()


def test_modules_that_are_named_learn_whole(tmp_path):
    model, ours = base(tmp_path, "bert", "SequenceClassification")
    learned(ours, modules_to_save=["embeddings.LayerNorm", "pooler", "intermediate.dense"])
    assert {name for name in ours.learned() if ".lora_" not in name} == {
        *("norm.weight", "norm.bias", "pooler.weight", "pooler.bias", "head.score.weight", "head.score.bias"),
        *(f"layers.{i}.feed_forward.up.{each}" for i in range(2) for each in ("weight", "bias")),
    }
    assert not any("pooler.lora" in name or "up.lora" in name for name in ours.learned())
    ours.save_pretrained(tmp_path / "adapter")
    inputs = batch("bert")
    assert error(ours(**inputs).logits, scores(called(model, tmp_path / "adapter", **tensors(inputs)))) < 1e-4


@pytest.mark.parametrize("task", ["SequenceClassification", "Model"])
def test_what_no_file_had_learns_whole_and_is_saved(task, tmp_path, caplog):
    theirs("bert", "MaskedLM").save_pretrained(tmp_path / "base")  # it has neither pooler nor classifier
    ours = opened(task, tmp_path / "base", seed=7)
    assert ours.missing_keys and "random" in caplog.text
    ours.add_adapter(LoraConfig(r=2, target_modules=["q"]))
    inputs = batch("bert")
    ours.eval().save_pretrained(tmp_path / "adapter")
    caplog.clear()
    again = opened(task, tmp_path / "adapter")  # with another seed's numbers below the adapter's
    field = "pooler_output" if task == "Model" else "logits"
    np.testing.assert_array_equal(getattr(again(**inputs), field), getattr(ours(**inputs), field))
    assert not again.missing_keys and not caplog.text


def test_images_are_told_apart_by_an_adapter(tmp_path):
    """PEFT has no word for this task: its examples name the head."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=1, num_labels=3)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "base")
    names = {0: "cat", 1: "dog"}
    options = {"id2label": names, "ignore_mismatched_sizes": True}
    ours = encoders.AutoModelForImageClassification.from_pretrained(tmp_path / "base", **options)
    learned(ours, target_modules=["query", "value"], modules_to_save=["classifier"])
    ours.save_pretrained(tmp_path / "adapter")
    pixels = np.random.default_rng(0).standard_normal((5, 1, 8, 8)).astype(np.float32)
    after = ours(pixels).logits
    again = encoders.AutoModelForImageClassification.from_pretrained(tmp_path / "adapter")
    np.testing.assert_array_equal(again(pixels).logits, after)
    assert again.config.id2label == names and again.task_type is None
    before = again.train()(pixels, labels=[0, 1, 0, 1, 0]).loss
    before.backward()
    optimizer = AdamW(again.parameters(), lr=1e-2)
    optimizer.step()
    assert again(pixels, labels=[0, 1, 0, 1, 0]).loss.item() < before.item()
    ours.merge_and_unload().save_pretrained(tmp_path / "merged")
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    whole, low = stored(tmp_path / "adapter")
    layer = "vit.encoder.layer.{}.attention.attention.{}"
    assert set(low) == {layer.format(i, each) for i in (0, 1) for each in ("query", "value")}
    for name, (a, b, scale) in low.items():  # by the names in files: transformers has had others in memory since
        change = (scale * b @ a).numpy()
        np.testing.assert_allclose(new[f"{name}.weight"], old[f"{name}.weight"] + change, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(new["classifier.weight"], whole["classifier.weight"].numpy())
    plain = transformers.ViTForImageClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        assert error(after, plain(torch.tensor(pixels)).logits.numpy()) < 1e-4


def test_classes_come_with_the_adapter(tmp_path):
    theirs("bert", "SequenceClassification").save_pretrained(tmp_path / "base")  # of three classes
    names = {0: "bad", 1: "good"}
    options = {"id2label": names, "ignore_mismatched_sizes": True, "problem_type": "single_label_classification"}
    ours = opened("SequenceClassification", tmp_path / "base", **options)
    ours.add_adapter(LoraConfig(r=2)).eval().save_pretrained(tmp_path / "adapter")
    again = opened("SequenceClassification", tmp_path / "adapter")
    assert again.config.id2label == names and again.config.problem_type == "single_label_classification"
    for text, field in (("[]", "a JSON object"), ('{"id2label": {"1": "x"}}', "'id2label'"),
                        ('{"id2label": {"0": "a", "1": "b"}, "problem_type": "x"}', "'problem_type'")):  # fmt: skip
        (tmp_path / "adapter" / "labels.json").write_text(text)
        with pytest.raises(ModelFileError, match=field):
            opened("SequenceClassification", tmp_path / "adapter")


# --- refusals ---


def test_what_a_model_has_not_is_refused_by_name(tmp_path):
    _, ours = base(tmp_path, "bert", "SequenceClassification")
    before = ours(**batch("bert")).logits
    for config, message in (
        ({"target_modules": ["q", "q_proj"]}, r"target_modules: 'q_proj' is not known; known are q, k, v, o, up, down"),
        ({"target_modules": ["classifier"]}, r"'classifier' is not known; .*pooler, query, key, value, dense"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save: 'lm_head' is not known; .*query, .*classifier"),
        ({"task_type": "TOKEN_CLS"}, r"task_type 'TOKEN_CLS' for BERT, allowed is 'SEQ_CLS'"),
        ({"modules_to_save": ["dense"], "target_modules": ["up", "down", "o"]}, "no matrix to be changed"),
    ):
        with pytest.raises(ValueError, match=message):
            ours.add_adapter(LoraConfig(**config))
    assert not ours.adapters and np.array_equal(ours(**batch("bert")).logits, before)
    with pytest.raises(ValueError, match="LoraConfig: task_type is 'QUESTION_ANS', allowed: None, 'CAUSAL_LM'"):
        LoraConfig(task_type="QUESTION_ANS")
    _, words = base(tmp_path, "bert", "MaskedLM")
    with pytest.raises(ValueError, match="'word_embeddings' has its numbers from another module"):
        words.add_adapter(LoraConfig(modules_to_save=["word_embeddings"]))


def test_folders_that_do_not_fit_are_refused(tmp_path):
    _, ours = base(tmp_path, "bert", "SequenceClassification")
    learned(ours).save_pretrained(tmp_path / "adapter")
    low = f"{PREFIX}bert.pooler.dense.lora_A.weight"
    file, config = (tmp_path / "adapter" / name for name in ("adapter_model.safetensors", "adapter_config.json"))
    sound, fields = load_file(file), json.loads(config.read_text())
    head = f"{PREFIX}classifier.weight"
    wrong = (
        ({head: None}, {}, r"'modules_to_save': adapter_model.safetensors has no base_model.model.classifier.weight"),
        ({head: np.zeros((3, 31), np.float32)}, {}, r"'classifier.weight' is \[3, 31\], expected \[3, 32\]"),
        ({head: np.zeros((0,), np.float32)}, {}, r"'classifier.weight' is \[0\], expected \[3, 32\]"),
        ({head: np.zeros((3, 32), np.int64)}, {}, "'classifier.weight' is stored as I64, which pyllm does not compute"),
        ({low: np.zeros((4, 32), np.int64)}, {}, "pooler.dense.lora_A.weight': I64; numbers that are computed with"),
        ({}, {"modules_to_save": None}, "base_model.model.classifier.bias: the model has no such matrix"),
        ({}, {"modules_to_save": ["classifier", "lm_head"]}, "'modules_to_save': 'lm_head' is not known"),
        ({}, {"modules_to_save": "classifier"}, "'modules_to_save': \"classifier\"; names of modules"),
        ({}, {"task_type": "QUESTION_ANS"}, "'task_type': \"QUESTION_ANS\""),
        ({f"{PREFIX}x.weight": np.zeros((2, 2), np.float32)}, {}, "base_model.model.x.weight: the model has no such"),
    )
    for arrays, changes, message in wrong:
        save_file({name: a for name, a in (sound | arrays).items() if a is not None}, file)
        config.write_text(json.dumps(fields | changes))
        with pytest.raises(ModelFileError, match=message):
            opened("SequenceClassification", tmp_path / "adapter")
    save_file(sound, file)
    config.write_text(json.dumps(fields))
    with pytest.raises(ModelFileError, match="the model has no such matrix"):
        opened("Model", tmp_path / "adapter")  # its names begin without `bert.`
    with pytest.raises(ModelFileError, match="a family that continues texts"):
        pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
