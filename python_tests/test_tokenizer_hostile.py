"""Vocabularies that contradict themselves: one TokenizerError that names file, field and value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import text_cases as cases
from test_tokenizer import scores_metadata, tokenizer

from pyllm import _core
from pyllm.errors import TokenizerError

BYTES = cases.tiny_tokenizers.byte_characters()


def changed(kind: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A good vocabulary with some fields replaced; None removes one."""
    metadata = scores_metadata(True) if kind == "llama" else cases.byte_level([*BYTES, "ab"], ["a b"], 0, "gpt-2")
    for name, value in changes.items():
        metadata.pop(f"tokenizer.ggml.{name}", None)
        if value is not None:
            metadata[f"tokenizer.ggml.{name}"] = value
    return metadata


def strings(*items: str) -> Any:
    return cases.string_array([i.encode() for i in items])


SIZE = len(scores_metadata(True)["tokenizer.ggml.tokens"])
TOKENS = [*scores_metadata(True)["tokenizer.ggml.tokens"]]
TYPES = scores_metadata(True)["tokenizer.ggml.token_type"]
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("gpt2", {"tokens": None}, "tokenizer.ggml.tokens: missing"),
    ("gpt2", {"tokens": "abc"}, "tokenizer.ggml.tokens: str; an array of strings"),
    ("gpt2", {"tokens": strings(), "token_type": None}, "tokenizer.ggml.tokens: 0 tokens"),
    ("gpt2", {"tokens": strings(*BYTES, "a")}, "'a' is both token 97 and token 256"),
    ("gpt2", {"tokens": strings(*BYTES, "x" * 70_000)}, r"tokens\[256\]: 70000 bytes; at most 65535"),
    ("gpt2", {"model": "bert"}, "tokenizer.ggml.model: 'bert'; 'gpt2' or 'llama'"),
    ("gpt2", {"model": None}, "tokenizer.ggml.model: None; 'gpt2' or 'llama'"),
    ("gpt2", {"model": 7}, "tokenizer.ggml.model: int; a string"),
    ("gpt2", {"merges": None}, "tokenizer.ggml.merges: missing"),
    ("gpt2", {"merges": np.arange(3)}, "tokenizer.ggml.merges: ndarray; an array of strings"),
    ("gpt2", {"merges": strings("a b", "ab")}, r"merges\[1\]: 'ab' is not two parts"),
    ("gpt2", {"merges": strings("")}, r"merges\[0\]: '' is not two parts"),
    ("gpt2", {"merges": strings("a ")}, r"merges\[0\]: 'a ' is not two parts"),
    ("gpt2", {"merges": strings(" ")}, r"merges\[0\]: ' ' is not two parts"),
    ("gpt2", {"token_type": np.ones(3, np.int32)}, "token_type: 3 entries for 257 tokens; one per token"),
    ("gpt2", {"token_type": np.ones(258, np.int32)}, "token_type: 258 entries for 257 tokens"),
    ("gpt2", {"token_type": np.full(257, 9, np.int32)}, r"token_type\[0\]: 9; 0 to 6"),
    ("gpt2", {"token_type": np.full(257, -1, np.int32)}, r"token_type\[0\]: -1; 0 to 6"),
    ("gpt2", {"token_type": strings("a")}, "token_type: StringArray; an array of numbers"),
    ("gpt2", {"token_type": np.full(257, 6, np.int32)}, r"tokens\[0\]: byte token .*; <0x00> to <0xFF>"),
    ("gpt2", {"bos_token_id": 257}, "bos_token_id: 257; a token id, 0 to 256"),
    ("gpt2", {"eos_token_id": -1}, "eos_token_id: -1; a token id"),
    ("gpt2", {"padding_token_id": 2**63}, "padding_token_id: 9223372036854775808; a token id"),
    ("gpt2", {"unknown_token_id": "0"}, "unknown_token_id: '0'; a token id"),
    ("gpt2", {"bos_token_id": True}, "bos_token_id: True; a token id"),
    ("gpt2", {"add_bos_token": 1}, "add_bos_token: 1; true or false"),
    ("gpt2", {"pre": 5}, "tokenizer.ggml.pre: int; a string"),
    ("gpt2", {"pre": "\x1b[31m"}, r"tokenizer.ggml.pre: '\\x1b\[31m' is not known"),
    ("llama", {"scores": None}, "tokenizer.ggml.scores: missing"),
    ("llama", {"scores": np.zeros(5, np.float32)}, f"scores: 5 entries for {SIZE} tokens"),
    ("llama", {"scores": np.full(SIZE, np.nan, np.float32)}, r"scores\[0\]: .*nan; finite"),
    ("llama", {"scores": np.full(SIZE, np.inf, np.float32)}, r"scores\[0\]: inf; finite"),
    ("llama", {"tokens": strings(*TOKENS[:7], "<0x-1>", *TOKENS[8:])}, r"tokens\[7\]: byte token '<0x-1>'"),
    ("llama", {"tokens": strings(*TOKENS[:7], "<0xZZ>", *TOKENS[8:])}, r"tokens\[7\]: byte token '<0xZZ>'"),
    ("llama", {"tokens": strings(*TOKENS[:7], "<0x1>", *TOKENS[8:])}, r"tokens\[7\]: byte token '<0x1>'"),
    ("llama", {"tokens": strings(*TOKENS[:7], "<0x0a>", *TOKENS[8:])}, r"tokens\[7\]: byte token '<0x0a>'"),
    ("llama", {"add_space_prefix": "yes"}, "add_space_prefix: 'yes'; true or false"),
]


