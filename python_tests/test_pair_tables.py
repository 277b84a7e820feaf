"""Encoder-decoders whose tables and head are matrices of their own, beside transformers."""

import json

import numpy as np
import pair_models
import pytest
import torch
from kernel_checks import same_bits
from safetensors.torch import load_file, save_file
from test_pair_families import LABELS, SOURCES, grads_by_name, padded, relative, theirs_of

import pyllm


@pytest.mark.parametrize("variant", ["t5 v1.1", "mt5", "umt5"])
def test_a_head_of_its_own_is_found_in_the_file(variant, tmp_path):
    """Version 1.1 has one; transformers 5 calls it tied, and its files tell otherwise."""
    theirs, folder = pair_models.save(variant, tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    torch.manual_seed(9)
    save_file(state | {"lm_head.weight": torch.randn(53, 32) * 0.2}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    labels, targets = torch.tensor(padded(LABELS, 1)[0]), [[0, *row[:-1]] for row in LABELS]
    found = []
    for name, tied in (("new", {}), ("old", {"tie_word_embeddings": False})):
        (folder / "config.json").write_text(json.dumps(config | tied))
        again = type(theirs).from_pretrained(folder).eval()
        assert not torch.equal(again.lm_head.weight, again.shared.weight)
        ours = pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder)
        assert not ours.config.tie_word_embeddings
        wanted = theirs_of(again, labels=labels).logits.numpy()
        for i, rows in enumerate(ours(SOURCES, decoder_input_ids=targets).logits):
            assert relative(rows, wanted[i, : len(rows)]) < 1e-4
        ours.save_pretrained(tmp_path / name)
        found.append(theirs_of(type(theirs).from_pretrained(tmp_path / name).eval(), labels=labels).logits.numpy())
        assert same_bits(found[-1], wanted)
    again(input_ids=torch.tensor(SOURCES[:1]), labels=labels[:1]).loss.backward()
    ours.train()(SOURCES[:1], labels=labels[:1].tolist()).loss.backward()
    grads = grads_by_name(ours)
    for name in ("lm_head.weight", "shared.weight"):
        exact = again.get_parameter(name).grad.numpy()
        assert np.abs(grads[name] - exact).max() <= 1e-4 * np.abs(exact).max(), name


@pytest.mark.parametrize("variant", ["bart untied", "mbart untied", "marian untied", "pegasus untied"])
def test_tables_of_their_own_learn_and_are_saved_apart(variant, tmp_path):
    """A head of its own, and a constant bias, after steps of learning; transformers reads what became of it."""
    theirs, folder = pair_models.save(variant, tmp_path / "m")
    ours = pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder).train()
    before = {name: array.copy() for name, array in ours.state_dict().items()}
    optimizer = pyllm.optim.AdamW(ours.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        ours(SOURCES, labels=LABELS).loss.backward()
        optimizer.step()
    state, tables = ours.state_dict(), ["lm_head.weight"]
    tables += [f"model.{side}.embed_tokens.weight" for side in ("encoder", "decoder")]
    assert all(np.abs(state[name] - before[name]).max() > 1e-3 for name in tables)
    bias = theirs.final_logits_bias.numpy()
    assert np.array_equal(state["final_logits_bias"], bias) and bias.any()
    ours.eval().save_pretrained(tmp_path / "learned")
    again = type(theirs).from_pretrained(tmp_path / "learned", attn_implementation="eager").eval()
    labels = torch.tensor(padded(LABELS, 1)[0])
    targets = again.prepare_decoder_input_ids_from_labels(labels).tolist()
    wanted = theirs_of(again, labels=labels).logits.numpy()
    for i, rows in enumerate(ours(SOURCES, decoder_input_ids=targets).logits):
        assert relative(rows, wanted[i]) < 1e-4


def test_sides_without_tables_share_the_one_that_is_there(tmp_path):
    """As transformers before 5 wrote a head that is not tied: both sides have the shared table."""
    theirs, folder = pair_models.save("bart untied", tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    old = {name: tensor for name, tensor in state.items() if "embed_tokens" not in name}
    save_file(old, folder / "model.safetensors", {"format": "pt"})
    ours = pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder)
    with torch.no_grad():
        for side in (theirs.model.encoder, theirs.model.decoder):
            side.embed_tokens.weight.copy_(theirs.model.shared.weight)
    labels = torch.tensor(padded(LABELS, 1)[0])
    targets = theirs.prepare_decoder_input_ids_from_labels(labels).tolist()
    wanted = theirs_of(theirs, labels=labels).logits.numpy()
    for i, rows in enumerate(ours(SOURCES, decoder_input_ids=targets).logits):
        assert relative(rows, wanted[i]) < 1e-4
    del old["model.shared.weight"]
    save_file(old, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(pyllm.ModelFileError, match=r"embed_tokens\.weight' .* is missing"):
        pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder)
