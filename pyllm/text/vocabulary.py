"""A folder's tokenizer as GGUF metadata: `tokenizer.ggml.*` from tokenizer.json."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from pyllm.errors import TokenizerError, printable
from pyllm.text.pre_tokenizers import name_of
from pyllm.text.saving import BYTE, CONTROL, SPACE, UNKNOWN, USER_DEFINED

log = logging.getLogger("pyllm")

NORMAL, UNUSED = 1, 5


def gguf_fields(tokenizer: Any, size: int) -> dict[str, Any]:
    """Key -> value for a tokenizer read from a folder, and a model with `size` embeddings; missing tokens are padded.

    Byte-level BPE becomes the model "gpt2", BPE with byte fallback "llama", whose scores are the ranks of the merges.
    Raises TokenizerError for what GGUF cannot say.
    """
    coder = tokenizer.coder
    document = coder.document()
    model = document["model"]
    level = any(step.get("type") == "ByteLevel" for step in _steps(document["decoder"], "decoders"))
    if model.get("type") != "BPE" or not (level or model.get("byte_fallback")):
        found = printable(repr(model.get("type")))
        raise TokenizerError(f"tokenizer.json: model {found}; byte-level or SentencePiece BPE")
    if tokenizer.vocab_size > size:
        raise TokenizerError(f"tokenizer.json: {tokenizer.vocab_size:,} tokens, the model has {size:,} embeddings")
    tokens, kinds = _tokens(document, level, size)
    pairs = [tuple(each.split(" ", 1)) if isinstance(each, str) else tuple(each) for each in model["merges"]]
    fields = _byte_pairs(document, pairs) if level else _score_pairs(document, pairs, tokens)
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    ids |= {"unknown": tokenizer.unk_token_id, "padding": tokenizer.pad_token_id}
    fields |= {f"{name}_token_id": i for name, i in ids.items() if i is not None}
    fields |= {"tokens": tokens, "token_type": np.array(kinds, np.int32)}
    fields["add_bos_token"] = _adds("before", coder.before, tokenizer.bos_token_id)
    fields["add_eos_token"] = _adds("after", coder.after, tokenizer.eos_token_id)
    named = {f"tokenizer.ggml.{name}": value for name, value in fields.items()}
    if tokenizer.chat_template is not None:
        named["tokenizer.chat_template"] = tokenizer.chat_template
    return named


def _tokens(document: dict[str, Any], level: bool, size: int) -> tuple[list[str], list[int]]:
    """Spelling and kind of each id."""
    added = {token["id"]: token for token in document["added_tokens"]}
    names = {i: name for name, i in document["model"]["vocab"].items()}
    names |= {i: token["content"] for i, token in added.items()}
    tokens, kinds = [], []
    for i in range(size):
        name = names.get(i, f"[PAD{i}]")
        kind = NORMAL if i in names else UNUSED
        if not level and len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            kind = BYTE
        if i in added:
            kind = CONTROL if added[i]["special"] else USER_DEFINED
        if name == document["model"].get("unk_token"):
            kind = UNKNOWN
        tokens.append(name)
        kinds.append(kind)
    return tokens, kinds


def _adds(where: str, ids: list[int], known: int | None) -> bool:
    """Does the post-processor put this one id there, or none?"""
    if ids and ids != [known]:
        raise TokenizerError(f"tokenizer.json: ids {ids} stand {where} a text; none, or the one that the config names")
    return bool(ids)


def _byte_pairs(document: dict[str, Any], pairs: list[tuple[str, ...]]) -> dict[str, Any]:
    """The model gpt2."""
    normalizer = document["normalizer"]
    if normalizer is not None and normalizer.get("type") != "NFC":
        raise TokenizerError(f"tokenizer.json: normalizer {printable(repr(normalizer))}; none or NFC")
    if normalizer is not None:
        log.warning("tokenizer.json: GGUF knows no NFC; text that is not composed will have other ids")
    pre = name_of(document["pre_tokenizer"], bool(document["model"].get("ignore_merges")))
    return {"model": "gpt2", "pre": pre, "merges": [" ".join(pair) for pair in pairs]}


def _score_pairs(document: dict[str, Any], pairs: list[tuple[str, ...]], tokens: list[str]) -> dict[str, Any]:
    """The model llama: a token's score is minus the rank of the first merge that gives it."""
    steps = _steps(document["normalizer"], "normalizers")
    cuts = _steps(document["pre_tokenizer"], "pretokenizers")
    known = {"Prepend", "Replace", "Metaspace", "Split"}
    for step in steps + cuts:
        text = {step.get("prepend"), step.get("content"), step.get("replacement")} - {None}
        plain = step.get("pattern", {"String": " "}) == {"String": " "} and text <= {SPACE}
        if step.get("type") not in known or not plain or (step["type"] == "Metaspace" and step.get("split", True)):
            raise TokenizerError(f"tokenizer.json: {printable(repr(step))}; spaces as {SPACE}, before the text or not")
    prefix = any(s["type"] == "Prepend" or s.get("prepend_scheme", "never") != "never" for s in steps + cuts)
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(pairs):
        ranks.setdefault("".join(pair), rank)
    scores = np.array([-float(ranks.get(token, len(pairs))) for token in tokens], np.float32)
    return {"model": "llama", "pre": "default", "scores": scores, "add_space_prefix": prefix}


def _steps(value: Any, inner: str) -> list[dict[str, Any]]:
    """A description as the list of its parts."""
    if value is None:
        return []
    parts: list[dict[str, Any]] = value.get(inner, [value])
    return parts
