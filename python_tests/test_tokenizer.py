"""Token ids against ids recorded from llama.cpp (llama-cpp-python 0.3.36) on the same vocabularies: frozen_ids.json."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import text_cases as cases
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm import _core
from pyllm.errors import TokenizerError
from pyllm.formats import GGUF
from pyllm.text import Tokenizer, from_gguf

FROZEN = json.loads(Path(__file__).with_name("frozen_ids.json").read_text(encoding="ascii"))


def digest(ids: list[int]) -> str:
    """What stands for long lists of ids in frozen_ids.json."""
    return hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest()[:16]


def tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer of these fields."""
    return from_gguf(cases.File(metadata))  # type: ignore[arg-type]


def scores_metadata(prefix: bool) -> dict[str, Any]:
    """The SentencePiece vocabulary in frozen_ids.json: six special tokens, 256 bytes, pieces with scores."""
    frozen = FROZEN["scores"]
    pieces = frozen["pieces"]
    tokens = [*frozen["head"], *(f"<0x{byte:02X}>" for byte in range(256)), *(piece for piece, _ in pieces)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": cases.string_array([t.encode() for t in tokens]),
        "tokenizer.ggml.scores": np.array([0.0] * 262 + [score for _, score in pieces], np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3, 3, 4, 4] + [6] * 256 + [1] * len(pieces), np.int32),
        "tokenizer.ggml.add_space_prefix": prefix,
    }


@pytest.fixture(scope="module")
def real(smollm2: str) -> Tokenizer:
    with GGUF(smollm2) as file:
        return from_gguf(file)


@pytest.mark.parametrize("pre", FROZEN["splits"])
def test_words_end_where_llama_cpp_ends_them(pre: str) -> None:
    found = tokenizer(cases.pairs_metadata(pre))
    ids = [found.encode(cases.mixed_text(1500, seed, seed == 3), False) for seed in (1, 2, 3)]
    assert [digest(i) for i in ids] == FROZEN["splits"][pre]


def test_ids_of_the_real_vocabulary(real: Tokenizer) -> None:
    frozen = FROZEN["smollm2"]
    for line, ids in frozen["lines"]:
        assert real.encode(bytes.fromhex(line), False) == ids
    for text, ids in frozen["special"]:
        assert real.encode(text, False, allow_special=True) == ids
    assert [digest(real.encode(cases.mixed_text(3000, seed, True), False)) for seed in (5, 6)] == frozen["mixed"]


