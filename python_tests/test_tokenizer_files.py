"""Tokenizers trained from files: plain and packed text, and the verb `pyllm tokenizer`."""

import gzip
import json
import lzma
import sys

import pytest
from text_cases import PROSE

import pyllm
from pyllm.cli import main
from pyllm.cli import tokenizer as verb
from pyllm.errors import ModelFileError
from pyllm.formats.text_files import read_text
from pyllm.text.training import END, Trainer, feed_files


def test_files_plain_and_packed_give_what_the_text_gives(tmp_path):
    text = (PROSE * 20_000)[:3_000_000].encode()
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "b.gz").write_bytes(gzip.compress(text[:1_000_000]) + gzip.compress(text[1_000_000:]))
    (tmp_path / "c").write_bytes(lzma.compress(text[:1_000_001]) + lzma.compress(text[1_000_001:]) + b"\0" * 8)
    whole = pyllm.text.train(text.decode("utf-8", "replace"), vocab=600).coder.document()
    for name in ("a.txt", "b.gz", "c"):
        assert b"".join(read_text(tmp_path / name)) == text.decode("utf-8", "replace").encode()
        assert pyllm.text.train_files(tmp_path / name, vocab=600).coder.document() == whole
    (tmp_path / "bad").write_bytes(b"a\xffb\xe2\x82 \xe6\xbc\xa2")
    assert b"".join(read_text(tmp_path / "bad")).decode() == "a\ufffdb\ufffd 漢"
    told = []
    trainer = Trainer("char")
    feed_files(trainer, [tmp_path / "b.gz", tmp_path / "bad"], lambda *each: told.append(each))
    assert told[-1][1] == told[-1][2] == sum((tmp_path / name).stat().st_size for name in ("b.gz", "bad"))


def test_files_that_cannot_be_read(tmp_path):
    packed = {"a.gz": gzip.compress(b"some text " * 1000), "a.xz": lzma.compress(b"some text " * 1000)}
    for name, data in packed.items():
        for wrong in (data[:-9], data[:20] + b"\0\0\0\0" + data[24:]):
            (tmp_path / name).write_bytes(wrong)
            with pytest.raises(ModelFileError, match=f"{name}: cannot be unpacked"):
                pyllm.text.train_files([tmp_path / name])
    with pytest.raises(ModelFileError, match=r"none\.txt: cannot be opened: No such file"):
        pyllm.text.train_files(tmp_path / "none.txt")
    with pytest.raises(ModelFileError, match="is a directory"):
        pyllm.text.train_files(tmp_path)


def test_the_verb_trains_and_shows(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(PROSE * 3)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(PROSE.encode()))
    target = str(tmp_path / "tok")
    words = ["tokenizer", "train", str(tmp_path / "a.txt"), str(tmp_path / "b.txt.gz"), "-o", target]
    assert main.main([*words, "--vocab", "400", "--chat", "--special", "[A]", "--special", "[B]"]) == 0
    out, err = capsys.readouterr()
    assert f"{target}: 400 tokens, 139 merges\n" in out and "forgotten" not in out
    assert "text: read in" in err and "merging pairs, 139 merges\n" in err
    found = pyllm.AutoTokenizer.from_pretrained(target)
    assert found.convert_ids_to_tokens(range(5)) == [END, "<|im_start|>", "<|im_end|>", "[A]", "[B]"]
    assert main.main(["tokenizer", "show", target, "the river\nçx[A]", "--allow-special", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ids"] == found.encode("the river\nçx[A]", allow_special=True) and "\\n" in shown["tokens"]
    assert main.main(["tokenizer", "show", target, " the <|im_end|>"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("' the'") and lines[-1] == f"{len(found.encode(' the <|im_end|>'))} tokens"

    assert main.main([*words, "--vocab", "400"]) == 1
    assert "tok: exists already and is not empty; another name, or --overwrite" in capsys.readouterr().err
    assert main.main([*words, "--overwrite", "--vocab", "90000", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["tokens"] == 257 + facts["merges"] < 90000 and facts["kind"] == "bpe" and facts["left_out"] == 0
    assert main.main([*words, "--overwrite", "--kind", "word", "--vocab", "20"]) == 0
    assert "left out: " in capsys.readouterr().out
    rare = [f"w{i}" for i in range(3000)]
    (tmp_path / "a.txt").write_text(" ".join(rare))
    assert main.main([*words, "--overwrite", "--max-words", "1000"]) == 0
    out = capsys.readouterr().out
    assert "fewer than the 8,192 asked for: no other pair stands often enough" in out
    assert "rarer words, met" in out and "more than --max-words 1,000 at once" in out


@pytest.mark.parametrize("words, said, code", [
    ([], "arguments are required: train|show", 2),
    (["train", "a.txt"], "arguments are required: -o/--output", 2),
    (["train", "-o", "x"], "arguments are required: TEXT", 2),
    (["train", "a.txt", "-o", "x", "--kind", "z"], "invalid choice: 'z'", 2),
    (["train", "a.txt", "-o", "x", "--vocab", "100"], "vocab is 100; at least 257", 2),
    (["train", "a.txt", "-o", "x", "--special", "a"], "'a' is a piece of ordinary text", 2),
    (["train", "a.txt", "-o", "x", "--pre-tokenizer", "z"], "'z' cannot be said in tokenizer.json", 2),
    (["train", "a.txt", "-o", "x"], "a.txt: cannot be opened: No such file or directory", 1),
    (["train", "empty", "-o", "x"], "no words; a text with at least one", 1),
    (["show", "x", "text"], "x", 1),
])  # fmt: skip
def test_the_verb_says_what_is_wrong(words, said, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_bytes(b"")
    assert main.main(["tokenizer", *words]) == code
    assert said in capsys.readouterr().err and not (tmp_path / "x").exists()


@pytest.mark.parametrize("stage", ["reading", "merging"])
def test_an_interrupt_of_the_verb_leaves_nothing(stage, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text(PROSE)

    def interrupt(self, found, done, total):
        if found == stage:
            raise KeyboardInterrupt

    monkeypatch.setattr(verb.Stages, "show", interrupt)
    assert main.main(["tokenizer", "train", str(tmp_path / "a.txt"), "-o", str(tmp_path / "tok")]) == 1
    assert capsys.readouterr().err.endswith("pyllm: interrupted\n") and not (tmp_path / "tok").exists()


def test_the_bar_counts_merges(monkeypatch, capsys):
    from pyllm.formats import progress

    monkeypatch.setattr(progress, "_EVERY", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with verb.Stages() as stages:
        stages.show("reading", 0, 0)
        stages.show("reading", 500_000, 1_000_000)
        stages.show("merging", 25, 100)
    err = capsys.readouterr().err
    assert "50% 0.5 of 1.0 MB" in err and "25% 25 of 100 merges" in err and "text: read in" in err
