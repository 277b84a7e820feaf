"""How byte-level vocabularies cut text into words: tokenizer.json's description <-> GGUF's `tokenizer.ggml.pre`."""

from __future__ import annotations

from typing import Any

from pyllm.errors import TokenizerError, printable

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_FIRST, _SPACES = r"[^\r\n\p{L}\p{N}]?", r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = rf"{_ENDINGS}|{_FIRST}\p{{L}}+"
_MARKS = r"| ?[^\s\p{L}\p{N}]+"


def _cased(ending: str) -> str:
    """Words whose capitals stand in front."""
    return rf"{_FIRST}{_UPPER}*{_LOWER}+{ending}|{_FIRST}{_UPPER}+{_LOWER}*{ending}"


# gpt-4o and tekken are the expressions that those models were trained with; reading GGUF, llama.cpp and so pyllm take
# letters beyond ASCII for capitals and small ones at once, and may cut words with combining marks elsewhere.
# Stages of a description: ("digits",), ("split", regular expression), ("bytes", with GPT-2's own expression or not).
_BYTES = ("bytes", False)
STAGES: dict[str, tuple[tuple[Any, ...], ...]] = {
    "gpt-2": (("bytes", True),),
    "smollm": (("digits",), ("bytes", True)),
    "dbrx": (("split", rf"{_CASED}|\p{{N}}{{1,3}}{_MARKS}[\r\n]*{_SPACES}"), _BYTES),
    "qwen2": (("split", rf"{_CASED}|\p{{N}}{_MARKS}[\r\n]*{_SPACES}"), _BYTES),
    "gpt-4o": (("split", rf"{_cased(_ENDINGS + '?')}|\p{{N}}{{1,3}}{_MARKS}[\r\n/]*{_SPACES}"), _BYTES),
    "tekken": (("split", rf"{_cased('')}|\p{{N}}{_MARKS}[\r\n/]*{_SPACES}"), _BYTES),
}

# Names that mean the same; those of WHOLE_WORDS also take a word that is a token without merging it.
ALIASES = {
    "gpt-2": "a.x-4.0 exaone4 gigachat granite-docling jais jina-de jina-es mellum mpt olmo phi-2 trillion",
    "smollm": "codeshell command-r exaone mellum2 minerva-7b refact starcoder",
    "dbrx": "chatglm-bpe falcon-h1 falcon3 glm4 glm5 jina-v5-nano lfm2 llama-bpe llama-v3 llama3 midm-2.0 pixtral "
    "smaug-bpe",
    "qwen2": "deepseek-r1-qwen f2llmv2 grok-2 hunyuan kormo megrez solar-open stablelm2",
    "gpt-4o": "kanana2 llama4 minimax-m2 talkie",
}
_SAME = {name: first for first, names in ALIASES.items() for name in names.split()}
WHOLE_WORDS = {
    *("falcon-h1", "falcon3", "glm4", "glm5", "jina-v5-nano", "lfm2", "llama-bpe", "llama-v3", "llama3", "midm-2.0"),
    *("pixtral", "tekken"),
}
_WITH_WHOLE_WORDS = {"dbrx": "llama-bpe"}


def name_of(description: Any, whole_words: bool) -> str:
    """`tokenizer.ggml.pre` for the pre_tokenizer of a tokenizer.json. Raises TokenizerError."""
    parts = description.get("pretokenizers", [description]) if isinstance(description, dict) else []
    stages = tuple(stage for stage in map(_stage, parts if isinstance(parts, list) else [parts]) if stage)
    for name, known in STAGES.items():
        if stages == known:
            found = _WITH_WHOLE_WORDS.get(name, name) if whole_words else name
            if whole_words == (found in WHOLE_WORDS):
                return found
    rule = " with ignore_merges" if whole_words else ""
    raise TokenizerError(
        f"tokenizer.json: pre_tokenizer {printable(repr(description))}{rule} has no name in GGUF that pyllm knows; "
        f"known are those of {', '.join(STAGES)}"
    )


def _stage(part: Any) -> tuple[Any, ...] | None:
    """One part of a description; ("other",) for what no known name has."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "ByteLevel" and not part.get("add_prefix_space"):
        return ("bytes", bool(part.get("use_regex", True)))
    if kind == "Digits" and part.get("individual_digits"):
        return ("digits",)
    pattern = part.get("pattern") if kind == "Split" else None
    if isinstance(pattern, dict) and part.get("behavior") == "Isolated" and not part.get("invert"):
        return ("split", str(pattern.get("Regex")).replace(r"'(?i:[sdmt]|ll|ve|re)", _ENDINGS))
    return ("other",)


def description_of(name: str) -> tuple[dict[str, Any], bool]:
    """(pre_tokenizer of a tokenizer.json, ignore_merges) for a `tokenizer.ggml.pre`. Raises TokenizerError."""
    stages = STAGES.get(_SAME.get(name, name))
    if stages is None:
        known = ", ".join(sorted({*STAGES, *_SAME}))
        found = f"{printable(repr(name))} cannot be said in tokenizer.json"
        raise TokenizerError(f"tokenizer.ggml.pre: {found}; {known} can")
    parts = [_PARTS[stage[0]](*stage[1:]) for stage in stages]
    cut = parts[0] if len(parts) == 1 else {"type": "Sequence", "pretokenizers": parts}
    return cut, name in WHOLE_WORDS


def byte_level(use_regex: bool = True) -> dict[str, Any]:
    """Bytes as visible characters, as GPT-2 has them."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


_PARTS: dict[str, Any] = {
    "bytes": byte_level,
    "digits": lambda: {"type": "Digits", "individual_digits": True},
    "split": lambda regex: {
        "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False
    },
}  # fmt: skip
