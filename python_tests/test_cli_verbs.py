"""The verbs of the command with small stand-ins for models; test_cli_model.py runs them with the real one."""

import argparse
import io
import json
import sys
import types

import numpy as np
import pytest
import tiny_families
import tiny_models

import pyllm
from pyllm.cli import bench, chat, doctor, info, main, options, running
from pyllm.errors import ContextError
from pyllm.evaluate import speed
from pyllm.evaluate.next_words import next_words
from pyllm.formats import download

WORDS = [" Paris", " Rome", " the", "\n", "é", " a", " b", " c", " d", " e", " f", " g"]


class State:
    """A sequence that only counts."""

    def __init__(self, length=0):
        self.length = length

    def fork(self):
        return State(self.length)

    def free(self):
        self.length = -1


class Model:
    """Always the same logits; remembers the steps it was asked for."""

    def __init__(self, context=64):
        self.config = argparse.Namespace(vocab_size=len(WORDS))
        self.context_length = context
        self.steps = []
        self.arguments = None  # what `stream` was asked for

    def new_state(self):
        return State()

    def step(self, batch, logits="last"):
        self.steps.append([len(ids) for _, ids in batch])
        for state, ids in batch:
            state.length += len(ids)
        row = np.zeros(len(WORDS), np.float32)
        row[:3] = np.log([8, 4, 2]).astype(np.float32)
        return np.tile(row, (len(batch), 1))


class Tokenizer:
    """One token per word of the text."""

    def __init__(self):
        self.chats = []

    def encode(self, text):
        return [0] * len(text.split())

    def decode(self, ids):
        return "".join(WORDS[i] for i in ids)


@pytest.fixture
def model(monkeypatch):
    """Stand-ins in the place of what `running.load` loads."""
    fake, fake.tokenizer = Model(), Tokenizer()
    monkeypatch.setattr(running, "load", lambda name, args: (fake, fake.tokenizer))

    def stream(model, prompts, *, tokenizer, max_new_tokens, **kwargs):
        model.arguments = {"max_new_tokens": max_new_tokens, **kwargs}
        for token in range(min(max_new_tokens, 3)):
            reason = "length" if token == 2 else None
            yield argparse.Namespace(text=WORDS[token], finish_reason=reason)

    monkeypatch.setattr("pyllm.generate.stream", stream)
    return fake


def test_default_model_is_the_one_that_pull_knows():
    assert options.DEFAULT_MODEL == download.DEFAULT


def test_next_words_are_a_softmax_best_first():
    words = next_words(Model(), Tokenizer(), "a b c", 4)
    assert [word for word, _, _ in words] == [" Paris", " Rome", " the", "\n"]
    total = 8 + 4 + 2 + 9
    assert [p for _, _, p in words] == pytest.approx([8 / total, 4 / total, 2 / total, 1 / total], rel=1e-6)


def test_next_words_of_nothing_are_refused():
    with pytest.raises(ValueError, match="next_words: text gives no token: at least 1 is needed"):
        next_words(Model(), Tokenizer(), "", 4)


