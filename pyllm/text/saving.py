"""Tokenizers to files: a folder's files are copied, a GGUF file's vocabulary becomes a tokenizer.json."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from pyllm.errors import TokenizerError
from pyllm.formats.folder import TOKENIZERS
from pyllm.text.pre_tokenizers import byte_level, description_of

if TYPE_CHECKING:
    from pyllm.text.gguf import Metadata
    from pyllm.text.tokenizer import Tokenizer

UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
FILES = (
    *TOKENIZERS,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "vocab.json"),
    *("target.spm", "target_vocab.json", "chat_template.jinja", "chat_template.json"),
)
SPACE = "\u2581"


def copied(folder: str) -> dict[str, bytes]:
    """The tokenizer's files of a folder: name -> bytes. Raises TokenizerError when they are gone."""
    found = {}
    for name in FILES:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            with open(path, "rb") as file:
                found[name] = file.read()
    if not {*TOKENIZERS} & set(found):
        raise TokenizerError(f"{folder}: its tokenizer is gone since it was read")
    return found


def described(tokenizer: Tokenizer, meta: Metadata) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json that give the ids of a GGUF vocabulary. Raises TokenizerError."""
    tokens = [tokenizer.coder.name(i) for i in range(tokenizer.vocab_size)]
    if len(set(tokens)) != len(tokens):
        raise TokenizerError("tokenizer.ggml.tokens: a spelling stands twice, which tokenizer.json cannot say")
    kinds = [tokenizer.coder.vocabulary.kind(i) for i in range(len(tokens))]  # type: ignore[attr-defined]
    parts = _byte_pairs(meta, tokens) if meta.text("ggml.model") == "gpt2" else _score_pairs(meta, tokens, kinds)
    added = [
        {"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": kind != USER_DEFINED}
        for i, kind in enumerate(kinds) if kind in (CONTROL, UNKNOWN, USER_DEFINED)
    ]  # fmt: skip
    document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts}
    document["post_processor"] = _around(tokenizer) or parts["post_processor"]
    names = {f"{kind}_token": getattr(tokenizer, f"{kind}_token") for kind in ("bos", "eos", "pad", "unk")}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {name: text for name, text in names.items() if text is not None}
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template
    found = {"tokenizer.json": document, "tokenizer_config.json": config}
    return {name: (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode() for name, value in found.items()}


def _around(tokenizer: Tokenizer) -> dict[str, Any] | None:
    """The post-processor that puts ids before and after a text."""
    before, after = ([tokenizer.coder.name(i) for i in ids] for ids in (tokenizer.coder.before, tokenizer.coder.after))
    if not before and not after:
        return None

    def sequence(letter: str, kind: int) -> list[Any]:
        special = ([{"SpecialToken": {"id": name, "type_id": kind}} for name in names] for names in (before, after))
        first, last = special
        return [*first, {"Sequence": {"id": letter, "type_id": kind}}, *last]

    ids = dict(zip(before + after, [*tokenizer.coder.before, *tokenizer.coder.after], strict=True))
    special = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in ids.items()}
    pair = sequence("A", 0) + sequence("B", 1)
    return {"type": "TemplateProcessing", "single": sequence("A", 0), "pair": pair, "special_tokens": special}


def bpe_model(tokens: list[str], merges: list[list[str]], **changes: Any) -> dict[str, Any]:
    """The field `model` of tokenizer.json."""
    model: dict[str, Any] = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return model | changes | {"vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}


def _byte_pairs(meta: Metadata, tokens: list[str]) -> dict[str, Any]:
    """Byte-level BPE: merges whose parts and sum are tokens, in order of rank."""
    cut, whole_words = description_of(meta.text("ggml.pre") or "default")
    known = set(tokens)
    pairs = [text.split(" ", 1) for text in meta.strings("merges") or ()]
    for pair in pairs:
        if len(pair) != 2 or pair[0] not in known or pair[1] not in known or "".join(pair) not in known:
            raise TokenizerError(f"tokenizer.ggml.merges: {' '.join(pair)!r} is not made of tokens")
    return {
        "normalizer": None,
        "pre_tokenizer": cut,
        "post_processor": byte_level(),
        "decoder": byte_level(),
        "model": bpe_model(tokens, pairs, ignore_merges=whole_words),
    }


def _score_pairs(meta: Metadata, tokens: list[str], kinds: list[int]) -> dict[str, Any]:
    """SentencePiece's BPE: two tokens whose sum is a token merge, better scores first, the left one among equals.

    As ranks of merges this is exact where no two tokens have the same score; other files are refused.
    """
    scores = meta.numbers("scores", np.float32)
    plain = {token for token, kind in zip(tokens, kinds, strict=True) if kind not in (CONTROL, UNKNOWN, BYTE)}
    merged: list[tuple[float, list[list[str]]]] = []
    for token, score in zip(tokens, scores.tolist() if scores is not None else [], strict=True):
        if token in plain:
            pairs = [[token[:i], token[i:]] for i in range(1, len(token)) if {token[:i], token[i:]} <= plain]
            if pairs:
                merged.append((-score, pairs))
            elif len(token) > 1 and not set(token) <= plain:
                raise TokenizerError(f"tokenizer.ggml.tokens: {token!r} has a character that is no token")
    merged.sort(key=lambda each: each[0])
    if len({score for score, _ in merged}) != len(merged):
        raise TokenizerError("tokenizer.ggml.scores: equal for several tokens, an order that tokenizer.json cannot say")
    prefix = meta.flag("add_space_prefix", True)
    start = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    unknown = next((token for token, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None)
    ranks = [pair for _, pairs in merged for pair in sorted(pairs, key=lambda each: -len(each[0]))]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*start, spaces]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": bpe_model(tokens, ranks, unk_token=unknown, fuse_unk=True, byte_fallback=True),
    }
