"""Adapters of encoder-decoders beside transformers' models in torch: scores, gradients, search, folders, refusals."""

import json

import numpy as np
import pair_models
import pytest
import torch
from lora_cases import distance
from lora_torch import PREFIX, called, gradients, matrices, stored, write
from safetensors.numpy import load_file
from tiny_encoders import error

from pyllm import nn
from pyllm.auto import new_config
from pyllm.auto.pairs import AutoModelForSeq2SeqLM
from pyllm.errors import ModelFileError
from pyllm.optim import AdamW
from pyllm.train import LoraConfig

VARIANTS = ("bart", "mbart", "marian", "marian apart", "t5", "t5 v1.1", "t5 gated silu",
            "pegasus", "m2m100", "mt5", "umt5")
SOURCE = np.random.default_rng(0).integers(3, 50, (2, 7))
TARGET = np.random.default_rng(1).integers(3, 50, (2, 5))
PLACES = {"input_ids": torch.tensor(SOURCE), "decoder_input_ids": torch.tensor(TARGET)}
OURS = {"seq2seq": {"embedding_size": 16, "hidden_size": 24, "num_layers": 1, "dropout": 0.0},
        "transformer": {"d_model": 16, "nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 1,
                        "dim_feedforward": 24, "dropout": 0.0, "label_smoothing": 0.0}}  # fmt: skip


def base(folder, variant, **changes):
    """(transformers' model, our model of the same numbers)."""
    model, path = pair_models.save(variant, folder / "base", **changes)
    return model, AutoModelForSeq2SeqLM.from_pretrained(path)


def learned(model, spread=0.3, **fields):
    """The model with an adapter of random B."""
    model.add_adapter(LoraConfig(**({"r": 4, "lora_alpha": 8} | fields)))
    rng = np.random.default_rng(3)
    for name, parameter in model.learned().items():
        if name.endswith("lora_B"):
            parameter.learn(rng.standard_normal(parameter.shape).astype(np.float32) * np.float32(spread))
    return model.eval()


def scores(model):
    return model(SOURCE, decoder_input_ids=TARGET).logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_written_folders_say_in_torch_what_our_model_says(variant, tmp_path):
    model, ours = base(tmp_path, variant)
    before = scores(ours)
    after = scores(learned(ours))
    assert distance(after, before) > 0.05
    ours.save_pretrained(tmp_path / "adapter")
    wanted = called(model, tmp_path / "adapter", **PLACES).logits.numpy()
    assert error(after, wanted) < 1e-4
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_2_SEQ_LM" and config["modules_to_save"] is None
    every = matrices(model, "")
    every.pop("lm_head")
    assert set(stored(tmp_path / "adapter")[1]) == set(every)
    assert not (tmp_path / "adapter" / "labels.json").exists()
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter")
    np.testing.assert_array_equal(scores(again), after)
    assert again.name_or_path == str(tmp_path / "base")
    # A search goes step by step, and finds what a merged model finds.
    found = again.generate(SOURCE, num_beams=3, max_new_tokens=6)
    again.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged")
    assert error(scores(merged), wanted) < 1e-4
    np.testing.assert_array_equal(merged.generate(SOURCE, num_beams=3, max_new_tokens=6), found)
    ours.set_adapter(None)
    np.testing.assert_array_equal(scores(ours), before)


ENDS = {"t5 v1.1": ("q", "v", "wi_1"), "bart": ("q_proj", "fc2"), "mbart": ("self_attn.v_proj",),
        "marian": ("out_proj", "fc1")}  # fmt: skip


@pytest.mark.parametrize(("variant", "ends"), ENDS.items())
def test_pefts_folders_open(variant, ends, tmp_path):
    model, _ = base(tmp_path, variant)
    modules = matrices(model, *(f".{end}" for end in ends))
    assert modules
    folder = write(tmp_path / "adapter", tmp_path / "base", modules, task_type="SEQ_2_SEQ_LM")
    wanted = called(model, folder, **PLACES).logits.numpy()
    ours = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert error(scores(ours), wanted) < 1e-4
    other = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base")
    other.add_adapter(LoraConfig(r=3, target_modules=ends))  # the same matrices by the same names
    assert set(other.learned()) == set(ours.learned())


@pytest.mark.parametrize("variant", ["bart", "mbart", "marian", "t5", "t5 v1.1"])
def test_gradients_are_torchs(variant, tmp_path):
    model, ours = base(tmp_path, variant)
    learned(ours).save_pretrained(tmp_path / "adapter")
    labels = TARGET
    loss, wanted = gradients(model, tmp_path / "adapter", input_ids=PLACES["input_ids"], labels=torch.tensor(labels))
    ours.train()
    mine = ours(SOURCE, labels=labels).loss
    assert abs(mine.item() - loss) < 1e-5 * loss
    mine.backward()
    arrays = {name: each.value.grad for name, each in ours.learned().items()}
    for name, parameter in ours.learned().items():
        parameter.learn(arrays[name])
    ours.save_pretrained(tmp_path / "g")
    found = {n.removeprefix(PREFIX): a for n, a in load_file(tmp_path / "g" / "adapter_model.safetensors").items()}
    assert set(found) == set(wanted)
    worst = max(float(np.abs(each).max()) for each in wanted.values())
    for name, gradient in found.items():
        size = max(float(np.abs(wanted[name]).max()), 1e-3 * worst)  # of keys' B it may be zero but for rounding
        assert np.abs(gradient - wanted[name]).max() < 2e-4 * size, name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "q8_0", "q4_0", "q4_1"])
