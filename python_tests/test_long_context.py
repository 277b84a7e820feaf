"""Rotary scalings that follow the context: chosen when a model is loaded, so that answers do not depend on steps."""

import json

import numpy as np
import pytest
import reference_models
import tiny_models
import torch
import transformers
from kernel_checks import same_bits

import pyllm
from pyllm.auto.saving import save_gguf
from pyllm.errors import ContextError, ModelFileError
from pyllm.formats import GGUF

TRAINED, LONG = 64, 256
DIVISORS = np.linspace(1, 3, 8).tolist(), np.geomspace(1, 40, 8).tolist()  # short, long: 16 features are 8 pairs
LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": TRAINED, "short_factor": DIVISORS[0],
            "long_factor": DIVISORS[1]}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}
CONFIGS = {
    "longrope": tiny_models.llama_config(max_position_embeddings=LONG, rope_scaling=LONGROPE),
    "longrope-warm": tiny_models.llama_config(
        max_position_embeddings=LONG, rope_scaling=LONGROPE | {"attention_factor": 1.5, "factor": 7.0}
    ),
    "dynamic": tiny_models.llama_config(max_position_embeddings=TRAINED, rope_scaling=DYNAMIC),
}
LENGTHS = {"trained": (None, TRAINED), "longer": (200, 200), "longest": (LONG, LONG)}


def folder(path, config):
    return str(tiny_models.write_folder(path, config, tiny_models.random_weights(config, seed=5)))


def relative(actual, expected):
    return float((np.abs(actual - expected).max(axis=-1) / np.abs(expected).max(axis=-1)).max())


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", CONFIGS)
def test_whole_sequences_are_as_in_transformers_and_steps_give_the_same_bits(tmp_path, name, length):
    asked, count = LENGTHS[length]
    ids = np.random.default_rng(1).integers(0, 317, count)
    path = folder(tmp_path / "m", CONFIGS[name])
    model = pyllm.AutoModelForCausalLM.from_pretrained(path, context_length=asked)
    assert model.context_length == count
    whole = model(ids[None]).logits[0]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids[None])).logits[0].numpy().astype(np.float64)
    assert relative(whole, expected) <= 1e-4
    state = model.new_state()
    steps = [model.step([(state, ids[i : i + 7])], "all") for i in range(0, count, 7)]
    assert same_bits(np.concatenate(steps), whole)
    with pytest.raises(ContextError, match=f"context has {count}"):
        model.step([(state, [1])])


@pytest.mark.parametrize("asked", [TRAINED, 200])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_float64_twin_says_the_same(tmp_path, name, asked):
    config = CONFIGS[name]
    path = folder(tmp_path / "m", config)
    ids = np.random.default_rng(2).integers(0, 317, 60)
    loaded = pyllm.AutoModelForCausalLM.from_pretrained(path, context_length=asked)
    twin = config | {"rope_scaling": {"rope_type": config["rope_scaling"]["rope_type"], **loaded.config.rope_scaling}}
    expected = reference_models.llama(tiny_models.random_weights(config, seed=5), twin, ids)
    assert relative(loaded(ids[None]).logits[0], expected) <= 1e-4


@pytest.mark.parametrize("name", ["longrope", "longrope-warm"])
def test_gguf_keeps_longrope_and_gives_it_back(tmp_path, name):
    path = folder(tmp_path / "m", CONFIGS[name])
    model = pyllm.AutoModelForCausalLM.from_pretrained(path)
    save_gguf(model, tmp_path / "m.gguf", {}, "F32")
    with GGUF(str(tmp_path / "m.gguf")) as file:  # llama.cpp would divide every frequency by it
        assert file.metadata["llama.rope.scaling.type"] == "longrope"
        assert "llama.rope.scaling.factor" not in file.metadata
    ids = np.random.default_rng(3).integers(0, 317, 60)
    for asked in (None, LONG):
        ours = pyllm.AutoModelForCausalLM.from_pretrained(path, context_length=asked)
        file = pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / "m.gguf", context_length=asked)
        assert relative(file(ids[None]).logits[0], ours(ids[None]).logits[0].astype(np.float64)) <= 1e-5
    again = pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / "m.gguf")
    again.save_pretrained(tmp_path / "again")
    found = json.loads((tmp_path / "again" / "config.json").read_text())["rope_scaling"]
    assert found["rope_type"] == "longrope" and found["original_max_position_embeddings"] == TRAINED
    assert np.allclose(found["long_factor"], DIVISORS[1]) and "context" not in found


def test_a_context_beyond_what_the_scaling_reaches_is_refused(tmp_path):
    for name, most in (("longrope", LONG), ("dynamic", 4 * TRAINED)):
        path = folder(tmp_path / name, CONFIGS[name])
        with pytest.raises(ValueError, match=f"context_length: {most + 1} is asked for, .* reaches {most}"):
            pyllm.AutoModelForCausalLM.from_pretrained(path, context_length=most + 1)


def test_other_models_take_a_smaller_context_and_no_larger_one(tmp_path):
    path = folder(tmp_path / "m", tiny_models.llama_config(max_position_embeddings=TRAINED))
    model = pyllm.AutoModelForCausalLM.from_pretrained(path, context_length=10)
    with pytest.raises(ContextError, match="context has 10"):
        model(np.zeros((1, 11), int))
    with pytest.raises(ValueError, match="context_length: 65 is asked for, allowed is 1 to 64"):
        pyllm.AutoModelForCausalLM.from_pretrained(path, context_length=65)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"long_factor": DIVISORS[1][:-1]}, "7 frequency factors"),
        ({"short_factor": None}, "no list of frequency factors"),
        ({"short_factor": [True] * 8}, "no list of frequency factors"),
        ({"long_factor": [0.0] * 8}, "out of range"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings"),
        ({"factor": 0.5}, "factor"),
    ],
)
def test_contradictory_longrope_is_refused_by_name(tmp_path, change, found):
    config = CONFIGS["longrope"] | {"rope_scaling": LONGROPE | change}
    path = folder(tmp_path / "m", config)
    with pytest.raises(ModelFileError, match=found):
        pyllm.AutoModelForCausalLM.from_pretrained(path)
