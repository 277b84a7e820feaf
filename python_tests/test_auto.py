"""Loading by path: what is kept, converted, refused."""

import json

import numpy as np
import pytest
import tiny_models

import pyllm
import pyllm.models.gpt2

IDS = np.arange(40) % 317


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = tiny_models.llama_config()
    return tiny_models.write_folder(tmp_path_factory.mktemp("auto"), config, tiny_models.random_weights(config), "BF16")


def test_weights_stay_as_stored(folder):
    model = pyllm.AutoModelForCausalLM.from_pretrained(folder)
    assert model.layers[0].attention.q.weight.value.dtype == "BF16"
    assert model.cache_type == "BF16"


STORED = [("float32", "F32"), (np.float32, "F32"), ("bfloat16", "BF16"), ("bf16", "BF16")]


@pytest.mark.parametrize(("dtype", "stored"), STORED)
def test_dtype_converts(folder, dtype, stored):
    model = pyllm.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    assert model.head.weight.value.dtype == stored
    assert model.cache_type == stored


QUANTISED = [("int8", "INT8", 0.1), ("q8_0", "Q8_0", 0.1), ("q4_1", "Q4_1", 0.8)]


@pytest.mark.parametrize(("dtype", "stored", "off"), QUANTISED)
def test_weights_are_quantised_while_they_load(folder, dtype, stored, off):
    """The whole model runs on them, step by step to the bits of the whole, and stays near float32."""
    model = pyllm.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    assert {each.value.dtype for _, each in model.named_parameters() if each.packed} == {stored}
    exact = pyllm.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")(IDS[None]).logits
    whole, state = model(IDS[None]).logits, model.new_state()
    steps = np.concatenate([model.step([(state, IDS[i : i + 7])], "all") for i in range(0, len(IDS), 7)])
    assert steps.tobytes() == whole[0].tobytes()
    assert 1e-4 < np.linalg.norm(whole - exact) / np.linalg.norm(exact) < off


def test_unknown_types_are_refused(folder):
    with pytest.raises(ValueError, match=r"'int4', allowed are auto, float32, bfloat16, float16, int8, q8_0"):
        pyllm.AutoModelForCausalLM.from_pretrained(folder, dtype="int4")


def test_bf16_made_from_f32_is_the_stored_bf16(folder, tmp_path):
    config = tiny_models.llama_config()
    wide = tiny_models.write_folder(tmp_path, config, tiny_models.random_weights(config), "F32")
    one = pyllm.AutoModelForCausalLM.from_pretrained(wide, torch_dtype="bfloat16")
    two = pyllm.AutoModelForCausalLM.from_pretrained(folder)
    for a, b in zip(one.named_parameters(), two.named_parameters(), strict=True):
        if a[1].packed:
            n = a[1].shape[0]
            assert np.array_equal(a[1].value.dequantise(0, n), b[1].value.dequantise(0, n)), a[0]


def test_arguments_are_checked(folder):
    with pytest.raises(TypeError, match="unknown arguments attention"):
        pyllm.AutoModelForCausalLM.from_pretrained(folder, attention="fast")
    with pytest.raises(ValueError, match="dtype is 'int3', allowed are auto, float32, bfloat16"):
        pyllm.AutoModelForCausalLM.from_pretrained(folder, dtype="int3")
    with pytest.raises(ValueError, match="precision is 'low', allowed are default, high"):
        pyllm.AutoModelForCausalLM.from_pretrained(folder, precision="low")


def test_missing_weights_are_named(folder, tmp_path):
    config = tiny_models.llama_config()
    weights = tiny_models.random_weights(config)
    del weights["model.layers.1.mlp.up_proj.weight"]
    weights["model.norm.weight"] = np.ones(63, np.float32)
    path = tiny_models.write_folder(tmp_path, config, weights)
    with pytest.raises(pyllm.ModelFileError, match=r"up_proj.weight' \[96, 64\] is missing") as caught:
        pyllm.AutoModelForCausalLM.from_pretrained(path)
    assert "'model.norm.weight' is [63], expected [64]" in str(caught.value)


def test_generation_config_of_the_folder_is_the_start(folder):
    (folder / "generation_config.json").write_text(json.dumps({"max_new_tokens": 3, "min_new_tokens": 3}))
    try:
        model = pyllm.AutoModelForCausalLM.from_pretrained(folder)
        assert model.generate(IDS[None, :5]).shape == (1, 8)
        assert model.generate(IDS[None, :5], max_new_tokens=4, min_new_tokens=4).shape == (1, 9)
    finally:
        (folder / "generation_config.json").unlink()


def test_loss_is_the_mean_cross_entropy_of_the_next_tokens(folder):
    model = pyllm.AutoModelForCausalLM.from_pretrained(folder)
    labels = np.where(IDS < 7, -100, IDS)[None]
    out = model(IDS[None], labels=labels)
    x = out.logits[0].astype(np.float64)
    log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
    expected = -np.mean([log_p[i, IDS[i + 1]] for i in range(39) if IDS[i + 1] >= 7])
    assert out.loss == pytest.approx(expected, rel=1e-6)


def test_masked_places_are_not_seen(folder):
    model = pyllm.AutoModelForCausalLM.from_pretrained(folder)
    ids = np.concatenate([[9, 9, 9], IDS[:10]])[None]
    mask = (np.arange(13) >= 3)[None]
    out = model(ids, attention_mask=mask).logits[0]
    assert np.array_equal(out[3:], model(IDS[None, :10]).logits[0])
    assert not out[:3].any()


def test_ids_beyond_32_bits_are_no_others(folder):
    with pytest.raises(IndexError, match="input_ids: 4294967301, allowed are numbers of 32 bits"):
        pyllm.AutoModelForCausalLM.from_pretrained(folder)(np.array([[(1 << 32) + 5]]))


def test_parameters_are_counted_once(folder):
    config = tiny_models.gpt2_config()
    shapes = tiny_models.shapes(config)
    module = pyllm.models.gpt2.GPT2  # loaded by the family's name
    values = {k: v for k, v in config.items() if k in set(pyllm.models.gpt2.Config.__dataclass_fields__)}
    values["n_inner"] = 256
    assert module(pyllm.models.gpt2.Config(**values)).num_parameters() == sum(int(np.prod(s)) for s in shapes.values())
