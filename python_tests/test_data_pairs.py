"""Pairs of texts: every way to write them down, what is dropped and refused, batches as functions of the position."""

import gzip
import json

import numpy as np
import pytest
import tiny_tokenizers

from pyllm.auto import AutoTokenizer
from pyllm.data import Pair, Pairs, read_pairs
from pyllm.errors import DataError

TEXTS = [("one two", "eins zwei"), ("three", "drei vier fünf"), ("a", "b")]
START = 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tok")
    tiny_tokenizers.write_json(folder, 400)
    return AutoTokenizer.from_pretrained(folder)


def written(folder):
    """The same pairs in every form."""
    tabs = "".join(f"{s}\t{t}\n" for s, t in TEXTS)
    (folder / "a.tsv").write_text("\n" + tabs)
    (folder / "b.tsv.gz").write_bytes(gzip.compress(tabs.replace("\n", "\r\n").encode()))
    (folder / "c.jsonl").write_text("".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in TEXTS))
    for i, name in enumerate(("d.en", "d.de")):
        (folder / name).write_text("\n".join(pair[i] for pair in TEXTS))
    return [[folder / "a.tsv"], [folder / "b.tsv.gz"], [folder / "c.jsonl"], [folder / "d.en", folder / "d.de"]]


def test_every_form_gives_the_same_pairs(tmp_path, tokenizer):
    wanted = [Pair(*pair) for pair in TEXTS]
    assert list(read_pairs(TEXTS)) == wanted
    found = []
    for paths in written(tmp_path):
        assert list(read_pairs(paths, parallel=len(paths) == 2)) == wanted
        found.append(Pairs(paths, tokenizer, 64, START, parallel=len(paths) == 2).identity)
    assert len(set(found)) == 1


def test_a_row_is_source_and_target_end_to_end(tokenizer):
    end = tokenizer.eos_token_id
    data = Pairs(TEXTS, tokenizer, 64, START)
    for number, (source, target) in enumerate(TEXTS):
        s, t = ([*tokenizer.coder.encode(text, False), end] for text in (source, target))
        row = data.row(number)
        assert row.ids.tolist() == [*s, START, *t[:-1]]
        assert row.targets.tolist() == [-100] * len(s) + t
        assert row.starts.tolist() == [0, len(s), len(s) + len(t)]
        assert [each.tolist() for each in data.sides(number)] == [s, t]
    batch = data.batch(1, 5)  # over the end of an epoch
    assert len(batch.starts) == 11 and batch.starts[-1] == len(batch.ids) == len(batch.targets)
    again = [data.batch(p, 1) for p in range(1, 6)]
    assert np.concatenate([each.ids for each in again]).tolist() == batch.ids.tolist()
    assert sorted(tuple(data.batch(p, 1).ids) for p in range(3)) == sorted(tuple(data.row(i).ids) for i in range(3))


def test_empty_and_long_pairs_are_dropped_and_counted(tokenizer):
    data = Pairs([*TEXTS, ("", "x"), ("x", ""), ("a " * 80, "b")], tokenizer, 64, START)
    assert data.report["dropped"] == {"empty": 2, "too_long": 1}
    assert (data.report["records"], data.report["kept"]) == (6, 3)
    with pytest.raises(DataError, match="no pair is left of 1: 1 empty, 0 too_long"):
        Pairs([("", "x")], tokenizer, 64, START)


def test_some_are_held_out_by_their_content(tokenizer):
    data = Pairs([(str(i), str(i + 1)) for i in range(30)], tokenizer, 16, START)
    rest, held = data.held_out(5)
    backwards = Pairs([(str(i), str(i + 1)) for i in range(29, -1, -1)], tokenizer, 16, START).held_out(5)[1]
    assert (len(rest), len(held)) == (25, 5)
    assert {tuple(held.row(i).ids) for i in range(5)} == {tuple(backwards.row(i).ids) for i in range(5)}


def test_bad_files_are_refused_by_line(tmp_path, tokenizer):
    def file(name, text):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / name

    refused = [
        ([file("a.tsv", "x\ty\nz\n")], "a.tsv: line 2 at 0x4: 1 fields between tabs; two, source and target"),
        ([file("b.tsv", "x\ty\tz\n")], "b.tsv: line 1 at 0x0: 3 fields"),
        ([file("c.tsv", b"x\t\xff\n")], "c.tsv: line 1 at 0x2: not UTF-8"),
        ([file("d.jsonl", '{"source": "a"}\n')], "d.jsonl: line 1 at 0x0: source; an object with the texts"),
        ([file("e.jsonl", "[1]\n")], "e.jsonl: line 1 at 0x0: list; an object"),
        ([file("f.en", "a\nb\n"), file("f.de", "a\n")], "f.de: 1 lines, the other file has more"),
        ([("a", 3)], "pair 0: .*two texts"),
        ([tmp_path / "nothing.tsv"], "nothing.tsv"),
    ]
    for pairs, text in refused:
        with pytest.raises(DataError, match=text):
            Pairs(pairs, tokenizer, 64, START, parallel=len(pairs) == 2)
    with pytest.raises(DataError, match="length 1; at least 2"):
        Pairs(TEXTS, tokenizer, 1, START)
