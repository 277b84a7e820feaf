"""An encoder-decoder from a file of pairs to translations, in the command's own words."""

import json
import random
import re

import numpy as np
import pytest
from sklearn import metrics as theirs
from test_cli_training import run
from tiny_training import end_of

import pyllm
from pyllm.evaluate.metrics import text_scores
from pyllm.train import read

WORDS = "abcdefgh"
SMALL = "d_model=48,nhead=4,num_encoder_layers=1,num_decoder_layers=1,dim_feedforward=96,dropout=0"
RECURRENT = "embedding_size=32,hidden_size=48,num_layers=1,dropout=0,attention={}"


def copies(count, seed):
    """Lines of words, and the same words again."""
    draw = random.Random(seed)
    lines = [" ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 5))) for _ in range(count)]
    return "".join(f"{line}\t{line}\n" for line in lines)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "train.tsv").write_text(copies(2000, 0))
    (folder / "test.tsv").write_text(copies(60, 1))
    assert run(folder, "tokenizer", "train", "@train.tsv", "--kind", "word", "--vocab", "40", "-o", "@tok") == 0
    return folder


def learn(place, out, steps, rate, *words):
    flags = ["--data", "@train.tsv", "--tokenizer", "@tok", "--out", f"@{out}", "--steps", str(steps), "--batch", "32",
             "--lr", str(rate), "--warmup", "20", "--weight-decay", "0"]  # fmt: skip
    return run(place, "pretrain", *words, *flags)


TASKS = {
    "transformer": ("transformer", SMALL, 200, 4e-3),
    "additive": ("seq2seq", RECURRENT.format("additive"), 160, 1e-2),
    "general": ("seq2seq", RECURRENT.format("general"), 160, 1e-2),
}


@pytest.fixture(scope="module")
def trained(place):
    for name, (family, fields, steps, rate) in TASKS.items():
        assert learn(place, name, steps, rate, "--dtype", "fp32", "--model", family, "--config", fields) == 0
    return place


