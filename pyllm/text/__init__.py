"""Text to token ids and back, and chat templates; knows no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyllm.text.encoding import BatchEncoding
from pyllm.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pyllm.formats import GGUF

__all__ = ["BatchEncoding", "Tokenizer", "from_folder", "from_gguf", "gguf_fields"]


def from_gguf(gguf: GGUF) -> Tokenizer:
    """The tokenizer that a GGUF file describes. Raises TokenizerError, naming the file and the field."""
    from pyllm.text.gguf import load

    return load(gguf)


def from_folder(folder: Any) -> Tokenizer:
    """The tokenizer.json of a Hugging Face folder. Raises TokenizerError; ImportError without `tokenizers`."""
    from pyllm.text.hugging_face import load

    return load(folder)


def gguf_fields(tokenizer: Tokenizer, size: int) -> dict[str, Any]:
    """GGUF metadata of a tokenizer read from a folder, for `size` embeddings. Raises TokenizerError."""
    from pyllm.text import vocabulary

    return vocabulary.gguf_fields(tokenizer, size)
