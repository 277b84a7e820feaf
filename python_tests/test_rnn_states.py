"""Recurrent models token by token: the bits of whole sequences from any state, in a memory that hardly grows."""

import asyncio
import json

import numpy as np
import pytest
import tiny_models
import torch
from kernel_checks import ISAS, same_bits, threads, using

import pyllm
from pyllm import _core, nn, ops
from pyllm.autograd import no_grad
from pyllm.cli import main
from pyllm.errors import ContextError

IDS = np.random.default_rng(4).integers(0, 317, 300)
KINDS = [("lstm", "F32", 40), ("lstm", "BF16", 32), ("gru", "F32", 33), ("gru", "F16", 16), ("tanh", "BF16", 21)]
KINDS += [("relu", "F32", 48)]


@pytest.fixture(autouse=True)
def workers():
    """-t must not reach the next test."""
    with threads(_core.threads()):
        yield


def load(folder, cell, dtype="F32", units=40, context=None, **changes):
    config = tiny_models.recurrent_config(cell, hidden_size=units, **changes)
    weights = tiny_models.random_weights(config)
    for name in weights if cell == "relu" else ():  # which would grow without end
        weights[name] *= 0.3 if "_hh_" in name else 1
    return pyllm.AutoModelForCausalLM.from_pretrained(
        tiny_models.write_folder(folder / "m", config, weights, dtype), context_length=context
    )


def eagerly(model, ids=IDS):
    """Logits of a whole sequence by the operations, without the engine."""
    with no_grad():
        return np.asarray(model.forward(ids))


@pytest.mark.parametrize(("cell", "dtype", "units"), KINDS)
def test_whole_sequences_steps_and_operations_give_the_same_bits(tmp_path, cell, dtype, units):
    model = load(tmp_path, cell, dtype, units)
    expected = eagerly(model)
    assert same_bits(model([IDS]).logits[0], expected) and len(set(expected.argmax(1))) > 20
    for size in (1, 7, 64, 150):
        state = model.new_state()
        found = [model.step([(state, IDS[i : i + size])], "all") for i in range(0, 300, size)]
        assert same_bits(np.concatenate(found), expected), size
    hidden = model.hidden([(model.new_state(), IDS)], "all")
    assert same_bits(model.logits_of(hidden), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("cell", ("lstm", "gru", "tanh"))
def test_on_every_instruction_set_with_any_number_of_threads(tmp_path, isa, cell):
    model = load(tmp_path, cell)
    with using(isa, proof=False):
        expected = eagerly(model)
        for count in (1, 2, 3):
            _core.set_threads(count)
            states = [model.new_state() for _ in range(3)]
            cuts = [(0, 90, 91, 300), (0, 1, 2, 300), (0, 64, 128, 300)]
            for i in range(3):  # ragged companies
                ids = [IDS[cut[i] : cut[i + 1]] for cut in cuts]
                found = model.step(list(zip(states, ids, strict=True)), "all")
                wanted = [expected[cut[i] : cut[i + 1]] for cut in cuts]
                assert same_bits(found, np.concatenate(wanted)), (count, i)


@pytest.mark.parametrize("cell", ("lstm", "gru", "tanh"))
@pytest.mark.parametrize("tied", (False, True))
def test_logits_are_those_of_pytorchs_parts(tmp_path, cell, tied):
    config = tiny_models.recurrent_config(cell, embedding_size=40, tie_word_embeddings=tied, head_bias=not tied)
    weights = tiny_models.random_weights(config)
    if tied:
        del weights["decoder.weight"], weights["decoder.bias"]
    path = tiny_models.write_folder(tmp_path / "m", config, weights)
    state = {name: torch.tensor(array).double() for name, array in weights.items()}
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "tanh": torch.nn.RNN}[cell]
    layers = kind(40, 40, 2).double()
    layers.load_state_dict({name[4:]: array for name, array in state.items() if name.startswith("rnn.")})
    head = state["encoder.weight" if tied else "decoder.weight"], None if tied else state["decoder.bias"]
    with torch.no_grad():
        rows = layers(state["encoder.weight"][IDS][:, None])[0][:, 0]
        expected = torch.nn.functional.linear(rows, *head).numpy()
    found = pyllm.AutoModelForCausalLM.from_pretrained(path)([IDS]).logits[0]
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("cell", ("lstm", "gru"))
def test_a_state_goes_on_from_wherever_it_is_cut(tmp_path, cell):
    model = load(tmp_path, cell)
    expected, rng, other = eagerly(model), np.random.default_rng(1), IDS[::-1]
    state, shadow = model.new_state(), []
    for turn in range(150):
        back = int(rng.integers(0, 12)) if turn % 3 else int(rng.integers(0, state.length + 1))
        length = max(0, state.length - back)
        state.truncate(length)
        shadow = shadow[:length]
        if turn % 5 == 4:  # another text from here on, which the true one replaces again
            model.step([(state, other[: min(9, 640 - length)])])
            state.truncate(length)
        if turn % 7 == 6:
            state, old = state.fork(), state
            model.step([(old, other[:70])])
            old.free()
        new = IDS[length : length + int(rng.integers(1, 90))]
        if not len(new):
            continue
        assert same_bits(model.step([(state, new)], "all"), expected[length : length + len(new)]), (turn, length)


