"""From a text to a model that chats, in the command's own words; what training says, refuses and goes on with."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import data_corpora
import pytest
import tiny_models
import transformers
from tiny_training import end_of

import pyllm
from pyllm import _core
from pyllm.cli import bench, main
from pyllm.errors import DoesNotFitError
from pyllm.train import TrainingArguments, language, read

SIZES = "n_layer=1,n_head=2,n_embd=32,n_positions=48"


@pytest.fixture(autouse=True)
def threads():
    """-t must not reach the next test."""
    before = _core.threads()
    yield
    _core.set_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a text, a tokenizer made of it, and shards, all by the command."""
    folder = tmp_path_factory.mktemp("flow")
    (folder / "in.txt").write_text("\n\n".join(data_corpora.document(i) for i in range(60)))
    words = ["tokenizer", "train", "@in.txt", "-o", "@tok", "--vocab", "300", "--chat"]
    assert run(folder, *words) == 0
    words = ["data", "prepare", "@in.txt", "--tokenizer", "@tok", "-o", "@shards", "--valid", "0.2"]
    assert run(folder, *words, "--separator", "blank") == 0
    return folder


@pytest.fixture(scope="module")
def trained(place):
    """A run of ten steps, by the command."""
    assert run(place, *PRETRAIN, "--out", "@run") == 0
    return place / "run"


PRETRAIN = ["pretrain", "--model", "gpt2", "--config", SIZES, "--data", "@shards", "--batch", "2", "--steps", "10",
            "--lr", "3e-3", "--warmup", "2", "--save-every", "4", "--eval-every", "5", "--accumulate", "2"]  # fmt: skip


def run(place, *words):
    """The exit code of a command; @ stands for the folder."""
    return main.main([str(place / word[1:]) if word.startswith("@") else word for word in words])


def said(capsys):
    """(stdout as one JSON object, stderr)."""
    found = capsys.readouterr()
    assert found.out.count("\n") == 1
    return json.loads(found.out), found.err


def test_pretraining_leaves_a_model_like_any(place, trained, capsys):
    names = {path.name for path in trained.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "run.json", "log.jsonl", "timings.jsonl"} <= names
    about = json.loads((trained / "run.json").read_text())
    assert about["command"].startswith("pyllm ") and about["arguments"]["max_steps"] == 10
    assert [sample["step"] for sample in about["samples"]] == [5, 10] and about["parameters"] > 10_000
    log = read(trained)
    assert [line["step"] for line in log] == list(range(1, 11)) and log[-1]["loss"] < log[0]["loss"]
    capsys.readouterr()
    assert run(place, "eval", "@run", "--data", "@shards", "--context", "48", "--json") == 0
    facts, _ = said(capsys)
    assert abs(facts["loss"] - log[-1]["valid_loss"]) < 0.05  # bf16 while it learned, each window read alone
    assert run(place, "eval", "@run", "--data", "@shards", "--split", "train", "--samples", "2") == 0
    assert re.fullmatch(r"loss \d.* bits per byte; \d+ tokens, [\d,]+ bytes\n", capsys.readouterr().out)
    assert run(place, "report", "@run", "--json") == 0
    facts, _ = said(capsys)
    assert "<svg" in Path(facts["path"]).read_text(encoding="utf-8")
    written = []
    for words in (["-m", "@run"], ["@run"], ["-m", "nothing", "@run"]):  # the flag may be left out
        capsys.readouterr()
        assert run(place, "generate", *words, "-p", "the quick", "-n", "4", "--no-display-prompt") == 0
        written.append(capsys.readouterr().out)
    assert len(set(written)) == 1 and written[0].strip()
    assert run(place, "bench", "llm", "@run", "--runs", "1", "--json") == 0  # a short context
    assert said(capsys)[0]["prompt"] < 512
    assert run(place, "chat", "-m", "@run", "-p", "hello", "-n", "4") == 0
    assert run(place, "convert", "@run", "-o", "@run.gguf") == 0
    capsys.readouterr()
    assert run(place, "eval", "@run.gguf", "--data", "@shards", "--context", "48", "--json") == 0
    assert abs(said(capsys)[0]["loss"] - log[-1]["valid_loss"]) < 0.05


