"""BERT's and MPNet's tokenizer from vocab.txt alone, as the first folders have it. Wu et al. 2016, arXiv:1609.08144."""

from __future__ import annotations

import os
from typing import Any

from pyllm.errors import TokenizerError, printable
from pyllm.text.spellings import SEPARATED, content

FILE, LIMIT = "vocab.txt", 64 << 20
NAMES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
MPNET = SEPARATED | {"unk_token": "[UNK]"}


def names_of(folder: Any) -> dict[str, str]:
    """What the family of a folder calls its special tokens, by tokenizer_class, else by config.json."""
    kind = folder.tokenizer_config.get("tokenizer_class")
    if not isinstance(kind, str) or kind.startswith(("PreTrained", "Tokenizers")):
        kind = folder.raw_config.get("model_type") if folder.has("config.json") else ""
    return MPNET if str(kind).lower().startswith("mpnet") else NAMES


def word_piece(folder: Any) -> Any:
    """A `tokenizers.Tokenizer` of a token a line, with the settings of tokenizer_config.json.

    do_lower_case (true unless said), strip_accents (as do_lower_case), tokenize_chinese_chars. Raises TokenizerError
    for a file without the special tokens or with a token twice, ImportError without `tokenizers`.
    """
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    except ImportError:
        raise ImportError(f"{FILE} needs the package `tokenizers`: pip install 'pyllm[hf]'") from None
    usual = names_of(folder)
    config = {**usual, **folder.special_tokens_map, **folder.tokenizer_config}
    lines = (folder.text(FILE, LIMIT) or "").split("\n")
    tokens = [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    where = f"{printable(os.path.basename(os.path.normpath(folder.path)))}: {FILE}"
    if len(vocabulary) != len(tokens):
        twice = next(token for i, token in enumerate(tokens) if vocabulary[token] != i)
        raise TokenizerError(f"{where}: {printable(twice)!r} stands twice; a line for each token")
    names = {key: content(config[key]) for key in usual}
    missing = [name for name in names.values() if name not in vocabulary]
    if missing:
        raise TokenizerError(f"{where}: no {printable(', '.join(missing))}; a line for each special token")
    found = Tokenizer(models.WordPiece(vocabulary, unk_token=names["unk_token"]))
    lower = config.get("do_lower_case", True) is not False
    strip, chinese = config.get("strip_accents"), config.get("tokenize_chinese_chars", True) is not False
    strip = strip if isinstance(strip, bool) else None
    found.normalizer = normalizers.BertNormalizer(True, chinese, strip, lower)
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.decoder = decoders.WordPiece(prefix="##")
    sep, cls = ((names[f"{each}_token"], vocabulary[names[f"{each}_token"]]) for each in ("sep", "cls"))
    mpnet = usual is MPNET  # whose mask stands for a word with the space before it
    found.post_processor = (processors.RobertaProcessing if mpnet else processors.BertProcessing)(sep, cls)
    special = dict.fromkeys(names.values())
    found.add_special_tokens([AddedToken(each, lstrip=mpnet and each == names["mask_token"]) for each in special])
    return found
