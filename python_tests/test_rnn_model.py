"""Recurrent language models: the same as PyTorch's parts, learning from any batch, from the command to a folder."""

import itertools
import json

import data_corpora
import numpy as np
import pytest
import torch
from kernel_checks import random, same_bits, threads

from pyllm import _core, ops
from pyllm.auto import AutoConfig, AutoModelForCausalLM, new_config, new_model
from pyllm.autograd import no_grad
from pyllm.cli import main
from pyllm.errors import ModelFileError
from pyllm.models.counting import count_preset
from pyllm.models.planning import memory, sizes
from pyllm.models.presets import from_config
from pyllm.optim import AdamW
from pyllm.train import read
from pyllm.train.objectives import validation

FAMILIES = ("rnn", "lstm", "gru")
SIZES = {"embedding_size": 8, "hidden_size": 12, "num_hidden_layers": 2, "vocab_size": 30}


@pytest.fixture(autouse=True)
def workers():
    """-t must not reach the next test."""
    with threads(_core.threads()):
        yield


def model_of(family, **more):
    return new_model(new_config(family, **(SIZES | more)))


def batch(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, SIZES["vocab_size"], shape)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", (False, True))
def test_loss_and_gradients_are_those_of_pytorchs_parts(family, tied):
    more = {"tie_word_embeddings": tied, "head_bias": not tied, "embedding_size": 12 if tied else 8}
    model = model_of(family, **more)
    state = {name: torch.tensor(array) for name, array in model.learned_arrays().items()}
    embedding = torch.nn.Embedding(30, more["embedding_size"])
    layers = getattr(torch.nn, family.upper())(more["embedding_size"], 12, 2, batch_first=True)
    head = torch.nn.Linear(12, 30, bias=not tied)
    embedding.load_state_dict({"weight": state["embedding.weight"]})
    layers.load_state_dict({name[4:]: array for name, array in state.items() if name.startswith("rnn.")})
    head.load_state_dict({name[5:]: array for name, array in state.items() if name.startswith("head.")} or
                         {"weight": state["embedding.weight"]})  # fmt: skip
    head.weight = embedding.weight if tied else head.weight
    parts = [part.double() for part in (embedding, layers, head)]
    ids, targets = batch(3, 7), batch(3, 7, seed=1)
    targets[0, 2] = -100
    logits = head(layers(embedding(torch.tensor(ids)))[0])
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 30), torch.tensor(targets).reshape(-1))
    loss.backward()
    mine = model.loss(ids, targets)
    mine.backward()
    assert mine.item() == pytest.approx(loss.item(), rel=1e-6)
    theirs = torch.nn.ModuleDict({"encoder": embedding, "rnn": layers, "decoder": head})  # tied ones are there twice
    again = model_of(family, **more).load_state_dict(theirs.state_dict()).load_state_dict(model.state_dict())
    assert again.loss(ids, targets).item() == mine.item()
    np.testing.assert_allclose(model.forward(ids).data, logits.detach().numpy(), rtol=1e-5, atol=1e-6)
    wanted = {"embedding.weight": embedding.weight.grad}
    wanted |= {f"rnn.{name}": parameter.grad for name, parameter in layers.named_parameters()}
    wanted |= {f"head.{name}": parameter.grad for name, parameter in head.named_parameters()}
    assert len(parts) == 3
    for name, parameter in model.learned().items():
        off = np.linalg.norm(parameter.value.grad - wanted[name].numpy())
        assert off <= 1e-6 * max(float(wanted[name].norm()), 1e-2), name


@pytest.mark.parametrize("family", FAMILIES)
def test_documents_in_one_batch_do_not_see_each_other(family):
    model, ids, targets = model_of(family), batch(20), batch(20, seed=1)
    starts = [0, 3, 4, 13, 20]
    with ops.documents(starts):
        loss = model.loss(ids, targets)
        logits = model.forward(ids).data
    alone = [model.forward(ids[a:b]).data for a, b in itertools.pairwise(starts)]
    assert same_bits(logits, np.concatenate(alone))
    losses = [model.loss(ids[a:b], targets[a:b]).item() * (b - a) for a, b in itertools.pairwise(starts)]
    assert loss.item() == pytest.approx(sum(losses) / 20, rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ("fp32", "bf16"))