def test_what_goes_wrong_in_a_step_leaves_states_as_they_were(tmp_path, monkeypatch):
    model = load(tmp_path, "lstm")
    one, two, expected = model.new_state(), model.new_state(), eagerly(model)
    model.step([(one, IDS[:70]), (two, IDS[:3])])
    with pytest.raises(ValueError, match="id 317"):
        model.step([(one, IDS[70:75]), (two, [3, 317])])
    monkeypatch.setattr(model, "batch_rows", 4)  # the first pieces have been computed when the last one fails
    with pytest.raises(ValueError, match="id 317"):
        model.step([(one, [*IDS[70:90], 317])])
    monkeypatch.undo()
    found = model.step([(one, IDS[70:72]), (two, IDS[3:5])], "all")
    assert (one.length, two.length) == (72, 5) and same_bits(found, expected[[70, 71, 3, 4]])


def test_nan_of_one_sequence_reaches_no_other(tmp_path):
    model = load(tmp_path, "gru")
    weights = tiny_models.random_weights(tiny_models.recurrent_config("gru"))
    weights["encoder.weight"][7] = np.nan
    broken = pyllm.AutoModelForCausalLM.from_pretrained(
        tiny_models.write_folder(tmp_path / "nan", tiny_models.recurrent_config("gru"), weights)
    )
    clean = np.where(IDS[:20] == 7, 8, IDS[:20])
    states = [broken.new_state() for _ in range(3)]
    found = broken.step([(states[0], [5, 7, 5]), (states[1], clean), (states[2], [7])], "all")
    assert not np.isfinite(found[1:3]).any() and np.isfinite(found[0]).all() and not np.isfinite(found[-1]).any()
    assert same_bits(found[3:23], eagerly(model, clean))


