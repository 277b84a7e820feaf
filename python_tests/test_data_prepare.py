"""From text to shards: what is kept, where, in which bytes; whole or not at all; in bounded memory."""

import errno
import json
import os
import random

import data_corpora
import numpy as np
import pytest
import tiny_tokenizers
from data_corpora import document, kept

import pyllm
from pyllm.data import Shards, fingerprint, prepare, shard_writer
from pyllm.data.cleaning import RULES
from pyllm.data.fingerprint import open_tokenizer
from pyllm.errors import DataError, ModelFileError
from pyllm.formats import writing


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A tokenizer's file."""
    return data_corpora.native(tmp_path_factory.mktemp("tok") / "tok.gguf")


@pytest.fixture(scope="module")
def tokenizer(path):
    return open_tokenizer(path)


def write(folder, texts, name="a.jsonl"):
    folder.mkdir(exist_ok=True)
    return data_corpora.jsonl(folder / name, [{"text": text} for text in texts])


def test_documents_come_back(tmp_path, tokenizer):
    texts = [document(i) for i in range(100)]
    found = prepare(write(tmp_path, texts), tokenizer, tmp_path / "out", valid=0.2)
    assert found["documents"] == found["kept"] == 100 and found["characters"] == sum(map(len, texts))
    splits = kept(tmp_path / "out", tokenizer)
    assert sorted(splits["train"] + splits["valid"]) == sorted(texts)
    assert splits["train"] == [text for text in texts if text in splits["train"]]  # in order
    assert 5 < len(splits["valid"]) < 40
    assert found["splits"]["valid"]["documents"] == len(splits["valid"])
    tokens = sum(len(tokenizer.encode(text)) + 1 for text in splits["train"])
    assert found["splits"]["train"] == {"documents": len(splits["train"]), "tokens": tokens, "shards": 1}


def test_every_kind_of_file_and_tokenizer(tmp_path, path):
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path / "in"
    write(folder, [document(0)])
    (folder / "b.txt").write_text(document(1))
    pyarrow.parquet.write_table(pyarrow.table({"text": [document(2)]}), folder / "c.parquet")
    for i, (pack, packed) in enumerate(data_corpora.PACKERS.items()):
        (folder / f"d{i}.txt{pack}").write_bytes(packed(document(3 + i).encode()))
    tiny_tokenizers.write_json(tmp_path, 400)
    spm = data_corpora.native(tmp_path / "spm.gguf", "spm", 330)
    for number, tok in enumerate([path, tmp_path, spm]):
        found = prepare(folder, tok, tmp_path / str(number), valid=0)
        assert found["files"] == 7 and found["kept"] == 7
        texts = kept(tmp_path / str(number), open_tokenizer(tok))
        assert [text.removeprefix(" ") for text in texts["train"]] == [document(i) for i in range(7)]