def test_labels_are_smoothed(place, trained, tmp_path):
    assert run(place, *PRETRAIN, "--label-smoothing", "0.2", "--steps", "1", "--out", str(tmp_path / "run")) == 0
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["arguments"]["label_smoothing_factor"] == 0.2
    plain, smooth = (read(each)[0]["loss"] for each in (trained, tmp_path / "run"))
    assert smooth != plain and abs(smooth - plain) < 0.5  # random weights score all words alike
    assert run(place, *PRETRAIN, "--label-smoothing", "1", "--out", str(tmp_path / "other")) == 2


def test_the_same_command_again_changes_nothing(place, trained, capsys):
    before, about = end_of(trained), json.loads((trained / "run.json").read_text())
    assert run(place, *PRETRAIN, "--out", "@run", "--json") == 0
    facts, _ = said(capsys)
    log = read(trained)
    assert facts == {"step": 10, "loss": log[-1]["loss"], "valid_loss": log[-1]["valid_loss"], "complete": True}
    assert end_of(trained) == before and json.loads((trained / "run.json").read_text())["samples"] == about["samples"]


def test_layers_run_again_end_with_the_same_bytes(place, trained, tmp_path):
    assert run(place, *PRETRAIN, "--out", str(tmp_path / "run"), "--gradient-checkpointing") == 0
    assert end_of(tmp_path / "run") == end_of(trained)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["arguments"]["gradient_checkpointing"] is True


def test_what_fits_with_layers_run_again_is_told_so(place, tmp_path, monkeypatch):
    free, fields = [0], {"n_layer": 8, "n_head": 2, "n_embd": 32, "n_positions": 48}
    monkeypatch.setattr(language, "available", lambda: free[0])

    def start(again):
        told = TrainingArguments(str(tmp_path / "run"), 4, max_steps=1, gradient_checkpointing=again)
        return language.pretrain("gpt2", fields, str(place / "shards"), told)

    with pytest.raises(DoesNotFitError) as caught:
        start(True)
    free[0] = caught.value.needed
    with pytest.raises(DoesNotFitError) as caught:
        start(False)
    assert caught.value.advice[0] == "gradient checkpointing with the same batch and context"
    assert start(True).complete


def process(place, *words):
    """The command in a process of its own, which Ctrl-C can reach."""
    argv = [sys.executable, "-m", "pyllm", *(str(place / w[1:]) if w.startswith("@") else w for w in words)]
    return subprocess.Popen(argv, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_the_same_command_goes_on(place, tmp_path, capsys, how):
    words = [*PRETRAIN, "--steps", "60", "--context", "16", "--json"]
    started = process(place, *words, "--out", str(tmp_path / "run"))
    end = time.monotonic() + 60
    log = tmp_path / "run" / "log.jsonl"
    while time.monotonic() < end and not (log.exists() and log.read_bytes().count(b"\n") >= 5):
        time.sleep(0.002)
    started.send_signal(how)
    out, err = started.communicate(timeout=60)
    if how == signal.SIGINT:
        facts = json.loads(out)
        assert started.returncode == 1 and not facts["complete"] and 5 <= facts["step"] < 60
        assert "Traceback" not in err and len(read(tmp_path / "run")) == facts["step"]
        assert (tmp_path / "run" / "model.safetensors").exists()
    else:
        assert started.returncode == -signal.SIGKILL
    assert run(place, *words, "--out", str(tmp_path / "run"), "-t", "1") == 0
    assert run(place, *words, "--out", str(tmp_path / "calm")) == 0
    capsys.readouterr()
    assert end_of(tmp_path / "run") == end_of(tmp_path / "calm")


def test_an_interrupted_run_says_so(place, tmp_path, capsys, monkeypatch):
    from pyllm.train import ProgressBar

    monkeypatch.setattr(ProgressBar, "on_step_end", lambda self, trainer, values: trainer.step == 3 and trainer.stop())
    assert run(place, *PRETRAIN, "--out", str(tmp_path / "run")) == 1
    assert re.search(r"run: step 3, loss [0-9.]+; interrupted, the same command goes on\n$", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--config", "n_layers=2"], 1, "config: n_layers not known; gpt2 has "),
        (["--config", "n_layer=many"], 1, "config 'n_layer': 'many'; a whole number"),
        (["--config", "n_layer"], 2, "--config: 'n_layer', allowed is NAME=VALUE,NAME=VALUE"),
        (["--config", "n_head=5,n_embd=32"], 1, "'n_embd': 32; a multiple of the 5 attention heads"),
        (["--config", f"{SIZES},vocab_size=20"], 1, "config: vocab_size 20, allowed are the tokenizer's "),
        (["--model", "bert9"], 1, "family 'bert9' is not known; known are gpt2"),
        (["--model", "llama", "--config", "hidden_size=wide"], 1, "hidden_size"),
        (["--context", "49"], 1, "a sequence of 49 tokens, positions are 48"),
        (["--context", "1000000"], 1, "shards"),
        (["--schedule", "cosin"], 1, "schedule: 'cosin' is not known; known are constant"),
        (["--steps", "0", "--epochs", "0"], 1, "max_steps and num_train_epochs are both 0"),
        (["--data", "@nowhere"], 1, "nowhere"),
        (["--tokenizer", "@other"], 1, "tokenizer"),
        (["--lr", "nan"], 2, "a finite number"),
        (["--dtype", "fp16"], 2, "invalid choice"),
    ],
)  # fmt: skip
def test_what_pretraining_refuses(place, tmp_path, capsys, words, code, message):
    """One line, no run folder with checkpoints, no traceback."""
    if not (place / "other").exists():
        (place / "other.txt").write_text("an other text of other words")
        assert run(place, "tokenizer", "train", "@other.txt", "-o", "@other", "--kind", "char") == 0
    capsys.readouterr()
    assert run(place, *PRETRAIN, "--out", str(tmp_path / "run"), *words) == code
    found = capsys.readouterr()
    assert message in found.err and found.out == "" and "Traceback" not in found.err
    assert found.err.splitlines()[-1].startswith("pyllm")
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_another_command_on_the_same_run_is_refused_by_name(place, trained, capsys):
    before = end_of(trained)
    for words, message in [
        (["--lr", "1e-3"], "arguments.learning_rate is 0.001, allowed is 0.003"),
        (["--steps", "20"], "arguments.max_steps is 20, allowed is 10"),
        (["--config", SIZES.replace("n_head=2", "n_head=4")], "config.n_head is 4, allowed is 2"),
        (["--context", "24"], "context is 24, allowed is 48"),
    ]:
        assert run(place, *PRETRAIN, "--out", "@run", *words) == 1
        assert message in capsys.readouterr().err
    assert end_of(trained) == before


