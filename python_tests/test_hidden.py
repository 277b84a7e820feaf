"""The rows before the head: what they are, and that the head makes the same logits of them."""

import numpy as np
import pytest
import tiny_models
import torch
import transformers
from test_parity import VARIANTS, relative, tokens

import pyllm

IDS = np.random.default_rng(7).integers(0, 317, 130)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "Q8_0"])
def test_the_head_of_hidden_rows_is_the_step(tmp_path, family, dtype):
    config = getattr(tiny_models, f"{family}_config")()
    path = tiny_models.write_gguf(tmp_path / "m.gguf", config, tiny_models.random_weights(config), dtype)
    model = pyllm.AutoModelForCausalLM.from_pretrained(path)
    whole = model.step([(model.new_state(), IDS)], "all")
    rows = model.hidden([(model.new_state(), IDS)], "all")
    assert rows.shape == (130, 64) and rows.dtype == np.float32
    for size in (130, 64, 5, 4, 1):
        parts = [model.logits_of(rows[i : i + size]) for i in range(0, 130, size)]
        assert np.array_equal(np.concatenate(parts), whole), size
    assert np.array_equal(model.hidden([(model.new_state(), IDS)]), rows[-1:])


def test_each_state_gives_as_many_rows_as_it_is_asked_for(tmp_path, monkeypatch):
    config = tiny_models.llama_config()
    path = tiny_models.write_folder(tmp_path, config, tiny_models.random_weights(config))
    model = pyllm.AutoModelForCausalLM.from_pretrained(path)
    alone = model.step([(model.new_state(), IDS)], "all")
    short = model.step([(model.new_state(), IDS[:3])], "all")
    for rows in (512, 50, 1):
        monkeypatch.setattr(model, "batch_rows", rows)
        batch = [(model.new_state(), IDS), (model.new_state(), IDS[:9]), (model.new_state(), IDS[:3])]
        assert np.array_equal(model.step(batch, [81, 0, 2]), np.concatenate([alone[-81:], short[1:]]))
    with pytest.raises(ValueError, match=r"step: rows are \[4\] for \[3\] tokens"):
        model.step([(model.new_state(), IDS[:3])], [4])
    with pytest.raises(ValueError, match="step: rows are 'first'"):
        model.step([(model.new_state(), IDS[:3])], "first")
    with pytest.raises(ValueError, match="head: hidden rows need the width 64"):
        model.logits_of(np.zeros((2, 63), np.float32))


@pytest.mark.parametrize("name", VARIANTS)
def test_hidden_rows_are_within_1e4_of_transformers(tmp_path, name):
    config = VARIANTS[name]
    path = tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config, seed=6))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        states = theirs(torch.tensor(tokens(100))[None], output_hidden_states=True).hidden_states
    model = pyllm.AutoModelForCausalLM.from_pretrained(path)
    found = model.hidden([(model.new_state(), tokens(100))], "all")
    assert relative(found, states[-1][0].numpy().astype(np.float64)) <= 1e-4
