"""Every reader of pyllm.data beside json, pyarrow and Python's own splitting; damage and truncation have names."""

import json
import lzma
import os
import random
import subprocess
import sys

import data_corpora
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.data import readers, sources
from pyllm.data.cleaning import repair
from pyllm.errors import DataError


def read(path, **options):
    """Every record of a file or folder."""
    return [record for source in sources.find([path]) for record in readers.records(source, **options)]


def cut_up(data, seed):
    """Bytes in pieces of 0 to 9 bytes."""
    rng = random.Random(seed)
    at = 0
    while at < len(data):
        size = rng.randrange(10)
        yield data[at : at + size]
        at += size


@pytest.mark.parametrize("pack", data_corpora.PACKERS)
def test_jsonl_is_what_json_reads(tmp_path, pack):
    some = ["a", "", "\u00e9\n\t\u4e2d", "x" * 100_000, "\U0001f600"]
    rows = [{"text": text, "n": i} for i, text in enumerate(some)]
    path = data_corpora.jsonl(tmp_path / "a.jsonl", rows, pack)
    found = read(path)
    assert [record.text for record in found] == [row["text"] for row in rows]
    assert [record.line for record in found] == [1, 2, 3, 4, 5]
    plain = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for record, row in zip(found, rows, strict=True):
        assert json.loads(plain[record.offset :].split(b"\n")[0]) == row


@pytest.mark.parametrize("pack", data_corpora.PACKERS)
@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string(), pyarrow.binary()])
def test_parquet_is_what_pyarrow_reads(tmp_path, pack, kind):
    rows = [f"row {i} \u00e9" for i in range(300)]
    table = pyarrow.table({"id": list(range(300)), "text": pyarrow.array(rows, pyarrow.string()).cast(kind)})
    plain = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, plain, row_group_size=70)
    path = tmp_path / f"b.parquet{pack}"
    path.write_bytes(data_corpora.PACKERS[pack](plain.read_bytes()))
    assert [record.text.decode() for record in read(path)] == rows


def test_parquet_columns_that_are_no_text(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2], "text": ["a", None]}), path)
    assert [(r.text, r.wrong) for r in read(path)] == [(b"a", ""), ("", "bad_record")]
    with pytest.raises(DataError, match=r"a\.parquet: column 'body': is missing; there are id, text"):
        read(path, text_field="body")
    with pytest.raises(DataError, match=r"a\.parquet: column 'id': is of type int64; text"):
        read(path, text_field="id")


@pytest.mark.parametrize("pack", data_corpora.PACKERS)
def test_a_text_is_cut_into_documents_that_are_the_text(tmp_path, pack):
    rng = random.Random(0)
    words = [rng.choice(["a", "bc", "\u00e9\u4e2d", "\n", "\n\n", "word"]) for _ in range(50_000)]
    text = " ".join(words)
    (tmp_path / f"a.txt{pack}").write_bytes(data_corpora.PACKERS[pack](text.encode()))
    found = read(tmp_path / f"a.txt{pack}")
    assert b"".join(record.text for record in found).decode() == text
    assert all(readers.PIECE // 2 < len(record.text) <= readers.PIECE for record in found[:-1])
    assert all(record.text.endswith(b"\n\n") for record in found[:-1])
    assert [record.offset for record in found] == [sum(len(r.text) for r in found[:i]) for i in range(len(found))]


@pytest.mark.parametrize("mark", ["", " ", "\n", "\n\n"])
def test_where_a_text_is_cut(tmp_path, mark):
    """At the strongest mark there is; without one between characters, never inside."""
    part = "\u4e2d" * 1000 + mark
    (tmp_path / "a.txt").write_text(part * 30, newline="")
    found = [record.text.decode() for record in read(tmp_path / "a.txt")]
    assert len(found) > 4 and "".join(found) == part * 30
    assert all(text.endswith(mark or "\u4e2d") for text in found)
    (tmp_path / "b.txt").write_text("a b\n\nc " + "\u4e2d" * 9000, newline="")  # not at a mark in the first half
    assert len(read(tmp_path / "b.txt")[0].text) > readers.PIECE - 3


def test_a_short_text_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert [record.text for record in read(tmp_path / "a.txt")] == [b"one\n\ntwo\n"]
    (tmp_path / "b.txt").write_text("")
    assert [record.text for record in read(tmp_path / "b.txt")] == [b""]


@given(st.lists(st.sampled_from(["a", "\n", "\n\n", " ", "\t", "bc", "\u00e9", "--"]), max_size=30), st.integers(0, 9))
def test_documents_between_blank_lines(parts, seed):
    text = "".join(parts)
    expected, held = [], []
    for line in [*text.split("\n"), ""]:
        if line.strip(" \t"):
            held.append(line)
        elif held:
            expected.append("\n".join(held))
            held = []
    found = readers._paragraphs(cut_up(text.encode(), seed))
    assert [record.text.decode() for record in found] == expected


@given(
    st.lists(st.sampled_from(["a", "\n", "<|", "|>", "<|end|>", "end", "<|<|end|>", "\u00e9"]), max_size=30),
    st.sampled_from(["<|end|>", "a", "\n\n", "\u00e9"]),
    st.integers(0, 9),
)
def test_documents_between_separators(parts, mark, seed):
    text = "".join(parts)
    found = [record.text.decode() for record in readers._separated(cut_up(text.encode(), seed), mark.encode())]
    expected = [part.strip("\n") for part in text.split(mark)]
    if len(expected) > 1 and not text.split(mark)[-1].strip():
        expected.pop()
    assert found == expected


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"a", b"\r\n", b"\xef\xbb\xbf", b"\xef"]), max_size=20), st.integers(0, 9)
)
def test_newlines_and_byte_order_marks_across_pieces(parts, seed):
    data = b"".join(parts)
    expected = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert b"".join(readers._unix(cut_up(data, seed))) == expected


