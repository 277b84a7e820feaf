"""Tokenizers of Hugging Face folders: which of their files describe one, and what the settings beside them say."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from pyllm.errors import TokenizerError, printable
from pyllm.formats.folder import TOKENIZERS
from pyllm.formats.json_file import parse_json
from pyllm.text import marian, merge_files, native, piece_files, saving, word_piece
from pyllm.text.gguf import ENDINGS
from pyllm.text.hugging_face import HuggingFaceCoder
from pyllm.text.spellings import content
from pyllm.text.tokenizer import Coder, Tokenizer

LANGUAGES = ("src_lang", "tgt_lang")
SHORT = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
TYPED = ("Bert", "Albert", "Electra")
LONGEST = 1 << 30  # files say 1e30 where they mean that nobody knows


def load(folder: Any, **languages: str | None) -> Tokenizer:
    """The tokenizer of an open folder. Raises TokenizerError that names the file; ImportError without `tokenizers`.

    languages: src_lang and tgt_lang, for those that tokenizer_config.json names. Words and characters as train() writes
    them are read by pyllm's core, byte-level BPE too where `tokenizers` is not installed.
    """
    found = _load(folder)
    given = {name: code for name, code in languages.items() if code is not None}
    if found.src_lang is not None:
        given = {name: code for name in LANGUAGES if (code := folder.tokenizer_config.get(name))} | given
    for name in LANGUAGES:
        if name in given and given[name] != getattr(found, name):
            setattr(found, name, given[name])
    return found


def _load(folder: Any) -> Tokenizer:
    name = os.path.basename(os.path.normpath(os.fspath(folder.path)))
    text = folder.tokenizer_json
    if text is not None:
        return _described(folder, name, "tokenizer.json", text)
    if folder.has(marian.SOURCE):
        source, target = marian.coders(folder, printable(name))
        found = build(source, folder, name, marian.NAMES, marian.LONGEST)
        found.target = build(target, folder, name, marian.NAMES, marian.LONGEST)
        return found
    if folder.has(word_piece.FILE):
        return build(HuggingFaceCoder(word_piece.word_piece(folder)), folder, name, word_piece.names_of(folder))
    if folder.has(merge_files.MERGES):
        document, names = merge_files.describe(folder, printable(name))
        return _described(folder, name, merge_files.IDS, json.dumps(document), names)
    if any(map(folder.has, piece_files.FILES)):
        return _pieces(folder, name)
    raise TokenizerError(f"{printable(name)}: none of {', '.join(TOKENIZERS)}; pyllm reads no other tokenizer")


def _pieces(folder: Any, name: str) -> Tokenizer:
    """The tokenizer of a model of SentencePiece, with one for targets where they are of another language."""
    file, document, names, around = piece_files.describe(folder, printable(name))
    found = _described(folder, name, file, json.dumps(document), names)
    if around != document["post_processor"]:
        found.target = _described(folder, name, file, json.dumps({**document, "post_processor": around}), names)
    return found


def _described(folder: Any, name: str, file: str, text: str, defaults: Mapping[str, str] = {}) -> Tokenizer:
    """The tokenizer of a tokenizer.json, or of what another file says in its words; defaults as build() takes them."""
    try:
        import tokenizers
    except ImportError:
        missing = True
    else:
        missing = False
    if missing or '"WordLevel"' in text:
        path = os.path.join(os.fspath(folder.path), file)
        own = native.open_document(parse_json(text.encode(), path))
        if own is not None:
            return build(own, folder, name, defaults)
    if missing:
        raise ImportError(f"{file} needs the package `tokenizers`: pip install 'pyllm[hf]'")
    try:
        coder = HuggingFaceCoder(tokenizers.Tokenizer.from_str(text))
    except BaseException as error:
        # Rust panics arrive as PanicException, which is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{printable(name)}: {file}: {printable(error)}") from None
    return build(coder, folder, name, defaults)


def build(coder: Coder, folder: Any, name: str, defaults: Mapping[str, str] = {}, most: int | None = None) -> Tokenizer:
    """The tokenizer with the special tokens that tokenizer_config.json and generation_config.json name.

    defaults: what a family calls them (pad_token: ...) where the files are silent; most: its model_max_length.
    """
    config = folder.tokenizer_config
    names = {**defaults, **folder.special_tokens_map, **config}
    special = {short: token_id(coder, names, f"{short}_token") for short in SHORT}
    ends = {i for text in ENDINGS if (i := coder.find(text)) is not None and coder.special(i)}
    ends |= {i for i in [special["eos"]] if i is not None}
    given = folder.generation_config.get("eos_token_id")
    ends |= {i for i in (given if isinstance(given, list) else [given]) if isinstance(i, int)}
    found = Tokenizer(coder, **special, end_ids=ends, chat_template=folder.chat_template, name=name)
    found.files = partial(saving.copied, os.fspath(folder.path))
    found.typed = is_typed(folder, config)
    longest = config.get("model_max_length", most)
    if isinstance(longest, int) and not isinstance(longest, bool) and 0 < longest < LONGEST:
        found.model_max_length = longest
    side = config.get("padding_side")
    if side in ("left", "right"):
        found.padding_side = side
    return found


def is_typed(folder: Any, config: dict[str, Any]) -> bool:
    """Whether models are told the texts of a pair apart: by model_input_names, else as TYPED are."""
    names = config.get("model_input_names")
    if isinstance(names, list):
        return "token_type_ids" in names
    kind = config.get("tokenizer_class")
    if isinstance(kind, str) and not kind.startswith(("PreTrained", "Tokenizers")):
        return kind.startswith(TYPED)
    family = str(folder.raw_config.get("model_type")) if folder.has("config.json") else ""
    return family.startswith(tuple(each.lower() for each in TYPED))


def token_id(coder: Coder, config: Mapping[str, Any], key: str) -> int | None:
    """The id of a special token that the config names by its text or by an object with `content`."""
    text = content(config.get(key))
    return coder.find(text) if text else None
