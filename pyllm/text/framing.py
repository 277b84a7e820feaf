"""What a tokenizer's files say of the tokens around a text, so that whoever reads them sees texts as a model has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

from pyllm.text.tokenizer import Tokenizer


def framed(tokenizer: Tokenizer, before: Iterable[int], after: Iterable[int], mask: int | None = None) -> Tokenizer:
    """The tokenizer to be saved with a model that has read texts so: its files put these ids before and after a text,
    and name the token that hides another. Files other than tokenizer.json say so already."""
    found = copy(tokenizer)
    found.files = lambda: _written(tokenizer, [*map(int, before)], [*map(int, after)], mask)
    return found


def _written(tokenizer: Tokenizer, before: list[int], after: list[int], mask: int | None) -> dict[str, bytes]:
    files, coder = tokenizer.files(), tokenizer.coder
    names = "tokenizer.json", "tokenizer_config.json"
    if names[0] not in files:
        return files
    document, config = (json.loads(files.get(name, b"{}")) for name in names)
    if (list(coder.before), list(coder.after)) != (before, after):
        parts = [each for each in processors(document.get("post_processor")) if each.get("type") == "ByteLevel"]
        parts.append(template([coder.name(i) for i in before], [coder.name(i) for i in after], [*before, *after]))
        document["post_processor"] = {"type": "Sequence", "processors": parts} if len(parts) > 1 else parts[0]
    if mask is not None and tokenizer.mask_token_id is None:
        config["mask_token"] = coder.name(mask)
        for each in document.get("added_tokens") or ():
            each["lstrip"] = each["lstrip"] or each["id"] == mask  # it stands for a word with the space before it
    texts = zip(names, (document, config), strict=True)
    return files | {name: (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode() for name, value in texts}


def template(before: list[str], after: list[str], ids: Sequence[int]) -> dict[str, Any]:
    """The post-processor that puts tokens before and after a text; of a pair the second one is followed by them too."""

    def tokens(names: list[str], kind: int) -> list[Any]:
        return [{"SpecialToken": {"id": name, "type_id": kind}} for name in names]

    def text(letter: str, kind: int) -> list[Any]:
        return [{"Sequence": {"id": letter, "type_id": kind}}, *tokens(after, kind)]

    single = [*tokens(before, 0), *text("A", 0)]
    special = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in zip(before + after, ids, strict=True)}
    found = {"type": "TemplateProcessing", "single": single, "pair": [*single, *text("B", 1)]}
    return found | {"special_tokens": special}


def processors(post: Any) -> list[dict[str, Any]]:
    """The post-processors that a tokenizer.json applies one after the other."""
    return [] if post is None else list(post["processors"]) if post.get("type") == "Sequence" else [post]


def around(post: Any) -> tuple[list[int], list[int]] | None:
    """(ids before, ids after) a text of a post-processor that adds no more than these; None of another one."""
    try:
        parts = [each for each in processors(post) if each["type"] != "ByteLevel"]
        if not parts:
            return [], []
        (each,) = parts
        single, special = each["single"], each["special_tokens"]
        at = ["Sequence" in part for part in single].index(True)
        sides = [
            [int(i) for part in side for i in special[part["SpecialToken"]["id"]]["ids"]]
            for side in (single[:at], single[at + 1 :])
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return sides[0], sides[1]
