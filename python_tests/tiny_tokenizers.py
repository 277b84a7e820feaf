"""Small tokenizers for tiny models: byte-level BPE and a SentencePiece type with scores, in tokenizer.json and GGUF.

Ids: 0 <s>, 1 </s>, 2 <unk>, then 256 bytes, then merged pieces made from a few English words until `size` is reached.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf

SPECIAL = ("<s>", "</s>", "<unk>")
WORDS = " the quick brown fox jumps over a lazy dog and then an other thing in that town while it was raining on her"
TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\\n' + message['content'] + '</s>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
)


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, following = {}, 256
    for byte in range(256):
        table[byte] = chr(byte) if byte in plain else chr(following)
        following += byte not in plain
    return [table[byte] for byte in range(256)]


def merges(size: int) -> list[tuple[str, str]]:
    """Pairs that build up the words from the left, then pairs of letters, until there are `size`."""
    space = byte_characters()[32]
    out: dict[tuple[str, str], None] = {}
    for word in WORDS.split():
        piece = space
        for letter in word:
            out[(piece, letter)] = None
            piece += letter
    letters = "etaoinshrdlucmfwypvbgk"
    out |= dict.fromkeys((a, b) for a in letters for b in letters)
    known, chosen = set(), []
    for left, right in out:
        if left + right not in known and len(chosen) < size:
            known.add(left + right)
            chosen.append((left, right))
    if len(chosen) < size:
        raise ValueError(f"tiny tokenizer: {size} merges wanted, at most {len(chosen)} can be made")
    return chosen


def pieces(size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """(vocabulary in order of id, merges in order of rank)."""
    pairs = merges(size - len(SPECIAL) - 256)
    return [*SPECIAL, *byte_characters(), *(a + b for a, b in pairs)], pairs


def write_json(folder: Path, size: int) -> None:
    """tokenizer.json and tokenizer_config.json of the byte-level BPE."""
    vocabulary, pairs = pieces(size)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [
        {
            "id": i,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, text in enumerate(SPECIAL)
    ]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {piece: i for i, piece in enumerate(vocabulary)},
            "merges": [f"{a} {b}" for a, b in pairs],
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def write_fields(writer: gguf.GGUFWriter, size: int, kind: str) -> None:
    """tokenizer.ggml.*: kind "bpe" (model gpt2) or "spm" (model llama, scores)."""
    vocabulary, pairs = pieces(size)
    types = [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.UNKNOWN]
    if kind == "bpe":
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_types(types + [gguf.TokenType.NORMAL] * (size - 3))
        writer.add_token_merges([f"{a} {b}" for a, b in pairs])
    else:
        space = byte_characters()[32]
        merged = [(a + b).replace(space, "▁") for a, b in pairs]
        vocabulary = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *_with_letters(merged, size - 259)]
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(size - 259)])
        writer.add_token_types(types + [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * (size - 259))
    writer.add_token_list(vocabulary)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _with_letters(merged: list[str], size: int) -> list[str]:
    """Merged pieces first (better scores), then the single characters that they are made of."""
    letters = sorted({letter for piece in merged for letter in piece})
    return [piece for piece in merged if len(piece) > 1][: size - len(letters)] + letters


WORD_PIECES = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "capital", "of", "france", "is", "paris", "messi", "foot"),
    *("##ball", "##er", "##s", "great", "un", "##aff", "##able", "a", "b", "c", ".", ",", "!", "'", "jo", "##hn"),
    *("lives", "in", "##n", "york", "new", "very", "exciting", "data", "scientist", "my", "name", "i", "am", "and"),
    *("play", "中"),
)


def write_vocabulary(folder: Path) -> None:
    """vocab.txt of BERT's first folders, small."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORD_PIECES), encoding="utf-8")