@given(st.binary(max_size=60).map(lambda b: b.replace(b"\r", b"\n")), st.integers(0, 9), st.integers(0, 12))
def test_lines(data, seed, longest):
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    expected = [line if len(line) <= longest else None for line in lines]
    found = list(readers._lines(cut_up(data, seed), longest))
    assert [line for _, _, line in found] == expected
    assert [number for number, _, _ in found] == list(range(1, len(lines) + 1))
    assert [offset for _, offset, _ in found] == [sum(len(x) + 1 for x in lines[:i]) for i in range(len(lines))]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"{", "not JSON: Expecting property name enclosed in double quotes at column 2"),
        (b"[1]", "a list; an object with the field 'text'"),
        (b"7", "a number; an object"),
        (b'{"a": 1}', "field 'text' is missing; a text is wanted"),
        (b'{"text": null}', "field 'text' is null; a text is wanted"),
        (b'{"text": ["a"]}', "field 'text' is a list"),
        (b'{"text": true}', "field 'text' is true or false"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"text": ' + b"9" * 10_000 + b"}", "Exceeds the limit"),
    ],
)
def test_bad_lines_are_told(tmp_path, line, found):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n\n' + line + b"\n" + b'{"text": "too"}')
    good, bad, other = read(tmp_path / "a.jsonl")
    assert (good.text, other.text) == ("fine", "too")
    assert (bad.line, bad.offset, bad.wrong) == (3, 18, "bad_record") and found in bad.found


def test_what_is_too_long_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LONGEST", 1000)
    long = "x" * 3000
    (tmp_path / "a.jsonl").write_text(f'{{"text": "{long}"}}\n{{"text": "b"}}\n')
    assert [(r.text, r.wrong) for r in read(tmp_path / "a.jsonl")] == [("", "too_long"), ("b", "")]
    (tmp_path / "a.txt").write_text(f"a\n\nb\n{long}\nc\n\nd")
    found = read(tmp_path / "a.txt", separator="blank")
    assert [(r.text, r.wrong) for r in found] == [(b"a", ""), ("", "too_long"), (b"d", "")]
    (tmp_path / "b.txt").write_text(f"a--{long}--d--{'y' * 1001}")
    found = read(tmp_path / "b.txt", separator="--")
    assert [(r.text, r.wrong) for r in found] == [(b"a", ""), ("", "too_long"), (b"d", ""), ("", "too_long")]
    pyarrow.parquet.write_table(pyarrow.table({"text": [long, "b"]}), tmp_path / "a.parquet")
    assert [(r.text, r.wrong) for r in read(tmp_path / "a.parquet")] == [("", "too_long"), (b"b", "")]


@pytest.mark.parametrize("size", [1000, 5000])
def test_separators_that_lie_across_what_is_let_go(monkeypatch, size):
    monkeypatch.setattr(readers, "LONGEST", 10)
    text = ("x" * size + "<|end|>" + "y" + "<|end|>").encode()
    for seed in range(20):
        found = list(readers._separated(cut_up(text, seed), b"<|end|>"))
        assert [(r.text, r.wrong, r.offset) for r in found] == [("", "too_long", 0), (b"y", "", size + 7)]