def test_a_damaged_validation_split_is_no_missing_one(place, tmp_path, capsys):
    import shutil

    shutil.copytree(place / "shards", tmp_path / "shards")
    valid = next((tmp_path / "shards").glob("valid-*.bin"))
    valid.write_bytes(valid.read_bytes()[:-2])
    words = [*PRETRAIN, "--out", str(tmp_path / "run")]
    words[words.index("@shards")] = str(tmp_path / "shards")
    assert run(place, *words) == 1
    assert valid.name in capsys.readouterr().err


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A folder with a tiny model whose tokenizer has a chat template, and conversations."""
    folder = tmp_path_factory.mktemp("tune")
    config = tiny_models.llama_config()
    tiny_models.write_folder(folder / "model", config, tiny_models.random_weights(config))
    rows = [{"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"fox {i % 3}"}]}
            for i in range(24)]  # fmt: skip
    data_corpora.jsonl(folder / "chat.jsonl", rows)
    return folder


FINETUNE = ["finetune", "@model", "--data", "@chat.jsonl", "--steps", "12", "--batch", "4", "--context", "64",
            "--held-out", "2", "--lr", "3e-3"]  # fmt: skip


def test_finetuning_learns_the_answers(tuned, capsys):
    assert run(tuned, *FINETUNE, "--out", "@out", "--json") == 0
    facts, err = said(capsys)
    log = read(tuned / "out")
    assert facts["complete"] and facts["step"] == 12 and log[-1]["loss"] < 0.7 * log[0]["loss"] and "step 12 of" in err
    assert run(tuned, "chat", "-m", "@out", "-p", "say 1", "-n", "4") == 0
    before = end_of(tuned / "out")
    assert run(tuned, *FINETUNE, "--out", "@out") == 0
    assert end_of(tuned / "out") == before


BASES = [["gpt2", "--config", SIZES], ["lstm", "--config", "embedding_size=64,hidden_size=64,num_hidden_layers=1"]]


@pytest.mark.parametrize("model", BASES)
def test_a_base_model_learns_to_chat(place, tmp_path, capsys, model):
    """From a text to a chat, also where the tokenizer was made without a chat template."""
    words = ["tokenizer", "train", str(place / "in.txt"), "-o", str(tmp_path / "tok"), "--vocab", "300"]
    assert run(tmp_path, *words) == 0
    words = ["data", "prepare", str(place / "in.txt"), "--tokenizer", "@tok", "-o", "@shards", "--separator", "blank"]
    assert run(tmp_path, *words) == 0
    words = ["pretrain", "--model", *model, "--data", "@shards", "--context", "16", "--lr", "1e-2", "--out", "@base"]
    assert run(tmp_path, *words, "--steps", "20") == 0
    assert run(tmp_path, "chat", "@base", "-p", "1") == 1
    assert "no chat template in the model; pass chat_template, or let it learn" in capsys.readouterr().err
    rows = [[{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": "Ja."}] for i in range(30)]
    data_corpora.jsonl(tmp_path / "chat.jsonl", [{"messages": row} for row in rows])
    words = ["finetune", "@base", "--data", "@chat.jsonl", "--out", "@run", "--lr", "1e-2", "--steps", "150"]
    assert run(tmp_path, *words) == 0
    capsys.readouterr()
    assert run(tmp_path, "chat", "@run", "-p", "7", "--temp", "0", "-n", "9") == 0
    assert capsys.readouterr().out == "Ja.\n"
    messages = [{"role": "user", "content": "7"}]
    for maker in (pyllm.AutoTokenizer, transformers.AutoTokenizer):
        tokenizer = maker.from_pretrained(tmp_path / "run")
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert text == "User:\n7\nAssistant:\n"


def test_other_conversations_are_refused_on_the_same_run(tuned, tmp_path, capsys):
    """Also where their number and their lengths are the same."""
    assert run(tuned, *FINETUNE, "--steps", "2", "--out", str(tmp_path / "run")) == 0
    changed = (tuned / "chat.jsonl").read_text().replace("fox 1", "fox 4")
    (tmp_path / "chat.jsonl").write_text(changed)
    for words, message in [
        (["--data", str(tmp_path / "chat.jsonl")], "data.sha256 is "),
        (["--held-out", "1"], "data.tokens is "),
    ]:
        assert run(tuned, *FINETUNE, "--steps", "2", "--out", str(tmp_path / "run"), *words) == 1
        assert message in capsys.readouterr().err


def test_what_finetuning_refuses(tuned, tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text('{"messages": []}\n')
    for words, message in [
        (["--data", str(tmp_path / "bad.jsonl")], "bad.jsonl: line 1"),
        (["--data", str(tmp_path / "none.jsonl")], "none.jsonl"),
    ]:
        assert run(tuned, *FINETUNE, "--out", str(tmp_path / "out"), *words) == 1
        found = capsys.readouterr()
        assert message in found.err and found.out == "" and "Traceback" not in found.err


def test_the_speed_of_a_step(capsys):
    words = ["bench", "train", "--config", SIZES + ",vocab_size=99", "--batch", "2", "--context", "16", "--runs", "2"]
    assert main.main([*words, "--json"]) == 0
    facts, _ = said(capsys)
    assert facts["tok_s"] > 0 and 0 < facts["share_of_peak"] < 1 and facts["peak_memory_MB"] > 10
    assert (facts["batch"], facts["context"], facts["dtype"]) == (2, 16, "fp32")
    assert main.main([*words, "--context", "49"]) == 1
    assert main.main([*words[:2], "--config", "n_layers=3"]) == 1
    assert "config: n_layers not known" in capsys.readouterr().err


def test_a_steps_memory_is_without_what_the_limits_take(capsys, monkeypatch):
    calls, limits = [], bench.limits
    monkeypatch.setattr("pyllm.evaluate.training_speed.most_taken", lambda: calls.append("memory"))
    monkeypatch.setattr(bench, "limits", lambda args: calls.append("limits") or limits(args))
    sizes = ["--emb", "8", "--hidden", "8", "--layers", "1", "--vocab", "9"]
    assert main.main(["bench", "train", "--model", "lstm", *sizes]) == 0
    assert calls == ["memory", "limits"]
    assert main.main(["bench", "train", "--emb", "8"]) == 2 and calls == ["memory", "limits"]


def test_systems_that_do_not_say_how_much_memory_was_taken(capsys, monkeypatch):
    monkeypatch.setattr("pyllm.evaluate.training_speed.most_taken", lambda: None)
    words = ["bench", "train", "--config", SIZES + ",vocab_size=99", "--batch", "1", "--context", "8", "--runs", "1"]
    assert main.main(words) == 0
    assert capsys.readouterr().out.rstrip().endswith("of fp32's peak")
    assert main.main([*words, "--json"]) == 0
    assert said(capsys)[0]["peak_memory_MB"] is None