def test_next_prints_ten_bars_and_of_how_many(model, capsys):
    assert main.main(["next", "fake", "The capital of France is"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and lines[-1] == "10 of 12"
    assert lines[0].startswith("␣Paris") and "34.78 %" in lines[0] and lines[0].endswith("█" * 30)
    assert lines[3].startswith("\\n ")
    assert main.main(["next", "fake", "x", "--top", "2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["of"] == 12 and [w["text"] for w in data["words"]] == [" Paris", " Rome"]


def test_generate_streams_prompt_and_answer(model, capsys):
    assert main.main(["generate", "-m", "fake", "-p", "one two", "-n", "3"]) == 0
    said = capsys.readouterr()
    assert said.out == "one two Paris Rome the\n" and "to the first of 3 tokens" in said.err
    assert main.main(["generate", "-m", "fake", "-p", "one two", "--no-display-prompt"]) == 0
    assert capsys.readouterr().out == " Paris Rome the\n"
    assert main.main(["generate", "-m", "fake", "-p", "one two", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["text"] == " Paris Rome the" and data["prompt_tokens"] == 2 and data["tokens"] == 3
    assert data["finish_reason"] == "length"


def test_generate_hands_the_flags_on(model, capsys):
    flags = "--temp 0.7 --top-k 9 --top-p 0.8 --min-p 0.1 --repeat-penalty 1.2 -s 5 --stop END --presence-penalty 0.5"
    assert main.main(["generate", "-m", "fake", "-p", "a b", "-n", "7", *flags.split()]) == 0
    assert model.arguments == {
        "max_new_tokens": 7,
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 9,
        "top_p": 0.8,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.0,
        "seed": 5,
        "stop_strings": ["END"],
    }
    assert main.main(["generate", "-m", "fake", "-p", "a b"]) == 0
    assert model.arguments["do_sample"] is False and "temperature" not in model.arguments


@pytest.mark.parametrize(("n", "context", "new"), [(7, 64, 7), (-1, 64, 62), (100, 64, 62), (100, 10, 8)])
def test_new_tokens_stay_inside_the_context(n, context, new):
    assert running.room(argparse.Namespace(n_predict=n), Model(context), 2) == new


def test_prompt_longer_than_the_context_is_an_error(model, capsys):
    with pytest.raises(ContextError, match="64 tokens, the context holds 64"):
        running.room(argparse.Namespace(n_predict=1), Model(), 64)
    assert main.main(["generate", "-m", "fake", "-p", "w " * 64]) == 1
    assert capsys.readouterr().err == (
        "pyllm: prompt: 64 tokens, the context holds 64 and one must be left for an answer\n"
    )


def test_prompt_from_a_file(model, capsys, tmp_path, monkeypatch):
    path = tmp_path / "prompt.txt"
    path.write_bytes("á b".encode())
    assert running.given_text(None, str(path)) == "á b"
    path.write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match=r"prompt\.txt: byte 2 is not UTF-8 text"):
        running.given_text(None, str(path))
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"from a pipe")))
    assert running.given_text(None, "-") == "from a pipe"


def test_a_terminal_gets_no_control_characters():
    assert running.safe("a\x1b[2J\x07b\n\té\x9b") == "a[2Jb\n\té"


class Talk:
    """A Chat that says back what it heard."""

    def __init__(self, model, tokenizer, system, **kwargs):
        self.heard = []
        self.kwargs = {"system": system, **kwargs}
        tokenizer.chats.append(self)

    def reset(self):
        self.heard.append("(forgot)")

    def stream(self, text):
        self.heard.append(text)
        yield from ("You said ", text)


@pytest.fixture
def talk(model, monkeypatch):
    """A stand-in for pyllm.Chat."""
    monkeypatch.setattr(pyllm, "Chat", Talk, raising=False)
    return model.tokenizer.chats


def test_chat_answers_one_question(talk, capsys):
    assert main.main(["chat", "-m", "fake", "-p", "Hello"]) == 0
    assert capsys.readouterr().out == "You said Hello\n"


def test_chat_answers_the_lines_of_a_pipe_in_one_conversation(talk, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo\n/clear\nthree\n"))
    assert main.main(["chat", "-m", "fake", "-sys", "Be short.", "-n", "9"]) == 0
    assert capsys.readouterr().out == "You said one\nYou said two\nYou said three\n"
    assert talk[0].heard == ["one", "two", "(forgot)", "three"]
    assert talk[0].kwargs["system"] == "Be short." and talk[0].kwargs["max_new_tokens"] == 9


def test_chat_without_standard_input_ends(talk, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert main.main(["chat", "-m", "fake"]) == 0
    assert capsys.readouterr().out == ""


def test_typed_questions_end_with_exit_and_with_the_end_of_input(monkeypatch, capsys):
    class Keyboard(io.StringIO):
        def isatty(self):
            return True

    args = argparse.Namespace(prompt=None)
    monkeypatch.setattr(sys, "stdin", Keyboard("a\n\n b \n/exit\nc\n"))
    assert list(chat.questions(args)) == ["a", "b"]
    monkeypatch.setattr(sys, "stdin", Keyboard("a\n"))
    assert list(chat.questions(args)) == ["a"]
    assert chat.HELP in capsys.readouterr().err


def test_speed_counts_work_of_tied_and_of_separate_output():
    def tensor(*shape):
        return argparse.Namespace(shape=shape, nbytes=int(np.prod(shape)) * 2)

    tied = {"token_embd.weight": tensor(10, 4), "blk.0.attn_q.weight": tensor(4, 4), "output_norm.weight": tensor(4)}
    assert speed.work(tied) == (112, 112)
    assert speed.work({**tied, "output.weight": tensor(10, 4)}) == (112, 112)
    assert speed.work({**tied, "position_embd.weight": tensor(9, 4)}) == (112, 112)


def test_speed_measures_what_it_says():
    model = Model(context=1024)
    found = speed.measure(model, {}, prompt=20, new=5, parallel=[2], runs=1)
    assert set(found["parallel_tok_s"]) == {"2"} and found["prompt_tok_s"] > 0 and found["decode_tok_s"] > 0
    assert model.steps.count([20]) == 2  # one not counted, one timed
    assert model.steps.count([1, 1]) == 128 and model.steps.count([128]) == 2
    assert model.steps.count([1]) == 2 * (1 + 5)


def test_bench_prints_figures_beside_limits():
    data = {
        "prompt_tok_s": 1000.0, "decode_tok_s": 200.0, "parallel_tok_s": {"16": 900.0}, "prompt_GOPs": 250.0,
        "decode_GBs": 19.0, "limits": {"read_GBs": 50.0, "int8_GOPs": 800.0}, "threads": 2, "isa": "base",
    }  # fmt: skip
    text = bench.text(data)
    assert "250 of 800 GOP/s" in text and "19.0 of 50.0 GB/s" in text and "16 side by side" in text


def test_info_of_a_gguf_file_and_of_a_folder(tmp_path, capsys):
    config = tiny_models.llama_config()
    weights = tiny_models.random_weights(config)
    count = sum(value.size for value in weights.values())
    tiny_models.write_gguf(tmp_path / "tiny.gguf", config, weights, dtype="Q8_0")
    tiny_models.write_folder(tmp_path / "tiny", config, weights, dtype="BF16")
    for path, kind in ((tmp_path / "tiny.gguf", "GGUF v3"), (tmp_path / "tiny", "Hugging Face folder")):
        assert main.main(["info", str(path), "--json", "--tensors"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert data["format"] == kind and data["architecture"] == "llama" and data["parameters"] == count
        shape = (data["layers"], data["width"], data["heads"], data["kv_heads"], data["head_size"], data["vocabulary"])
        assert shape == (2, 64, 4, 2, 16, 317)
        assert data["memory"]["cache_per_1000_tokens"] == 1000 * 2 * 2 * 2 * 16 * 2
        assert sum(row["parameters"] for row in data["types"].values()) == count == sum(
            int(np.prod(t["shape"])) for t in data["tensors"]
        )
        assert main.main(["info", str(path), "--tensors"]) == 0
        text = capsys.readouterr().out
        assert f"{count:,}" in text and "fits this machine" in text


@pytest.mark.parametrize("family", tiny_families.OWN)
def test_info_and_parameters_of_every_family(tmp_path, capsys, family):
    config = tiny_families.config(family)
    weights = tiny_models.random_weights(config)
    paths = tmp_path / "folder", tmp_path / "m.gguf"
    tiny_models.write_folder(paths[0], config, weights)
    tiny_models.write_gguf(paths[1], config, weights)
    size, groups = tiny_families.head_dim(config), 4 if family == "gpt_neox" else 2
    cache = 1000 * 2 * config["num_hidden_layers"] * groups * size * 2
    for path in map(str, paths):
        assert main.main(["info", path, "--json"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert (data["architecture"], data["head_size"], data["kv_heads"]) == (family, size, groups)
        assert data["memory"]["cache_per_1000_tokens"] == cache
        assert main.main(["params", path, "--json"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert data["total"] == sum(value.size for value in weights.values())
        assert data["cache_bytes_per_1000_tokens"] == cache


def test_info_of_gpt2(tmp_path, capsys):
    config = tiny_models.gpt2_config()
    tiny_models.write_folder(tmp_path, config, tiny_models.random_weights(config))
    assert main.main(["info", str(tmp_path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["architecture"] == "gpt2" and data["kv_heads"] == data["heads"] == config["n_head"]


def test_info_of_a_file_that_is_no_model(tmp_path, capsys):
    path = tmp_path / "no.gguf"
    path.write_bytes(b"nothing at all")
    assert main.main(["info", str(path)]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("pyllm: no.gguf: magic number at 0x0") and said.out == ""
    assert said.err.count("\n") == 1


def test_fits_compares_with_the_memory_that_is_there(monkeypatch):
    numbers = {"layers": 1, "kv_heads": 1, "head_size": 1, "context": 10}
    monkeypatch.setattr(doctor, "memory", lambda: 141)
    assert info.memory_plan(100, numbers)["fits"] is True
    monkeypatch.setattr(doctor, "memory", lambda: 140)
    assert info.memory_plan(100, numbers)["fits"] is False
    monkeypatch.setattr(doctor, "memory", lambda: None)
    assert info.memory_plan(100, numbers)["fits"] is None


def test_pull_prints_the_path_alone_on_stdout(monkeypatch, capsys):
    monkeypatch.setattr(download, "pull", lambda name: f"/cache/{name}.gguf")
    assert main.main(["pull", "some"]) == 0
    said = capsys.readouterr()
    assert said.out == "/cache/some.gguf\n" and "model some" in said.err
    assert main.main(["pull", "some", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == "/cache/some.gguf"
