"""`pyllm data`: what it prints, what it refuses."""

import json
import os

import data_corpora
import pytest
import tiny_tokenizers

from pyllm.cli import data, main


@pytest.fixture
def place(tmp_path):
    """A folder with a tokenizer and texts."""
    (tmp_path / "tok").mkdir()
    tiny_tokenizers.write_json(tmp_path / "tok", 400)
    (tmp_path / "in").mkdir()
    data_corpora.jsonl(tmp_path / "in" / "a.jsonl", [{"text": data_corpora.document(i)} for i in range(30)])
    (tmp_path / "in" / "b.txt").write_bytes(b"a text \xff" + b"of many words " * 20 + b"\0")
    data_corpora.jsonl(tmp_path / "in" / "c.jsonl", [{"text": "ab"}, {"text": data_corpora.document(0)}])
    return tmp_path


PREPARE = ["prepare", "@in", "--tokenizer", "@tok", "-o", "@out"]


def run(place, *words):
    return main.main(["data", *(str(place / word[1:]) if word.startswith("@") else word for word in words)])


def test_prepare_and_info(place, capsys):
    flags = ["--tokenizer", "@tok", "-o", "@out", "--valid", "0.2", "--min-chars", "3"]
    assert run(place, "prepare", "@in", *flags) == 0
    said = capsys.readouterr()
    lines = [line.split(maxsplit=1) for line in said.out.splitlines()]
    rows = {line[0]: line[1] for line in lines if len(line) > 1}
    assert rows["files"] == "3" and rows["documents"] == "33" and rows["kept"] == "31"
    assert rows["duplicate"] == "1" and rows["too"] == "short  1" and "empty" not in rows
    assert rows["repaired"] == "1 documents: 1 places no UTF-8, 1 control characters"
    assert "tokens" in rows["train"] and "documents, 1 shards" in rows["valid"] and "hint" not in rows
    assert said.err.splitlines()[0].startswith("reading text, ") and "text: read in" in said.err
    assert run(place, "info", "@out") == 0
    text = capsys.readouterr().out
    assert "train-00000.bin" in text and "uint16" in text and "400 tokens, end of text: 1" in text
    assert run(place, "info", "@out", "--tokenizer", "@tok", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["eos"] == 1 and found["report"]["dropped"]["duplicate"] == 1
    assert {each["split"] for each in found["samples"]} == {"train", "valid"}
    assert found["samples"][0]["text"].startswith("no") and "</s>" not in found["samples"][0]["text"]


def test_json_has_every_count(place, capsys):
    flags = "--tokenizer @tok -o @out --json --separator blank --valid 0 --nfc --max-chars 1000".split()  # noqa: SIM905
    assert run(place, "prepare", "@in/b.txt", *flags) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["documents"] == found["kept"] == found["splits"]["train"]["documents"] == 1
    assert found["repaired"] == {"documents": 1, "not_utf8": 1, "controls": 1} and not any(found["dropped"].values())


def test_existing_shards_are_replaced_on_request_alone(place, capsys):
    flags = ["--tokenizer", "@tok", "-o", "@out"]
    assert run(place, "prepare", "@in", *flags) == 0
    assert run(place, "prepare", "@in", *flags) == 1
    assert "pyllm: out: holds" in capsys.readouterr().err
    assert run(place, "prepare", "@in", *flags, "--overwrite") == 0


def test_a_hint_where_nothing_is_left_for_validation(place, capsys):
    assert run(place, "prepare", "@in/c.jsonl", *["--tokenizer", "@tok", "-o", "@out", "--valid", "0.000001"]) == 0
    assert "hint" in capsys.readouterr().out
    assert (
        run(place, "prepare", "@in/c.jsonl", *["--tokenizer", "@tok", "-o", "@out", "--overwrite", "--valid", "0"]) == 0
    )
    assert "hint" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["prepare", "@in"], 2, "prepare needs --tokenizer and -o"),
        ([*PREPARE, "--valid", "1.5"], 2, "a finite number from 0 to 0.999"),
        ([*PREPARE, "--separator", ""], 2, "an empty text divides nothing"),
        ([*PREPARE, "--separator", "\\x"], 2, "argument --separator"),
        (["prepare", "@nowhere", "--tokenizer", "@tok", "-o", "@out"], 1, "nowhere: cannot be opened"),
        (["prepare", "@in", "--tokenizer", "@in", "-o", "@out"], 1, "no config.json and 0 GGUF files"),
        ([*PREPARE, "--text-field", "body"], 1, "a.jsonl: line 1 at 0x0"),
        (["info", "@in"], 1, "manifest.json: cannot be opened"),
        (["info", "@in", "@out"], 2, "info describes one folder"),
        (["pack", "@in"], 2, "invalid choice"),
    ],
)  # fmt: skip
def test_refusals(place, capsys, words, code, said):
    assert run(place, *words) == code
    found = capsys.readouterr()
    assert said in found.err and found.out == "" and "Traceback" not in found.err
    assert sorted(os.listdir(place)) == ["in", "tok"]


def test_separators_as_typed():
    assert data.unescaped("\\n--\\n") == "\n--\n" and data.unescaped("\u4e2d<|end|>") == "\u4e2d<|end|>"
    assert data.unescaped("\\u4e2d") == "\u4e2d" and data.unescaped("blank") == "blank"
