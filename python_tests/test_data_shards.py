"""Shards beside numpy, and shards that lie: every field of the manifest, every byte of the files."""

import hashlib
import json
import os
import shutil

import data_corpora
import numpy as np
import pytest

from pyllm.data import Packed, Shards, prepare
from pyllm.data.fingerprint import open_tokenizer
from pyllm.errors import DataError, ModelFileError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return open_tokenizer(data_corpora.native(tmp_path_factory.mktemp("tok") / "tok.gguf"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer):
    """A folder of several shards of both splits; tests copy what they damage."""
    folder = tmp_path_factory.mktemp("made")
    source = data_corpora.jsonl(folder / "a.jsonl", [{"text": data_corpora.document(i, i % 19)} for i in range(60)])
    prepare(source, tokenizer, folder / "shards", valid=0.2, shard_tokens=200)
    return folder / "shards"


@pytest.fixture
def copied(tmp_path, made):
    return shutil.copytree(made, tmp_path / "shards")


def stream(folder, split="train"):
    """(all tokens, all document starts) of a split with numpy alone."""
    ids, starts = [np.empty(0, np.uint16)], []
    for shard in json.loads((folder / "manifest.json").read_text())["shards"]:
        if shard["split"] == split:
            before = sum(map(len, ids))
            starts += (np.fromfile(folder / shard["file"].replace(".bin", ".idx"), "<u8") + before).tolist()
            ids.append(np.fromfile(folder / shard["file"], "<u2"))
    return np.concatenate(ids).astype(np.int32), np.array(starts)


def test_any_range_of_the_stream(made):
    shards = Shards(made, verify=True)
    ids, starts = stream(made)
    assert shards.tokens == len(ids) and shards.documents == len(shards) == len(starts)
    assert len(shards.manifest.shards) > 4 and "train" in repr(shards)
    rng = np.random.default_rng(0)
    for _ in range(300):
        low, high = np.sort(rng.integers(0, len(ids) + 1, 2))
        found = shards.read(int(low), int(high - low))
        assert found.dtype == np.int32 and np.array_equal(found, ids[low:high])
        assert np.array_equal(shards.starts(int(low), int(high)), starts[(starts >= low) & (starts < high)])
    ends = [*starts[1:], len(ids)]
    for number in range(len(shards)):
        assert np.array_equal(shards.document(number), ids[starts[number] : ends[number]])


def test_identities_tell_data_apart(made, copied):
    assert Shards(made).identity == Shards(copied, "valid").identity
    damage(copied, lambda value: value["shards"].pop())
    assert Shards(made).identity != Shards(copied).identity


def test_what_lies_outside(made):
    shards = Shards(made)
    for start, count in [(-1, 2), (0, shards.tokens + 1), (shards.tokens, 1), (5, -1)]:
        with pytest.raises(DataError, match="tokens: "):
            shards.read(start, count)
    for number in (-1, shards.documents):
        with pytest.raises(DataError, match=f"document: {number}; 0 to {shards.documents - 1}"):
            shards.document(number)
    with pytest.raises(DataError, match=r"manifest\.json: split 'test': has no tokens; there are train, valid"):
        Shards(made, "test")


def test_another_tokenizer_is_refused(made, tmp_path, tokenizer):
    Shards(made, tokenizer=tokenizer)
    other = data_corpora.native(tmp_path / "other.gguf", size=401)
    with pytest.raises(DataError, match=r"manifest\.json: tokenizer: another one, \w{16}\.\.\.; the tokenizer \w{16}"):
        Shards(made, tokenizer=other)


def damage(folder, change):
    """The manifest after a change."""
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


WRONG = {
    "format": ["other", None, 1], "version": [0, 2, "1", None, True, 1.5], "dtype": ["int8", None, 16, ["uint16"]],
    "vocabulary": [0, -1, 65537, 2**40, "400", 400.0, None, True], "eos": [-1, 400, "1", 1.0],
    "tokenizer": [None, "abc", "G" * 64, 7], "shards": [[], {}, None, [1], ["train-00000.bin"]],
    "shards.file": ["../train-00000.bin", "/etc/passwd", "train-00000.idx", "x.bin", None, 5, "valid-00000.bin",
                    "train-00000.bin/", "train-9.bin"],
    "shards.tokens": [0, -5, 2**60, "7", 7.0, None, True, 999], "shards.documents": [0, 10**9, None, "1", 2],
    "shards.sha256": [None, "", "0" * 63, "A" * 64], "shards.starts_sha256": [None, 3],
    "shards.split": ["test", None, "valid"],
}  # fmt: skip


@pytest.mark.parametrize("field", WRONG)
def test_every_field_of_the_manifest_is_checked(copied, field):
    text = (copied / "manifest.json").read_text()
    for wrong in WRONG[field]:
        name = field.split(".")[-1]

        def change(value, name=name, wrong=wrong):
            (value["shards"][0] if "." in field else value)[name] = wrong

        damage(copied, change)
        with pytest.raises(DataError, match=r"manifest|tokens|document starts"):
            Shards(copied)
        (copied / "manifest.json").write_text(text)
        if name != "eos":  # which may be missing: there are tokenizers without one
            damage(copied, lambda value, name=name: (value["shards"][0] if "." in field else value).pop(name))
            with pytest.raises(DataError):
                Shards(copied)
        (copied / "manifest.json").write_text(text)
    Shards(copied, verify=True)


def test_a_shard_that_stands_twice(copied):
    damage(copied, lambda value: value["shards"].append(value["shards"][0]))
    with pytest.raises(DataError, match=r"'shards': train-00000\.bin stands twice"):
        Shards(copied)


def test_texts_that_are_no_manifest(copied):
    for text in [b"", b"{", b"[]", b"null", b"\xff", b"[" * 10_000, b'{"format": "pyllm-shards", "format": 1}']:
        (copied / "manifest.json").write_bytes(text)
        with pytest.raises(DataError, match=r"manifest\.json"):
            Shards(copied)
    os.unlink(copied / "manifest.json")
    with pytest.raises(DataError, match=r"manifest\.json: cannot be opened: No such file"):
        Shards(copied)
    with pytest.raises(DataError, match="is not a folder"):
        Shards(copied / "absent")


@pytest.mark.parametrize("name", ["train-00001.bin", "train-00001.idx", "valid-00000.bin"])
def test_files_that_are_missing_cut_or_long(copied, name):
    split = name[:5]
    data = (copied / name).read_bytes()
    for other in (data[:-1], data[: len(data) // 2], b"", data + b"\0"):
        (copied / name).write_bytes(other)
        with pytest.raises(DataError, match=rf"{name}: .* of {split}-\d+\.bin at 0x[0-9a-f]+: [\d,]+ bytes; [\d,]+"):
            Shards(copied, split)
    os.unlink(copied / name)
    with pytest.raises(DataError, match=f"{name}: .*: cannot be opened"):
        Shards(copied, split)
    os.mkfifo(copied / name)
    with pytest.raises(DataError, match=f"{name}: .*: is a named pipe"):
        Shards(copied, split)


def test_a_file_cut_while_it_is_read(copied):
    """Its pages are gone, and touching them would end the process."""
    shards = Shards(copied)
    packed = Packed(shards, 16)
    os.truncate(copied / "train-00000.bin", 10)
    with pytest.raises(DataError, match=r"train-00000\.bin: tokens of .* at 0xa: 10 bytes; "):
        shards.read(0, 50)
    os.truncate(copied / "train-00001.idx", 0)
    with pytest.raises(DataError, match=r"train-0000\d\.(idx|bin)"):
        packed.batch(0, len(packed))


def test_closed_shards(made):
    with Shards(made) as shards:
        pass
    with pytest.raises(DataError, match="the shards have been closed"):
        shards.read(0, 1)


@pytest.mark.parametrize("place", [0, 57, 199])
def test_a_token_beyond_the_vocabulary(copied, place):
    with open(copied / "train-00001.bin", "r+b") as file:
        file.seek(2 * place)
        file.write((400).to_bytes(2, "little"))
    shards = Shards(copied)
    first = shards.manifest.shards[0].tokens
    starts = np.fromfile(copied / "train-00001.idx", "<u8")
    document = int((starts <= place).sum())
    said = rf"train-00001\.bin: token {place}, document {document} at 0x{2 * place:x}: token id 400; 0 to 399"
    with pytest.raises(DataError, match=said):
        shards.read(first, 250)
    assert len(shards.read(0, first)) == first
    with pytest.raises(DataError, match=r"train-00001\.bin: tokens of .*: sha256"):
        Shards(copied, verify=True)


def test_sums_that_fit_and_ids_that_do_not(copied):
    """A manifest made by an enemy: verify reads the ids too."""
    data = (copied / "train-00000.bin").read_bytes()[:-2] + b"\xff\xff"
    (copied / "train-00000.bin").write_bytes(data)
    damage(copied, lambda value: value["shards"][0].update(sha256=hashlib.sha256(data).hexdigest()))
    with pytest.raises(DataError, match="token id 65,535; 0 to 399"):
        Shards(copied, verify=True)


@pytest.mark.parametrize("wrong", [[1], [0, 0], [0, 9, 5], [0, 10**6], [0, 2**63 + 5], [2**64 - 1]])
def test_document_starts_that_lie(copied, wrong):
    path = copied / "train-00000.idx"
    starts = np.fromfile(path, "<u8")
    starts[: len(wrong)] = wrong
    path.write_bytes(starts.tobytes())
    value = hashlib.sha256(starts.tobytes()).hexdigest()
    damage(copied, lambda manifest: manifest["shards"][0].update(starts_sha256=value))
    said = rf"train-00000\.idx: start of document {len(wrong)} at 0x[0-9a-f]+: -?[\d,]+; ascending from 0, below \d+"
    with pytest.raises(DataError, match=said):
        Shards(copied, verify=True)
    shards = Shards(copied)
    with pytest.raises(DataError, match=r"train-00000\.idx: start of document"):
        for number in range(len(shards)):
            shards.document(number)


def test_every_flipped_byte_is_found(copied):
    for name in ("train-00000.bin", "train-00000.idx"):
        data = (copied / name).read_bytes()
        for at in range(0, len(data), 17):
            (copied / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with pytest.raises(DataError, match=f"{name}: .*sha256"):
                Shards(copied, verify=True)
        (copied / name).write_bytes(data)


def test_every_cut_manifest_is_refused(copied):
    text = (copied / "manifest.json").read_bytes().rstrip()
    for size in range(len(text)):
        (copied / "manifest.json").write_bytes(text[:size])
        with pytest.raises(ModelFileError):
            Shards(copied)
