"""Repairs and rules of pyllm.data, each with a document that just stays and one that just goes."""

import errno
import os
import tracemalloc
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.data import seen
from pyllm.data.cleaning import RULES, Repaired, Rules, broken_rule, repair, repeated, symbols
from pyllm.errors import DataError


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"plain", ("plain", 0, 0)),
        (b"\xef\xbb\xbfmark", ("mark", 0, 0)),
        ("\ufeffmark", ("mark", 0, 0)),
        (b"a\xffb\xc3", ("a\ufffdb\ufffd", 2, 0)),
        ("\ufffd stood there".encode() + b"\xff", ("\ufffd stood there\ufffd", 1, 0)),
        ("lone \ud800 half", ("lone \ufffd half", 1, 0)),
        ("a\r\nb\rc\n", ("a\nb\nc\n", 0, 0)),
        ("a\0b\x07c\x85d\x7f\te", ("abcd\te", 0, 4)),
        ("e\u0301", ("e\u0301", 0, 0)),
    ],
)
def test_repair(raw, expected):
    assert tuple(repair(raw)) == expected


def test_composed_on_request():
    assert repair("e\u0301", nfc=True).text == "\u00e9"


@given(st.binary(max_size=40))
def test_repaired_bytes_are_clean(raw):
    text, bad, _ = repair(raw)
    assert text.encode("utf-8").decode("utf-8") == text
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in text)
    assert bad == raw.decode("utf-8", "replace").count("\ufffd") - raw.count("\ufffd".encode())
    assert repair(text).text == text or text.startswith("\ufeff")


CASES = {
    "too_long": (Rules(max_chars=5), ["abcde"], ["abcdef"]),
    "bad_encoding": (Rules(max_bad=0.5), [b"ab\xff\xff"], [b"a\xff\xff"]),
    "empty": (Rules(min_chars=0), [" a"], ["", " \n\t", "\ufeff", "\0\0", "\u3000"]),
    "too_short": (Rules(min_chars=3), ["abc"], ["ab"]),
    "repeated_lines": (Rules(max_repeated=0.4), ["abc\nd\nabc\ne"], ["abc\nabc"]),
    "not_text": (Rules(max_symbols=0.5), ["ab--", "\u4e2d\u6587\u3002", "1 2"], ["a--", "\u2592" * 9, "*"]),
}


@pytest.mark.parametrize("rule", CASES)
def test_each_rule(rule):
    rules, stay, go = CASES[rule]
    assert [broken_rule(repair(raw), rules) for raw in stay] == [""] * len(stay)
    assert [broken_rule(repair(raw), rules) for raw in go] == [rule] * len(go)


def test_every_rule_has_a_case():
    assert set(RULES) - set(CASES) == {"bad_record", "duplicate"}  # of readers, and of Seen


def test_counts_of_rules():
    assert repeated("a\n\n\nbb\na\nbb\nbb") == 5 and repeated("a\nb") == 0
    assert symbols("a b_1\n") == 0 and symbols("--\u20ac+") == 4
    every = "".join(map(chr, range(128)))
    assert symbols(every) + 1 == symbols(every + "\u20ac") == sum(not c.isalnum() and not c.isspace() for c in every)
    assert broken_rule(Repaired("a" * 1000, 11, 0), Rules()) == "bad_encoding"


def test_rules_that_make_no_sense():
    for wrong in ({"min_chars": -1}, {"min_chars": 9, "max_chars": 8}, {"max_bad": 1.5}, {"max_symbols": -0.1}):
        with pytest.raises(DataError, match="prepare: "):
            Rules(**wrong).check()


@given(st.lists(st.integers(0, 40), max_size=200))
def test_seen_is_a_set(numbers):
    met = set()
    with seen.Seen() as table:
        for number in numbers:
            digest = seen.content_hash(str(number))
            assert table.add(digest) == (digest not in met)
            met.add(digest)
        assert len(table) == len(met)


def test_seen_grows_and_keeps_what_it_saw(monkeypatch):
    monkeypatch.setattr(seen, "_FIRST", 4)
    digests = [seen.content_hash(str(i)) for i in range(3000)]
    with seen.Seen() as table:
        assert all(table.add(digest) for digest in digests)
        assert not any(table.add(digest) for digest in digests)
        crowded = [b"\1" * 8 + i.to_bytes(8, "little") for i in range(50)]  # all want the same slot
        assert all(table.add(digest) for digest in crowded)
        assert not any(table.add(digest) for digest in crowded)


def test_seen_holds_no_memory_of_python():
    tracemalloc.start()
    with seen.Seen() as table:
        for number in range(50_000):
            table.add(blake2b(number.to_bytes(4, "little"), digest_size=16).digest())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(table) == 50_000 and peak < 100_000  # a set of them would take 5 MB


def test_a_hash_is_never_the_mark_of_an_empty_slot(monkeypatch):
    class Zero:
        def digest(self):
            return bytes(16)

    monkeypatch.setattr(seen, "blake2b", lambda data, digest_size: Zero())
    with seen.Seen() as table:
        assert table.add(seen.content_hash("a")) and not table.add(seen.content_hash("a"))


@pytest.mark.parametrize("way", ["posix_fallocate", "write"])
def test_a_full_disk_is_told_before_a_page_is_touched(monkeypatch, way):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if way == "write":
        monkeypatch.delattr(os, "posix_fallocate")
        with seen.Seen() as table:
            assert table.add(b"1" * 16) and not table.add(b"1" * 16)
    monkeypatch.setattr(seen, "_FIRST", 4)
    table = seen.Seen()
    assert table.add(b"1" * 16) and table.add(b"2" * 16)
    monkeypatch.setattr(os, way, full)
    with pytest.raises(DataError, match="duplicates: the table of 8 hashes cannot be written: No space left"):
        table.add(b"3" * 16)
    assert len(table) == 2
    table.close()