@pytest.mark.parametrize("variant", ["t5 v1.1", "bart"])
def test_an_adapter_learns_on_weights_as_they_are_stored(variant, dtype, tmp_path):
    inner = ("d_ff",) if variant.startswith("t5") else ("encoder_ffn_dim", "decoder_ffn_dim")
    base(tmp_path, variant, **dict.fromkeys(inner, 64), **({"d_kv": 16} if variant.startswith("t5") else {}))
    ours = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base", dtype=dtype)
    before = scores(ours)
    ours.add_adapter(LoraConfig(r=8, lora_alpha=32))
    # B is zero. GELU of rounded operands is the brief one within a product, which an adapter takes apart.
    assert distance(scores(ours), before) <= (0 if dtype == "float32" or variant != "bart" else 5e-3)
    held = {name: each.array().tobytes() for name, each in ours.own_parameters().items()}
    optimizer, losses = AdamW(ours.train().parameters(), lr=1e-2), []
    for _ in range(25):
        optimizer.zero_grad()
        loss = ours(SOURCE, labels=TARGET).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert {name: each.array().tobytes() for name, each in ours.own_parameters().items()} == held
    after = scores(ours.eval())
    ours.save_pretrained(tmp_path / "adapter")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter", dtype=dtype)
    np.testing.assert_array_equal(scores(again), after)
    # Of other types than float32 merged matrices round their inputs less than stored ones did.
    assert distance(scores(ours.merge_and_unload()), after) < (1e-5 if dtype == "float32" else 0.15)


@pytest.mark.parametrize(("family", "changes"), [("transformer", {}), ("seq2seq", {"attention": "additive"}),
                                                 ("seq2seq", {"attention": "general"})])  # fmt: skip
def test_our_own_families_are_changed_by_their_definition(family, changes, tmp_path):
    """W + scale B A of the folder's tensors are those of the merged model, three matrices in one where it is so."""
    config = new_config(family, vocab_size=53, **OURS[family], **changes)
    AutoModelForSeq2SeqLM.from_config(config, 1).eval().save_pretrained(tmp_path / "base")
    ours = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base")
    before = scores(ours)
    after = scores(learned(ours, 0.5))
    assert distance(after, before) > 0.05
    assert not any("head" in name or name.startswith("attention.score") for name in ours.learned())
    ours.save_pretrained(tmp_path / "adapter")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter")
    np.testing.assert_array_equal(scores(again), after)
    low = stored(tmp_path / "adapter")[1]
    ours.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert distance(scores(ours), after) < 1e-4
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    changed = {name if name in old else f"{name}.weight": each for name, each in low.items()}
    assert set(changed) <= set(old)
    for name, matrix in old.items():
        a, b, scale = changed.get(name, (None, None, 0))
        wanted = matrix if a is None else matrix + (scale * b @ a).numpy()
        np.testing.assert_allclose(new[name], wanted, rtol=1e-4, atol=1e-5)


def test_what_a_model_has_not_is_refused_by_name(tmp_path):
    _, ours = base(tmp_path, "t5 v1.1")
    before = scores(ours)
    for config, message in (
        ({"target_modules": ["q_proj"]}, "'q_proj' is not known; known are q, k, v, o, gate, up, down, wi_0, wi_1, wo"),
        ({"modules_to_save": ["classifier_"]}, r"modules_to_save: 'classifier_' is not known; known are shared"),
        ({"modules_to_save": ["shared"]}, r"'shared' has its numbers from another module"),
        ({"task_type": "CAUSAL_LM"}, r"task_type 'CAUSAL_LM' for T5, allowed is 'SEQ_2_SEQ_LM'"),
    ):
        with pytest.raises(ValueError, match=message):
            ours.add_adapter(LoraConfig(**config))
    assert not ours.adapters and np.array_equal(scores(ours), before)
    config = new_config("seq2seq", vocab_size=53, **OURS["seq2seq"], attention="none")
    with pytest.raises(ValueError, match="Seq2Seq has no matrix to be changed"):
        AutoModelForSeq2SeqLM.from_config(config, 1).add_adapter(LoraConfig())
    learned(ours).save_pretrained(tmp_path / "adapter")
    config_file = tmp_path / "adapter" / "adapter_config.json"
    fields = json.loads(config_file.read_text())
    config_file.write_text(json.dumps(fields | {"modules_to_save": ["nothing"]}))
    with pytest.raises(ModelFileError, match="'modules_to_save': 'nothing' is not known"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter")


def test_a_head_of_its_own_learns_whole(tmp_path):
    model, ours = base(tmp_path, "marian apart", tie_word_embeddings=False)
    learned(ours, modules_to_save=["lm_head"]).train()
    loss = ours(SOURCE, labels=TARGET).loss
    loss.backward()
    assert set(np.unique(ours.head.weight.value.grad)) != {0}
    ours.head.weight.learn(ours.head.weight.array() - ours.head.weight.value.grad)
    assert ours(SOURCE, labels=TARGET).loss.item() != loss.item()
    ours.eval().save_pretrained(tmp_path / "adapter")
    assert f"{PREFIX}lm_head.weight" in load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    wanted = called(model, tmp_path / "adapter", **PLACES).logits.numpy()
    assert error(scores(ours), wanted) < 1e-4
    assert error(scores(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter")), wanted) < 1e-4


def test_without_adapters_all_but_buffers_learn(tmp_path):
    _, model = base(tmp_path, "bart")
    buffers = {path for path, each in model.own_parameters().items() if isinstance(each, nn.Buffer)}
    assert buffers and set(model.learned()) == set(model.own_parameters()) - buffers