@pytest.mark.parametrize("name", TASKS)
def test_copying_is_learned_from_a_file_of_pairs(trained, name, capsys):
    capsys.readouterr()
    assert run(trained, "eval", f"@{name}", "--data", "@test.tsv", "--metric", "accuracy,bleu,chrf", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["accuracy"] >= 0.9 and facts["bleu"] > 80 and facts["chrf"] > 80
    assert facts["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert facts["pairs"] == 60 and facts["beam"] == 4
    assert run(trained, "eval", f"@{name}", "--data", "@test.tsv", "--samples", "9", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bleu"] > 80 and facts["chrf"] > 80 and facts["pairs"] == 9 and "accuracy" not in facts
    log = read(trained / name)
    assert log[-1]["valid_loss"] < log[0]["loss"] / 4


def test_a_text_is_translated_and_drawn(trained, capsys, tmp_path):
    capsys.readouterr()
    picture = tmp_path / "a.png"
    assert run(trained, "translate", "@additive", "b a c", "--plot-attention", str(picture)) == 0
    assert capsys.readouterr().out == "b a c\n"
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 5000
    assert run(trained, "translate", "@additive", "b a c", "--plot-attention", str(tmp_path / "a.svg")) == 0
    assert "</svg>" in (tmp_path / "a.svg").read_text() and capsys.readouterr().out == "b a c\n"
    assert run(trained, "translate", "@transformer", "b a c", "--n-best", "3") == 0
    lines = [re.fullmatch(r" *(-\d+\.\d{4})  (.*)", line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3 and lines[0][2] == "b a c"
    assert [float(line[1]) for line in lines] == sorted((float(line[1]) for line in lines), reverse=True)
    (trained / "in.txt").write_text("h g\n\na unknown b\n")
    assert run(trained, "translate", "@general", "-f", "@in.txt", "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["source"] for each in found] == ["h g", "", "a unknown b"]
    assert found[0]["targets"][0]["text"] == "h g" and found[1]["targets"] == [{"text": "", "score": 0.0}]
    weights = pyllm.AutoModelForSeq2SeqLM.from_pretrained(trained / "additive").cross_weights([3, 4, 0], [0, 3, 4])
    assert weights.shape == (1, 3, 3)


@pytest.mark.parametrize("name", ["transformer", "additive"])
def test_a_run_that_was_cut_ends_with_the_same_bytes(place, trained, name, monkeypatch):
    """Dropout, two batches a step, bf16; cut after the fourth step of six."""
    family, fields, _, rate = TASKS[name]
    words = ["--model", family, "--config", fields.replace("dropout=0", "dropout=0.2"), "--accumulate", "2",
             "--save-every", "2"]  # fmt: skip
    assert learn(place, f"whole {name}", 6, rate, *words) == 0
    usual = pyllm.Trainer._one_step

    def cut(self):
        if self.step == 4:
            raise KeyboardInterrupt
        return usual(self)

    monkeypatch.setattr(pyllm.Trainer, "_one_step", cut)
    assert learn(place, f"cut {name}", 6, rate, *words) == 1
    monkeypatch.undo()
    assert learn(place, f"cut {name}", 6, rate, *words) == 0
    assert end_of(place / f"cut {name}") == end_of(place / f"whole {name}")
    weights = [(place / f"{kind} {name}" / "model.safetensors").read_bytes() for kind in ("cut", "whole")]
    assert weights[0] == weights[1]


def test_what_cannot_be_is_said_in_one_line(place, trained, capsys):
    short = ["--steps", "1", "--out", "@x"]
    refused = [
        (["pretrain", "--model", "transformer", "--data", "@train.tsv", *short], 2, "--tokenizer TOK is needed"),
        (["pretrain", "--model", "gpt2", "--data", "@a", "@b", *short], 2, "gpt2 learns from one folder of shards"),
        (["pretrain", "--model", "seq2seq", "--data", "@a", "@b", "@c", "--tokenizer", "@tok", *short], 2, "3 files"),
        (["pretrain", "--model", "seq2seq", "--config", "d_model=8", "--data", "@train.tsv", "--tokenizer", "@tok",
          *short], 1, "config: d_model not known; seq2seq has attention, "),
        (["pretrain", "--model", "seq2seq", "--config", "vocab_size=3", "--data", "@train.tsv", "--tokenizer", "@tok",
          *short], 1, "config: vocab_size 3, allowed are the tokenizer's "),
        (["pretrain", "--model", "transformer", "--config", "d_model=65536,dim_feedforward=262144", "--data",
          "@train.tsv", "--tokenizer", "@tok", *short], 1, "GB are available"),
        (["finetune", "@transformer", "--data", "@a", "--lora-alpha", "4", "--out", "@x"], 2, "go with --lora R"),
        (["finetune", "@transformer", "--data", "@a", "@b", "@c", "--out", "@x"], 2, "--data: 3 files"),
        (["translate", "@transformer", "a", "--n-best", "9"], 2, "--n-best 9: at most --beam 4"),
        (["translate", "@transformer", "a", "--plot-attention", "@x.gif"], 1, "files ending .png"),
        (["translate", "@transformer", "a " * 600], 1, "text 1: 601 tokens, the model's context has 512; shorten it"),
        (["eval", "@transformer", "--data", "@test.tsv", "--metric", "bleu,wer"], 1, "metric: wer; known are bleu"),
        (["eval", "@transformer", "--data", "@a", "@b"], 2, "one folder of shards is measured"),
        (["generate", "-m", "@transformer", "-p", "a"], 1, "transformer; a family that continues texts"),
    ]  # fmt: skip
    for words, code, text in refused:
        capsys.readouterr()
        assert run(place, *words) == code
        said = capsys.readouterr().err.strip().splitlines()
        assert text in said[-1], said


def test_a_run_learns_on_from_other_pairs(trained, capsys):
    """Words backwards after copying; held-out sources are translated after each evaluation."""
    lines = (trained / "train.tsv").read_text().splitlines()[:1000]
    turned = [(s, " ".join(t.split()[::-1])) for s, t in (line.split("\t") for line in lines)]
    for i, name in enumerate(("more.a", "more.b")):
        (trained / name).write_text("".join(pair[i] + "\n" for pair in turned))
    words = ["finetune", "@additive", "--data", "@more.a", "@more.b", "--valid", "@test.tsv", "--out", "@turned"]
    more = ["--steps", "120", "--lr", "1e-2", "--batch", "32", "--eval-every", "60", "--weight-decay", "0"]
    assert run(trained, *words, *more) == 0
    log = read(trained / "turned")
    assert log[-1]["loss"] < 0.5 and log[-1]["valid_loss"] > 1  # it does not copy any more
    samples = json.loads((trained / "turned" / "run.json").read_text())["samples"]
    assert [sample["step"] for sample in samples] == [60] * 3 + [120] * 3
    assert all(sample["wanted"] == sample["prompt"] for sample in samples)
    capsys.readouterr()
    assert run(trained, "translate", "@turned", "a b c d") == 0
    assert capsys.readouterr().out == "d c b a\n"


def test_runs_are_described(trained, capsys):
    model = pyllm.AutoModelForSeq2SeqLM.from_pretrained(trained / "transformer")
    for name, words in (("transformer", ("heads", "feed_forward")), ("additive", ("layers", "context"))):
        capsys.readouterr()
        assert run(trained, "info", f"@{name}", "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["architecture"] == TASKS[name][0] and set(words) <= set(facts)
        assert run(trained, "params", f"@{name}", "--json") == 0
        assert json.loads(capsys.readouterr().out)["total"] == facts["parameters"]
    assert run(trained, "info", "@additive") == 0
    assert "cache" not in capsys.readouterr().out  # of states that stay as they are, however long the text
    assert run(trained, "report", "@transformer") == 0
    assert run(trained, "info", "@transformer", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["parameters"] == model.num_parameters()


def test_texts_are_classes_for_metrics():
    draw = np.random.default_rng(0)
    for classes in (2, 5):
        found, wanted = ([f"text {n}" for n in each] for each in draw.integers(0, classes, (2, 80)))
        wanted[:40] = found[:40]
        mine = text_scores(("accuracy", "f1", "mcc"), found, wanted)
        average = {"average": "binary", "pos_label": "text 1"} if classes == 2 else {"average": "macro"}
        assert abs(mine["accuracy"].value - theirs.accuracy_score(wanted, found)) < 1e-12
        assert abs(mine["f1"].value - theirs.f1_score(wanted, found, **average)) < 1e-12
        assert abs(mine["mcc"].value - theirs.matthews_corrcoef(wanted, found)) < 1e-12
    assert text_scores(["mcc"], ["a", "a"], ["a", "b"])["mcc"].value == 0
    with pytest.raises(ValueError, match="1 answers for 2 references"):
        text_scores(["accuracy"], ["a"], ["a", "b"])