@pytest.mark.parametrize("pack", [".gz", ".xz", ".zst"])
def test_every_truncation_and_every_flipped_byte_has_a_name(tmp_path, pack):
    rng = random.Random(1)
    plain = bytes(rng.randrange(97, 123) for _ in range(300))
    whole = data_corpora.PACKERS[pack](plain)
    path = tmp_path / f"a.txt{pack}"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"a\.txt\{pack}: \w+, text at 0x\w+: (the file ends early|damaged)"):
            read(path)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        try:
            found = b"".join(record.text for record in read(path))
        except DataError as error:
            assert error.file == str(path) and error.offset is not None
        else:  # names and dates in a header say nothing of the text; zstandard has no sum here
            assert pack != ".xz" and len(found) <= len(plain)


@pytest.mark.parametrize("pack", [".gz", ".xz", ".zst"])
def test_several_streams_in_one_file(tmp_path, pack):
    packed = data_corpora.PACKERS[pack]
    path = tmp_path / f"a.txt{pack}"
    path.write_bytes(packed(b"one ") + packed(b"two ") + packed(b"three"))
    assert [record.text for record in read(path)] == [b"one two three"]
    path.write_bytes(packed(b"one ") + packed(b"two ")[:-3])
    with pytest.raises(DataError, match=rf"a\.txt\{pack}: .*: the file ends early"):
        read(path)
    path.write_bytes(packed(b"one ") + b"garbage that is no stream")
    with pytest.raises(DataError, match=f"a.txt{pack}"):
        read(path)
    path.write_bytes(packed(b""))
    assert [record.text for record in read(path)] == [b""]


def test_truncated_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [data_corpora.document(i) for i in range(200)]}), path)
    whole = path.read_bytes()
    for size in [0, 3, 4, 8, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a\.parquet: damaged or no parquet"):
            read(path)
    path.write_bytes(whole[:200] + bytes(200) + whole[400:])
    with pytest.raises(DataError, match=r"a\.parquet: damaged or no parquet"):
        read(path)


@pytest.mark.parametrize("text", ["a\u00e9", "a\u4e2d", "a\U0001f600"])
def test_a_text_that_ends_inside_a_character(tmp_path, text):
    (tmp_path / "a.txt").write_bytes(text.encode()[:-1])
    (record,) = read(tmp_path / "a.txt")
    assert repair(record.text)[:2] == ("a\ufffd", 1)


def test_a_folder_is_walked_in_sorted_order(tmp_path):
    folders = [f"b{i}/a.txt" for i in (5, 3, 9, 1, 7, 2)]
    for name in [
        "b.txt",
        "a/z.txt.gz",
        "a/c.jsonl",
        "a.txt",
        ".hidden.txt",
        ".git/x.txt",
        "model.bin",
        "c.parquet",
        *folders,
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = sources.find([tmp_path])
    names = [source.path.removeprefix(f"{tmp_path}/") for source in found]
    assert names == ["a.txt", "b.txt", "c.parquet", "a/c.jsonl", "a/z.txt.gz", *sorted(folders)]
    assert [(s.kind, s.packing) for s in found[3:5]] == [("jsonl", ""), ("txt", "gzip")]


def test_what_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "empty").mkdir()
    for path, said in {
        "absent.txt": "absent.txt: cannot be opened: No such file or directory",
        "pipe.txt": "pipe.txt: is a named pipe; a regular file is wanted",
        "empty": "empty: no text in this folder; files ending .txt",
    }.items():
        with pytest.raises(DataError, match=said):
            sources.find([tmp_path / path])
    with pytest.raises(DataError, match="texts: none; at least one file or folder"):
        sources.find([])


@pytest.mark.parametrize(("name", "package"), [("a.parquet", "pyarrow.parquet"), ("a.txt.zst", "zstandard")])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ImportError, match=rf"need the package `{package}`: pip install 'pyllm\[data\]'"):
        read(tmp_path / name)


def test_a_huge_dictionary_is_refused(tmp_path):
    """An xz file may ask for 4 GB before its first byte."""
    packed = lzma.compress(b"x", format=lzma.FORMAT_ALONE)
    (tmp_path / "a.txt.xz").write_bytes(packed[:1] + b"\0\0\0\x80" + packed[5:])
    with pytest.raises(DataError, match=r"a\.txt\.xz: xz, text at 0x0: damaged: Memory usage limit"):
        read(tmp_path / "a.txt.xz")


def test_archives_and_configurations_are_no_text(tmp_path):
    for name in ("a.tar", "a.tar.gz", "a.ZIP"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(DataError, match=f"{name}: is an archive; unpacked files"):
            sources.find([tmp_path / name])
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a.txt").write_text("a")
    assert [source.path for source in sources.find([tmp_path])] == [str(tmp_path / "a.txt")]
    assert sources.find([tmp_path / "config.json"])[0].kind == "jsonl"


def test_the_room_needs_no_extra():
    code = "import sys, pyllm.data; print([m for m in ('pyarrow', 'zstandard', 'tokenizers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