def test_it_learns_a_sequence_by_heart(family, dtype):
    model = model_of(family, hidden_size=32)
    optimizer, losses = AdamW(model.parameters(), lr=1e-2), []
    ids = batch(2, 17)
    for _ in range(300):
        optimizer.zero_grad()
        with ops.autocast(dtype):
            loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 3 and losses[-1] < 0.4


def test_threads_change_no_bit_of_a_step():
    found = []
    for count in (1, 2):
        with threads(count):
            model = model_of("lstm", hidden_size=64)
            loss = model.loss(batch(9, 11), batch(9, 11, seed=1))
            loss.backward()
            found.append([loss.data, *(p.value.grad for p in model.learned().values())])
    assert all(same_bits(a, b) for a, b in zip(*found, strict=True))


def test_dropout_acts_on_embeddings_layers_and_head_while_there_is_noise():
    model, ids = model_of("gru", dropout=0.4), batch(2, 5)
    losses = {}
    for name, noise in (("none", None), ("first", (1, 0)), ("again", (1, 0)), ("next", (1, 1))):
        if noise is None:
            losses[name] = model.loss(ids, ids).item()
            continue
        with ops.noise(*noise):
            losses[name] = model.loss(ids, ids).item()
    assert losses["first"] == losses["again"] and len(set(losses.values())) == 3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", (False, True))
@pytest.mark.parametrize("bias", (False, True))
@pytest.mark.parametrize("layers", (1, 3))
def test_a_configuration_is_counted_as_the_model_is_built(family, tied, bias, layers):
    more = {"tie_word_embeddings": tied, "head_bias": bias, "num_hidden_layers": layers}
    model = model_of(family, **more, embedding_size=12 if tied else 8)
    values = {name: getattr(model.config, name) for name in model.config.__dataclass_fields__}
    found = sizes(from_config(values | {"model_type": "rnn"}))
    assert found.parameters == model.num_parameters() == count_preset(from_config(values | {"model_type": "rnn"})).total
    assert found.looked_up == (0 if tied else 240) and found.vocabulary == 30
    assert model.training_flops() == 6 * (model.num_parameters() - found.looked_up)


@pytest.mark.parametrize("family", FAMILIES)
def test_folders_give_back_the_model(family, tmp_path):
    model, ids = model_of(family), batch(2, 6)
    logits = model(ids).logits
    model.eval()
    assert same_bits(model(ids).logits, logits)
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model_type"] == "rnn" and stored["cell"] == model.config.cell
    assert AutoConfig.from_pretrained(tmp_path) == model.config
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    output = loaded(ids, attention_mask=[[1] * 6, [1, 1, 1, 0, 0, 0]], labels=ids)
    assert same_bits(output.logits[0], logits[0]) and same_bits(output.logits[1, :3], logits[1, :3])
    assert not output.logits[1, 3:].any() and output.loss > 0
    loaded.train()
    loaded.loss(ids, ids).backward()


def test_what_is_not_there_is_said(tmp_path):
    model = model_of("lstm").eval()
    with pytest.raises(ValueError, match="GGUF has no architecture for rnn; save_pretrained writes a folder"):
        from pyllm.auto.saving import save_gguf

        save_gguf(model, tmp_path / "m.gguf", {})
    with pytest.raises(ModelFileError, match=r"embedding_size.*12, the hidden size"):
        new_config("lstm", **SIZES, tie_word_embeddings=True)
    with pytest.raises(ModelFileError, match=r"'dropout'.*1.5.*from 0 to 0.99"):
        new_config("gru", dropout=1.5)
    with pytest.raises(ValueError, match="n_embd not known; lstm has"):
        new_config("lstm", n_embd=3)
    with pytest.raises(ValueError, match=r"loss: targets \(2, 4\) and tokens \(2, 5\) differ"):
        model.train().loss(batch(2, 5), batch(2, 4))
    with pytest.raises(IndexError, match="ids reach from"), no_grad():
        model.forward(np.array([[1, 30]]))


def test_memory_of_a_plan_grows_with_the_batch():
    values = dict(SIZES, cell="lstm", tie_word_embeddings=False, head_bias=True, model_type="rnn")
    plan = {"name": "lstm", "sizes": sizes(from_config(values))}
    from pyllm.models.planning import Plan

    assert memory(Plan(**plan, batch=8)).total > memory(Plan(**plan, batch=1)).total > 16 * 3000


# --- by the command ---