@pytest.mark.parametrize("kind, changes, message", CASES, ids=range(len(CASES)))
def test_contradictions_are_named(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=r"^test.gguf: ") as caught:
        tokenizer(changed(kind, changes))
    assert caught.match(message)
    assert str(caught.value).isprintable()


def test_missing_byte_tokens_need_an_unknown_token() -> None:
    fields = scores_metadata(True)
    fields["tokenizer.ggml.tokens"] = strings(*TOKENS[:6], "<0xAB>x", *TOKENS[7:])
    fields["tokenizer.ggml.token_type"] = np.array([*TYPES[:6], 1, *TYPES[7:]], np.int32)
    assert tokenizer(fields).encode("\0", False)[-1] == 0  # the unknown token
    vocabulary = _core.Vocabulary(b"ab", np.array([0, 1], np.uint64), np.array([1, 1], np.uint64), None)
    with pytest.raises(TokenizerError, match="no byte token '<0x00>' and no unknown token"):
        _core.ScorePairs(vocabulary, np.zeros(2, np.float32), None, True)


def test_strings_outside_the_buffer_are_refused() -> None:
    for start, length in ((0, 4), (3, 1), (2**64 - 1, 1), (1, 2**64 - 1), (4, 0)):
        with pytest.raises(TokenizerError, match=r"tokens\[0\]: \d+ bytes at \d+; the buffer has 3"):
            _core.Vocabulary(b"abc", np.array([start], np.uint64), np.array([length], np.uint64), None)
    with pytest.raises(TokenizerError, match="2 starts and 1 lengths"):
        _core.Vocabulary(b"abc", np.zeros(2, np.uint64), np.ones(1, np.uint64), None)


def test_merges_of_unknown_parts_are_harmless() -> None:
    """A merge may name parts that are no token, and make one that is none; its bytes then stand for it."""
    found = tokenizer(cases.byte_level([*BYTES, "ab"], ["q r", "qr s", "a b", "a b"], 0, "gpt-2"))
    assert found.decode(found.encode("qrs ab", False)) == "qrs ab"


def test_ids_outside_the_vocabulary_are_refused() -> None:
    found = tokenizer(changed("gpt2", {}))
    for token in (-1, 257, 2**40):
        with pytest.raises(TokenizerError, match=f"token id {token}; 0 to 256"):
            found.decode([token])
        with pytest.raises(TokenizerError, match="token id"):
            found.token_bytes(token)
    with pytest.raises(TokenizerError, match="text is int; str or bytes"):
        found.encode(5)  # type: ignore[arg-type]


def test_odd_text_is_read_as_documented() -> None:
    found = tokenizer(changed("gpt2", {}))
    for text in (
        "\0",
        "\ud800",
        "a\ud800\udc00b",
        "\U0010ffff",
        b"\xf4\x90\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        b"\xff" * 50,
    ):
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        assert found.decode(found.encode(text, False)) == data.decode("utf-8", "replace")