def test_the_real_tokenizer_knows_its_special_tokens(real: Tokenizer) -> None:
    assert (real.vocab_size, real.bos_token_id, real.eos_token_id, real.pad_token_id, real.unk_token_id) == (
        49152, 1, 2, 2, 0)  # fmt: skip
    assert real.end_ids == {0, 2, 4}  # <|endoftext|>, <|im_end|>, <reponame>, as llama.cpp's
    assert (real.bos_token, real.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert real.encode("Hello world") == [19556, 905]  # add_bos_token is false


@pytest.mark.parametrize("prefix", [True, False])
def test_scores_merge_as_in_llama_cpp(prefix: bool) -> None:
    found = tokenizer(scores_metadata(prefix))
    frozen = FROZEN["scores"]["prefix"][str(prefix)]
    for kind, special in (("plain", False), ("special", True)):
        for line, ids in frozen[kind]:
            assert found.encode(bytes.fromhex(line), False, special) == ids, bytes.fromhex(line)
    assert [digest(found.encode(cases.mixed_text(1500, seed, True), False)) for seed in (7, 8)] == frozen["mixed"]
    assert found.encode("the", True) == [1, *found.encode("the", False)]  # begins with <s> unless told otherwise


@given(st.text(max_size=60).filter(lambda text: "\u2581" not in text))  # which SentencePiece cannot tell from a space
@settings(max_examples=200, deadline=None)
def test_text_survives_the_round_trip(text: str) -> None:
    for metadata in (ROUND_BYTES, ROUND_SCORES):
        found = metadata
        ids = found.encode(text, False)
        assert found.decode(ids) == text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        stream = found.stream()
        pieces = [stream.put(i) for i in ids]
        assert "".join(pieces) + stream.end() == found.decode(ids)


@given(st.binary(max_size=60), st.sampled_from(["<|a|>", "<|b|>", "<s>", "</s>", "<|im_start|>", "<unk>"]))
@settings(max_examples=200, deadline=None)
def test_text_never_becomes_a_control_token(data: bytes, spelling: str) -> None:
    for found in (ROUND_BYTES, ROUND_SCORES):
        ids = found.encode(data + spelling.encode() + data, False)
        assert not any(found.coder.special(i) for i in ids)


ROUND_BYTES = tokenizer(cases.pairs_metadata("llama-bpe"))
ROUND_SCORES = tokenizer(scores_metadata(False))


def test_a_control_token_that_merges_could_reach_is_not_reached() -> None:
    tokens = [*cases.tiny_tokenizers.byte_characters(), "ab", "abc"]
    metadata = cases.byte_level(tokens, ["a b", "ab c"], 0, "gpt-2")
    metadata["tokenizer.ggml.token_type"][257] = 3
    found = tokenizer(metadata)
    assert found.encode("abc", False) == [256, found.encode("c", False)[0]]
    assert found.encode("abc", False, allow_special=True) == [257]
    scores = scores_metadata(False)
    names = list(scores["tokenizer.ggml.tokens"])
    word = names.index("\u2581the")
    assert tokenizer(scores).encode(" the", False) == [word]
    scores["tokenizer.ggml.token_type"][word] = 3
    assert word not in tokenizer(scores).encode(" the", False)


def test_longer_special_tokens_come_first_and_user_defined_ones_always() -> None:
    tokens = [*cases.tiny_tokenizers.byte_characters(), "<x>", "<x><y>", "<y>!"]
    metadata = cases.byte_level(tokens, ["a b"], 0, "gpt-2")
    metadata["tokenizer.ggml.token_type"][256:] = 4
    found = tokenizer(metadata)
    assert found.encode("<x><y>!<x>", False) == [257, found.encode("!", False)[0], 256]
    metadata["tokenizer.ggml.token_type"][257] = 3
    found = tokenizer(metadata)
    assert found.encode("<x><y>!<x>", False) == [256, 258, 256]
    assert found.encode("<x><y>!<x>", False, True)[0] == 257


def test_streams_hold_back_unfinished_characters(real: Tokenizer) -> None:
    ids = real.encode("日本🙂", False)
    stream = real.stream()
    pieces = [stream.put(i) for i in ids]
    assert "" in pieces and "".join(pieces) == "日本🙂" and stream.end() == ""
    stream.put(ids[0])
    assert stream.end() == "\ufffd"
    assert real.decode([1, *real.encode("Hi", False)], skip_special_tokens=True) == "Hi"


@pytest.mark.parametrize("unit", ["^", "a", " ", "\n", "一", "1", "ab", "<", "🙂"])
def test_long_runs_take_linear_time(unit: str) -> None:
    """T(8n) / T(n) < 2.5 cubed: each doubling costs less than 2.5 times as much."""
    for found in (ROUND_BYTES, ROUND_SCORES):
        count = 300_000 // len(unit.encode())
        small, large = (timed(found, (unit * n).encode()) for n in (count, 8 * count))
        assert large < 15.6 * small + 0.05


def timed(found: Tokenizer, data: bytes) -> float:
    """The better of three runs."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        found.coder.model.encode(data, False)  # type: ignore[attr-defined]
        best = min(best, time.perf_counter() - start)
    return best


def test_ten_megabytes_of_one_character() -> None:
    start = time.perf_counter()
    ids = ROUND_BYTES.coder.model.encode(b"^" * 10_000_000, False)  # type: ignore[attr-defined]
    assert len(ids) == 5_000_000 and time.perf_counter() - start < 20


def test_threads_encode_at_the_same_time() -> None:
    """Same ids from four threads at once, and other threads run meanwhile."""
    text = cases.mixed_text(20_000, 9)
    expected = ROUND_BYTES.encode(text, False)
    results: list[list[int]] = []
    threads = [threading.Thread(target=lambda: results.append(ROUND_BYTES.encode(text, False))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


def test_a_large_vocabulary_loads_fast() -> None:
    """262,144 tokens within 0.3 s where nothing else runs; the test allows a busy machine 1.5 s."""
    characters = cases.tiny_tokenizers.byte_characters()
    letters = characters[33:97]
    words = [a + b + c for a in letters for b in letters for c in letters]  # 64 ** 3 = 262,144
    pairs = [a + b for a in letters for b in letters]
    tokens = [*characters, *pairs, *words][:262_144]
    merges = [f"{t[0]} {t[1]}" if len(t) == 2 else f"{t[:2]} {t[2]}" for t in tokens[256:]]
    best = float("inf")
    metadata = cases.byte_level(tokens, merges, 0, "llama-bpe")
    for _ in range(3):
        start = time.perf_counter()
        found = tokenizer(metadata)
        best = min(best, time.perf_counter() - start)
    assert len(found) == 262_144 and best < 1.5


def test_all_code_points_have_a_class() -> None:
    """Every code point that can be written passes every splitter, and the words are the text again."""
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)])).encode()
    for pre in _core.splitter_names():
        words = _core.split_words(pre, everything)
        assert b"".join(words) == everything and all(words)


def test_unknown_pre_tokenizer_lists_the_known() -> None:
    with pytest.raises(TokenizerError, match=r"test.gguf: tokenizer.ggml.pre: 'odd' is not known; known are a.x-4.0, "):
        tokenizer(cases.byte_level([*cases.tiny_tokenizers.byte_characters()], ["a b"], 0, "odd"))


def test_missing_pre_tokenizer_warns(caplog: pytest.LogCaptureFixture) -> None:
    metadata = cases.pairs_metadata("default")
    text = cases.mixed_text(50, 1)
    expected = tokenizer(metadata).encode(text, False)
    del metadata["tokenizer.ggml.pre"]
    assert tokenizer(metadata).encode(text, False) == expected
    assert "tokenizer.ggml.pre is missing" in caplog.text