def contents(folder):
    """Every file of a folder, at any depth: name -> bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_input_gives_the_same_bytes(tmp_path, tokenizer):
    source = write(tmp_path, [document(i) for i in range(50)])
    for name in "ab":
        prepare(source, tokenizer, tmp_path / name, valid=0.3, shard_tokens=500)
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert first == second and len(first) > 6
    assert any(name.startswith("tokenizer") for name in first)  # beside the shards, for whoever reads them


def test_the_split_depends_on_the_document_and_the_seed_alone(tmp_path, tokenizer):
    texts = [document(i) for i in range(120)]
    other = texts[:60] + [document(i) for i in range(500, 600)]
    random.Random(0).shuffle(other)
    splits = {}
    for name, rows, seed in [("a", texts, 0), ("b", other, 0), ("c", texts, 1)]:
        prepare(write(tmp_path, rows, f"{name}.jsonl"), tokenizer, tmp_path / name, valid=0.3, seed=seed)
        splits[name] = set(kept(tmp_path / name, tokenizer)["valid"])
    assert splits["a"] & set(texts[:60]) == splits["b"] & set(texts[:60]) != set()
    assert splits["a"] != splits["c"]


def test_a_larger_share_holds_the_smaller_one(tmp_path, tokenizer):
    source = write(tmp_path, [document(i) for i in range(200)])
    sets = []
    for share in (0.1, 0.5):
        prepare(source, tokenizer, tmp_path / str(share), valid=share)
        sets.append(set(kept(tmp_path / str(share), tokenizer)["valid"]))
    assert sets[0] < sets[1] and 70 < len(sets[1]) < 130


def test_every_rule_is_counted_by_name(tmp_path, tokenizer):
    texts = [document(0), "", "ab", "x" * 2000, "line\n" * 50, "#" * 99, "\ud800" * 9, document(0)]
    folder = tmp_path / "in"
    data_corpora.jsonl((folder.mkdir(), folder / "a.jsonl")[1], [*({"text": text} for text in texts), {"body": 1}])
    found = prepare(folder, tokenizer, tmp_path / "out", min_chars=3, max_chars=1000, valid=0, skip_bad_records=True)
    assert found["dropped"] == dict.fromkeys(RULES, 1)
    assert (found["documents"], found["kept"]) == (9, 1)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["report"]["dropped"] == found["dropped"] and manifest["report"]["settings"]["min_chars"] == 3


def test_duplicates_across_files_and_encodings(tmp_path, tokenizer):
    folder = tmp_path / "in"
    write(folder, ["one text\nof two lines", "another"])
    (folder / "b.txt").write_bytes(b"\xef\xbb\xbfone text\r\nof two lines")
    (folder / "c.txt.gz").write_bytes(data_corpora.PACKERS[".gz"](b"another\0"))
    found = prepare([folder, folder], tokenizer, tmp_path / "out", valid=0)
    assert (found["dropped"]["duplicate"], found["kept"]) == (6, 2)
    assert kept(tmp_path / "out", tokenizer) == {"train": ["one text\nof two lines", "another"]}


def test_repairs_are_counted(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_bytes(("fine text " * 50).encode() + b"\xff\xfe \0\x07")
    found = prepare(tmp_path / "a.txt", tokenizer, tmp_path / "out", valid=0)
    assert found["repaired"] == {"documents": 1, "not_utf8": 2, "controls": 2}


def test_a_bad_record_names_file_and_line(tmp_path, tokenizer):
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "a"}\n{"txt": "b"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl: line 2 at 0xe: field 'text' is missing") as caught:
        prepare(source, tokenizer, tmp_path / "out")
    assert caught.value.file == str(source) and os.listdir(tmp_path) == ["a.jsonl"]
    found = prepare(source, tokenizer, tmp_path / "out", text_field="txt", skip_bad_records=True, valid=0)
    assert kept(tmp_path / "out", tokenizer) == {"train": ["b"]} and found["dropped"]["bad_record"] == 1


def test_nothing_left_is_an_error(tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"a\.jsonl: no document is left of 2: 2 empty; at least one"):
        prepare(write(tmp_path, ["", " "]), tokenizer, tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.jsonl"]


@pytest.mark.parametrize(
    "wrong", [{"valid": 1.0}, {"valid": -0.1}, {"shard_tokens": 0}, {"separator": ""}, {"max_bad": 2}]
)
def test_settings_that_make_no_sense(tmp_path, tokenizer, wrong):
    with pytest.raises(DataError, match="prepare: "):
        prepare(write(tmp_path, ["a"]), tokenizer, tmp_path / "out", **wrong)
    with pytest.raises(TypeError, match="unexpected"):
        prepare(write(tmp_path, ["a"]), tokenizer, tmp_path / "out", min_words=3)


def test_separators(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("one\n\n\ntwo\nlines\n \nthree<|end|>four")
    for number, (separator, expected) in enumerate(
        [(None, ["one\n\n\ntwo\nlines\n \nthree<|end|>four"]), ("blank", ["one", "two\nlines", "three<|end|>four"]),
         ("<|end|>", ["one\n\n\ntwo\nlines\n \nthree", "four"])]
    ):  # fmt: skip
        out = tmp_path / str(number)
        prepare(tmp_path / "a.txt", tokenizer, out, valid=0, separator=separator)
        assert kept(out, tokenizer) == {"train": expected}


def test_special_tokens_in_a_text_are_text(tmp_path, tokenizer):
    prepare(write(tmp_path, ["some words</s>and more<s>"]), tokenizer, tmp_path / "out", valid=0)
    ids = Shards(tmp_path / "out").document(0)
    assert tokenizer.eos_token_id not in ids[:-1] and tokenizer.decode(ids[:-1]) == "some words</s>and more<s>"


@pytest.mark.parametrize(("size", "dtype", "width"), [(400, "uint16", 2), (70_000, "uint32", 4)])
def test_the_format(tmp_path, tokenizer, size, dtype, width):
    """Read with numpy alone."""

    class Wide:
        before, after, vocab_size = [], [], size

        def encode(self, text, allow_special):
            return [size - 1, *(int(word) for word in text.split() if word.isdecimal())]

        def special(self, i):
            return False

        def bytes(self, i):
            return str(i).encode()

    wide = pyllm.text.Tokenizer(Wide(), eos=2)
    prepare(write(tmp_path, ["5 6 7", "8"]), wide, tmp_path / "out", valid=0)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (shard,) = manifest["shards"]
    assert (manifest["format"], manifest["version"], manifest["dtype"]) == ("pyllm-shards", 1, dtype)
    assert (manifest["vocabulary"], manifest["eos"]) == (size, 2)
    assert manifest["tokenizer"] == fingerprint(wide)
    data = (tmp_path / "out" / shard["file"]).read_bytes()
    assert np.frombuffer(data, f"<u{width}").tolist() == [size - 1, 5, 6, 7, 2, size - 1, 8, 2]
    assert np.fromfile(tmp_path / "out" / "train-00000.idx", "<u8").tolist() == [0, 5]
    assert (shard["tokens"], shard["documents"], shard["split"]) == (8, 2, "train")
    import hashlib

    assert shard["sha256"] == hashlib.sha256(data).hexdigest()


def test_an_id_beyond_the_vocabulary_of_the_tokenizer(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer.coder), "encode_array", lambda self, data: np.array([1, 400], np.int32))
    with pytest.raises(DataError, match="tokenizer: gives the ids 1 to 400; 0 to 399"):
        prepare(write(tmp_path, ["a"]), tokenizer, tmp_path / "out")


def test_shards_end_with_documents(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(shard_writer, "_BUFFER", 70)  # several writes to a shard
    texts = [document(i) for i in range(40)]
    found = prepare(write(tmp_path, texts), tokenizer, tmp_path / "out", valid=0, shard_tokens=300)
    assert found["splits"]["train"]["shards"] > 3
    shards = Shards(tmp_path / "out", verify=True)
    assert data_corpora.texts(shards, tokenizer) == texts
    assert all(300 <= s.tokens < 600 for s in shards.manifest.shards[:-1])


def test_what_is_in_the_way(tmp_path, tokenizer):
    source, out = write(tmp_path, [document(0)]), tmp_path / "out"
    out.mkdir()
    prepare(source, tokenizer, out, valid=0)
    with pytest.raises(DataError, match="out: holds 4 files already; an empty folder, or overwrite"):
        prepare(source, tokenizer, out)
    prepare(write(tmp_path, ["new"], "b.jsonl"), tokenizer, out, valid=0, overwrite=True)
    assert kept(out, tokenizer) == {"train": ["new"]} and len(os.listdir(out)) == 4
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"out: 'notes\.txt': is no file of shards and would be lost"):
        prepare(source, tokenizer, out, overwrite=True)
    with pytest.raises(DataError, match="exists and is no folder"):
        prepare(source, tokenizer, source, overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path / "other")
    prepare(source, tokenizer, tmp_path / "link", valid=0)
    assert (tmp_path / "link").is_symlink() and len(os.listdir(tmp_path / "other")) == 4


@pytest.mark.parametrize("overwrite", [False, True])
def test_whole_or_not_at_all(tmp_path, tokenizer, overwrite):
    """Damage at the end of the input, after shards have been written: nothing new, nothing lost."""
    folder, out = tmp_path / "in", tmp_path / "out"
    write(folder, [document(i) for i in range(50)])
    if overwrite:
        prepare(folder, tokenizer, out, valid=0)
    before = contents(out) if overwrite else None
    (folder / "z.txt.gz").write_bytes(data_corpora.PACKERS[".gz"](b"text" * 9999)[:-9])
    with pytest.raises(DataError, match=r"z\.txt\.gz: gzip, text at 0x[0-9a-f]+: the file ends early"):
        prepare(folder, tokenizer, out, shard_tokens=100, overwrite=overwrite)
    assert sorted(os.listdir(tmp_path)) == (["in", "out"] if overwrite else ["in"])
    assert before is None or contents(out) == before


@pytest.mark.parametrize("call", [0, 1, 2, 3, 5])
def test_a_full_disk(tmp_path, tokenizer, monkeypatch, call):
    source = write(tmp_path, [document(i) for i in range(50)])
    prepare(source, tokenizer, tmp_path / "out", valid=0.2)
    old = (tmp_path / "out" / "manifest.json").read_bytes()
    calls = iter(range(1000))

    class Failing(writing.FileIO):
        def write(self, data):
            if next(calls) == call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    monkeypatch.setattr(writing, "FileIO", Failing)
    with pytest.raises(ModelFileError, match="cannot be written: No space left on device"):
        prepare(source, tokenizer, tmp_path / "out", shard_tokens=400, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "out"]
    assert (tmp_path / "out" / "manifest.json").read_bytes() == old


def test_a_failing_rename_puts_the_old_folder_back(tmp_path, tokenizer, monkeypatch):
    source, out = write(tmp_path, [document(0)]), tmp_path / "out"
    prepare(source, tokenizer, out, valid=0)
    rename = os.rename

    def fail(old, new):
        if os.path.basename(old).startswith(writing.UNFINISHED):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(old, new)

    monkeypatch.setattr(writing.os, "rename", fail)
    with pytest.raises(ModelFileError, match="out: cannot be written: Input/output error"):
        prepare(source, tokenizer, out, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "out"] and len(os.listdir(out)) == 4


def test_progress_counts_bytes_of_the_files(tmp_path, tokenizer):
    folder = tmp_path / "in"
    write(folder, [document(i) for i in range(10)])
    (folder / "b.txt.xz").write_bytes(data_corpora.PACKERS[".xz"](b"text"))
    total = sum(entry.stat().st_size for entry in folder.iterdir())
    told = []
    prepare(folder, tokenizer, tmp_path / "out", report=lambda *both: told.append(both))
    assert told == sorted(told) and told[-1] == (total, total) and {each for _, each in told} == {total}


def test_fingerprints(tmp_path, path, tokenizer):
    tiny_tokenizers.write_json(tmp_path, 400)
    first = fingerprint(open_tokenizer(tmp_path))
    assert first == fingerprint(tokenizer) == fingerprint(open_tokenizer(path))
    text = json.loads((tmp_path / "tokenizer.json").read_text())
    text["model"]["merges"][-2:] = text["model"]["merges"][:-3:-1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(text))
    assert fingerprint(open_tokenizer(tmp_path)) != first
    assert fingerprint(open_tokenizer(data_corpora.native(tmp_path / "a.gguf", size=401))) != first


def test_an_interrupt_leaves_nothing(tmp_path, tokenizer):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(write(tmp_path, [document(0)]), tokenizer, tmp_path / "out", report=interrupt)
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_documents_in_which_a_tokenizer_sees_nothing(tmp_path, tokenizer, monkeypatch):
    """More of them than one group holds; the others stay in order."""
    plain = type(tokenizer.coder).encode_array
    none = np.empty(0, np.int32)
    monkeypatch.setattr(
        type(tokenizer.coder), "encode_array", lambda c, data: none if b"no3" in data else plain(c, data)
    )
    texts = [document(i, 2) for i in range(1000)]
    found = prepare(write(tmp_path, texts), tokenizer, tmp_path / "out", valid=0)
    expected = [text for text in texts if "no3" not in text]
    assert found["dropped"]["empty"] == 1000 - len(expected) == 111
    assert kept(tmp_path / "out", tokenizer) == {"train": expected}


def test_an_error_of_the_tokenizer_ends_it(tmp_path, tokenizer, monkeypatch):
    def fail(coder, data):
        raise ValueError("no such text")

    monkeypatch.setattr(type(tokenizer.coder), "encode_array", fail)
    with pytest.raises(ValueError, match="no such text"):
        prepare(write(tmp_path, [document(i) for i in range(1000)]), tokenizer, tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.jsonl"]
