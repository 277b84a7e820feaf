"""Text to token ids and back, and chat templates; knows no model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pyllm.text.encoding import BatchEncoding
from pyllm.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pyllm.formats import GGUF

__all__ = ["BatchEncoding", "Tokenizer", "from_folder", "from_gguf", "gguf_fields", "train", "train_files"]


def from_gguf(gguf: GGUF) -> Tokenizer:
    """The tokenizer that a GGUF file describes. Raises TokenizerError, naming the file and the field."""
    from pyllm.text.gguf import load

    return load(gguf)


def from_folder(folder: Any, **languages: str | None) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: of tokenizer.json, or of what else stands there. Raises TokenizerError.

    languages: src_lang and tgt_lang, of tokenizers whose texts bear one.

    Without the package `tokenizers` it reads MarianMT's files, what train() writes and its like, and raises ImportError
    for the rest.
    """
    from pyllm.text.folders import load

    return load(folder, **languages)


def train(texts: str | bytes | Iterable[str | bytes], kind: str = "bpe", **settings: Any) -> Tokenizer:
    """A tokenizer trained on texts: "bpe", "word" or "char". Settings and rules: text.training.train."""
    from pyllm.text import training

    return training.train(texts, kind, **settings)


def train_files(paths: Any, kind: str = "bpe", **settings: Any) -> Tokenizer:
    """A tokenizer trained on a text file or several, also packed. Settings and rules: text.training.train."""
    from pyllm.text import training

    return training.train_files(paths, kind, **settings)


def gguf_fields(tokenizer: Tokenizer, size: int) -> dict[str, Any]:
    """GGUF metadata of a tokenizer read from a folder, for `size` embeddings. Raises TokenizerError."""
    from pyllm.text import vocabulary

    return vocabulary.gguf_fields(tokenizer, size)