def run(place, *words):
    """The exit code of a command; @ stands for the folder."""
    return main.main([str(place / word[1:]) if word.startswith("@") else word for word in words])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with shards of a small text."""
    folder = tmp_path_factory.mktemp("flow")
    (folder / "in.txt").write_text("\n\n".join(data_corpora.document(i) for i in range(40)))
    assert run(folder, "tokenizer", "train", "@in.txt", "-o", "@tok", "--vocab", "300") == 0
    words = ["data", "prepare", "@in.txt", "--tokenizer", "@tok", "-o", "@shards", "--valid", "0.2"]
    assert run(folder, *words, "--separator", "blank") == 0
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_pretraining_leaves_a_folder_that_loads(place, family, capsys):
    sized = "embedding_size=16,hidden_size=24,num_hidden_layers=2,dropout=0.1"
    words = ["pretrain", "--model", family, "--config", sized, "--data", "@shards", "--batch", "4", "--steps", "12"]
    words += ["--context", "32", "--lr", "1e-2", "--eval-every", "6", "--save-every", "5", "--out", f"@{family}"]
    assert run(place, *words) == 0
    log = read(place / family)
    assert len(log) == 12 and log[-1]["loss"] < log[0]["loss"] - 0.2
    assert "validation loss" in capsys.readouterr().err
    model = AutoModelForCausalLM.from_pretrained(place / family)
    valid, total = validation(str(place / "shards"), 32), 0.0
    with no_grad():
        for i in range(len(valid)):
            ids, targets, starts = valid.batch(i, 1)
            with ops.documents(starts):
                total += model.loss(ids, targets).item()
    assert abs(total / len(valid) - log[-1]["valid_loss"]) < 0.05  # in bf16, and every target counted alike
    assert model.config.dropout == 0.1 and model.tokenizer.vocab_size == model.config.vocab_size
    assert run(place, "report", f"@{family}", "--json") == 0 and run(place, "params", f"@{family}") == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ("fp32", "bf16"))
def test_bench_measures_training_steps(family, dtype, capsys):
    words = ["bench", "train", "--model", family, "--emb", "8", "--hidden", "16", "--layers", "2", "--vocab", "50"]
    assert main.main([*words, "--batch", "2", "--context", "5", "--dtype", dtype, "--runs", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[family]
    layers = gates * 16 * (8 + 16 + 2) + gates * 16 * (16 + 16 + 2)
    assert facts["parameters"] == 50 * 8 + layers + 50 * 17
    assert facts["tok_s"] > 0 and facts["dtype"] == dtype and facts["loss"] == pytest.approx(np.log(50), abs=0.5)


def test_bench_refuses_sizes_that_mean_nothing(capsys):
    assert main.main(["bench", "train", "--model", "gpt2", "--emb", "8"]) == 2
    assert "--emb and its like are for rnn, lstm, gru; use --config" in capsys.readouterr().err


def test_the_bias_of_a_head_learns_in_pieces(monkeypatch):
    from pyllm.ops import loss
    from pyllm.tensor import Tensor

    arrays, targets = [random((9, 4), 0), random((7, 4), 1), random((7,), 2)], np.arange(9) % 7
    found = []
    for most in (1 << 20, 14):
        monkeypatch.setattr(loss, "_LOGITS", most)
        tensors = [Tensor(a.copy(), requires_grad=True) for a in arrays]
        value = ops.linear_cross_entropy(*tensors[:2], targets, tensors[2])
        value.backward(np.float32(3))
        found.append([value.data, *(t.grad for t in tensors)])
    whole = [Tensor(a.copy(), requires_grad=True) for a in arrays]
    value = ops.cross_entropy(ops.linear(*whole), targets)
    value.backward(np.float32(3))
    for pieces in found:
        for a, b in zip(pieces, [value.data, *(t.grad for t in whole)], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tied", (True, False))
def test_only_tables_that_are_heads_begin_small(tied):
    """AdamW takes hundreds of steps to leave 0.1; a head of deviation 1 begins with a loss of its width's root."""
    sizes = {"vocab_size": 300, "hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 1}
    model = new_model(new_config("lstm", **sizes, tie_word_embeddings=tied))
    assert np.abs(model.head.weight.array()).max() <= 0.1
    table = model.embedding.weight.array()
    assert np.abs(table).max() <= 0.1 if tied else 0.95 < table.std() < 1.05