def test_a_hundred_thousand_tokens_take_two_states_for_each_page(tmp_path):
    model = load(tmp_path, "lstm", units=16, context=100_000, num_hidden_layers=1, embedding_size=4)
    ids = np.random.default_rng(2).integers(0, 317, 100_000)
    state = model.new_state()
    assert model._pool.page_bytes == 64 * 4 + 64 + 2 * 2 * 16 * 4  # tokens, how far they reach; h and c, twice
    last = model.step([(state, ids)])
    assert state.pages == -(-100_000 // 64)
    with pytest.raises(ContextError, match="100,001 positions are wanted"):
        model.step([(state, [1])])
    state.truncate(99_930)  # inside a page: computed again from that page's beginning
    assert same_bits(model.step([(state, ids[99_930:])]), last)
    with pytest.raises(ValueError, match="allowed is 1 to"):
        load(tmp_path, "lstm", context=1 << 28)


def test_what_a_program_cannot_be_is_said(tmp_path):
    both = nn.Recurrent("lstm", 8, 8, bidirectional=True).initialise().eval()
    tokens = ops.Recorder((0, 0, 0, "F32"), 10).tokens
    with pytest.raises(ValueError, match="lstm: backwards there is no next token"):
        both.layers(tokens.embedding(_core.Weight("F32", 3, 8)), None)
    weight = _core.Weight("F32", 64, 16)
    program = ops.Recorder((0, 0, 0, "F32"), 10).program
    gates = program.embedding(_core.Weight("F32", 3, 64))
    bad = [("gru", weight, None), ("lstm", _core.Weight("F32", 48, 16), None)]
    bad += [("lstm", _core.Weight("F16", 64, 16), None), ("lstm", weight, np.zeros(3, np.float32))]
    for cell, w, bias in bad:
        with pytest.raises(ValueError, match=r"recurrent: weights .* for input products 64 wide"):
            program.recurrent(gates, cell, w, bias)
    with pytest.raises(ValueError, match=r"cell: 'elman' is not known; known are tanh, relu, lstm, gru"):
        program.recurrent(gates, "elman", weight, None)
    attention = ops.Recorder((1, 1, 16, "F32"), 10).program
    attention.embedding(_core.Weight("F32", 3, 64))
    with pytest.raises(ValueError, match="a program with attention has no other states"):
        attention.recurrent(0, "lstm", weight, None)


# --- by the command, and for many users ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = tiny_models.recurrent_config("lstm")
    weights = tiny_models.random_weights(config, seed=1)
    return tiny_models.write_folder(tmp_path_factory.mktemp("verbs") / "lstm", config, weights)


def said(capsys, *words):
    """What a command prints as JSON."""
    assert main.main([str(word) for word in words]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_verbs_run_it(folder, tmp_path, capsys):
    model = pyllm.AutoModelForCausalLM.from_pretrained(folder)
    ids = model.tokenizer.encode("the fox")
    out = model.generate([ids], max_new_tokens=9, do_sample=False, eos_token_id=None)[0]
    data = said(capsys, "generate", "-m", folder, "-p", "the fox", "-n", "9", "--temp", "0", "-c", "2000", "--json")
    assert data["text"] == model.tokenizer.decode(list(out[len(ids) :])) and data["finish_reason"] == "length"
    words = said(capsys, "next", folder, "the fox", "--json")["words"]
    assert words[0]["id"] == out[len(ids)]
    scored = said(capsys, "score", folder, "the fox", "--json")["scores"]
    assert [each["id"] for each in scored] == list(ids) and scored[1]["logprob"] < 0
    assert main.main(["embed", str(folder), "the fox", "a dog"]) == 0 and capsys.readouterr().out
    short = ("--prompt", "16", "--new", "4", "--parallel", "2", "--runs", "1", "--json")
    speed = said(capsys, "bench", "llm", folder, *short)
    layers = 4 * 40 * (24 + 40 + 40 + 40)
    assert speed["bytes_per_token"] == 4 * (layers + 317 * 40) and speed["decode_tok_s"] > 0


def test_chat_continues_from_the_state_it_keeps(folder):
    model = pyllm.AutoModelForCausalLM.from_pretrained(folder)
    settings = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.2, "seed": 3}
    chats = [pyllm.Chat(model, model.tokenizer, "Talk.", **settings) for _ in range(2)]
    with chats[0] as kept, chats[1] as fresh:
        for question in ("the fox", "and then", "a dog"):
            fresh.forget()
            assert kept.send(question) == fresh.send(question)


def test_many_users_get_what_each_gets_alone(folder):
    model = pyllm.AutoModelForCausalLM.from_pretrained(folder)
    prompts = [[int(i) for i in IDS[n : n + 70 + n]] for n in range(6)]
    settings = {"max_new_tokens": 20, "eos_token_id": None}
    alone = [list(model.generate([p], **settings)[0][len(p) :]) for p in prompts]

    async def serve():
        async with pyllm.AsyncEngine(model, memory=12 * model.new_pool().page_bytes) as engine:
            async def one(prompt):
                return [event.token async for event in engine.stream(prompt, **settings)]

            return await asyncio.gather(*(one(p) for p in prompts))

    assert asyncio.run(serve()) == alone


def test_pretraining_shows_what_the_model_writes(tmp_path):
    import data_corpora

    (tmp_path / "in.txt").write_text("\n\n".join(data_corpora.document(i) for i in range(20)))
    run = [str(tmp_path / name) for name in ("tok", "shards", "run")]
    assert main.main(["tokenizer", "train", str(tmp_path / "in.txt"), "-o", run[0], "--vocab", "300"]) == 0
    words = ["data", "prepare", str(tmp_path / "in.txt"), "--tokenizer", run[0], "-o", run[1], "--valid", "0.2"]
    assert main.main([*words, "--separator", "blank"]) == 0
    sized = "embedding_size=16,hidden_size=24,num_hidden_layers=1"
    words = ["pretrain", "--model", "gru", "--config", sized, "--data", run[1], "--batch", "4", "--steps", "4"]
    assert main.main([*words, "--context", "32", "--eval-every", "2", "--out", run[2]]) == 0
    page = tmp_path / "page.html"
    assert main.main(["report", run[2], "-o", str(page)]) == 0
    assert main.main(["eval", run[2], "--data", run[1], "--json"]) == 0
    assert main.main(["chat", "-m", run[2], "-p", "hello", "-n", "3"]) in (0, 1)
