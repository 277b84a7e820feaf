"""Byte-level BPE from vocab.json and merges.txt alone (GPT-2, RoBERTa, BART, Qwen2), as tokenizer.json describes it."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyllm.errors import TokenizerError, printable
from pyllm.text.pre_tokenizers import byte_level, description_of
from pyllm.text.spellings import SEPARATED, added_tokens, content

IDS, MERGES, LIMIT = "vocab.json", "merges.txt", 256 << 20
_END = "<|endoftext|>"


class Kind(NamedTuple):
    """What a family makes of the two files."""

    names: dict[str, str]  # of special tokens, where no file says others
    pre: str = "gpt-2"  # how text is cut into words
    surrounded: bool = False  # <s> A </s></s> B </s>
    composed: bool = False  # to NFC


KINDS = {
    "roberta": Kind(SEPARATED, surrounded=True),
    "bart": Kind(SEPARATED, surrounded=True),
    "longformer": Kind(SEPARATED, surrounded=True),
    "gpt2": Kind({"bos_token": _END, "eos_token": _END, "unk_token": _END}),
    "qwen2": Kind({"eos_token": _END, "unk_token": _END, "pad_token": _END}, "qwen2", composed=True),
}


def kind_of(folder: Any, ids: dict[str, int], name: str) -> Kind:
    """By tokenizer_class, else by config.json, else by the vocabulary. Raises TokenizerError for other families."""
    given = folder.tokenizer_config.get("tokenizer_class")
    family = given.removesuffix("Fast").removesuffix("Tokenizer").lower() if isinstance(given, str) else ""
    if family in ("", "pretrained", "tokenizersbackend"):
        family = str(folder.raw_config.get("model_type") or "") if folder.has("config.json") else ""
    if not family:
        family = "roberta" if {"<s>", "</s>"} <= set(ids) else "gpt2"
    if family not in KINDS:
        raise TokenizerError(f"{name}: {IDS} and {MERGES} of {printable(repr(family))}; one of {', '.join(KINDS)}")
    return KINDS[family]


def describe(folder: Any, name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """(the value of a tokenizer.json, names of the special tokens). Raises TokenizerError, ModelFileError."""
    if not folder.has(IDS):
        raise TokenizerError(f"{name}: {MERGES} without {IDS}; both")
    ids = folder.ids(IDS)
    kind = kind_of(folder, ids, name)
    config = {**kind.names, **folder.special_tokens_map, **folder.tokenizer_config}
    prefix = config.get("add_prefix_space") is True
    pre = description_of(kind.pre)[0]
    pre.get("pretokenizers", [pre])[-1]["add_prefix_space"] = prefix
    pair = (("sep", content(config.get("sep_token"))), ("cls", content(config.get("cls_token"))))
    around = None
    if kind.surrounded:
        lacking = [text for _, text in pair if text not in ids]
        if lacking:
            raise TokenizerError(f"{name}: {IDS}: no {printable(', '.join(lacking))}; an id for each special token")
        around = {"type": "RobertaProcessing", "trim_offsets": True, "add_prefix_space": prefix}
        around |= {short: [text, ids[text]] for short, text in pair}
    elif config.get("add_bos_token") is True:
        around = _begun(content(config.get("bos_token")), ids, name)
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
             "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": ids, "merges": merges(folder, ids, name)}  # fmt: skip
    # A mask stands for a word with the space before it, as the families' own tokenizer.json files have it.
    added = added_tokens(folder, ids, kind.names, name, {"mask_token": {"lstrip": True}} if kind.surrounded else {})
    parts = {"normalizer": {"type": "NFC"} if kind.composed else None, "pre_tokenizer": pre, "post_processor": around}
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts}
    return {**whole, "decoder": byte_level() | {"add_prefix_space": True}, "model": model}, kind.names


def merges(folder: Any, ids: dict[str, int], name: str) -> list[list[str]]:
    """The lines of merges.txt as pairs. Raises TokenizerError that names the line."""
    found = []
    for number, line in enumerate((folder.text(MERGES, LIMIT) or "").split("\n"), 1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        where = f"{name}: {MERGES}: line {number}"
        if len(pair) != 2:
            raise TokenizerError(f"{where}: {printable(repr(line))}; two tokens, a space between them")
        unknown = next((each for each in (*pair, "".join(pair)) if each not in ids), None)
        if unknown is not None:
            raise TokenizerError(f"{where}: {printable(repr(unknown))} is not in {IDS}; tokens that are, and their sum")
        found.append(pair)
    return found


def _begun(bos: str, ids: dict[str, int], name: str) -> dict[str, Any]:
    """What puts a token before each text."""
    if bos not in ids:
        raise TokenizerError(f"{name}: {IDS}: no {printable(bos)}, which add_bos_token asks for; an id for it")
    parts = [
        each
        for kind, text in enumerate("AB")
        for each in ({"SpecialToken": {"id": bos, "type_id": kind}}, {"Sequence": {"id": text, "type_id": kind}})
    ]
    special = {bos: {"id": bos, "ids": [ids[bos]], "tokens": [bos]}}
    return {"type": "TemplateProcessing", "single": parts[:2], "pair": parts, "special_tokens": special}
