"""Model files: GGUF, safetensors and Hugging Face folders, read without trusting a byte of them."""

from __future__ import annotations

import os

from pyllm.errors import ModelFileError
from pyllm.formats.config import read_config
from pyllm.formats.folder import TOKENIZERS, Folder
from pyllm.formats.gguf import GGUF
from pyllm.formats.strings import StringArray
from pyllm.formats.types import READABLE, TYPES, TensorInfo
from pyllm.formats.weights import check_weights

__all__ = [
    "GGUF",
    "READABLE",
    "TYPES",
    "Folder",
    "StringArray",
    "TensorInfo",
    "check_weights",
    "open_model",
    "read_config",
]


_PICKLED = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")  # unless they are GGUF after all


def open_model(path: str | os.PathLike[str]) -> GGUF | Folder:
    """Open a GGUF file, a Hugging Face folder, or a folder with one GGUF file in it. Raises ModelFileError."""
    path = os.fspath(path)
    if not os.path.isdir(path):
        if path.endswith(".safetensors"):
            raise ModelFileError(path, "", None, "weights without a configuration", "the folder that it lies in")
        if path.endswith(_PICKLED) and not _begins_as_gguf(path):
            found = "pickled weights can run code and are never read"
            raise ModelFileError(path, "", None, found, "GGUF, or safetensors with their config.json")
        return GGUF(path)
    if not any(os.path.lexists(os.path.join(path, name)) for name in ("config.json", *TOKENIZERS)):
        files = sorted(name for name in os.listdir(path) if name.endswith(".gguf"))
        if len(files) != 1:
            raise ModelFileError(path, "", None, f"no config.json and {len(files)} GGUF files", "one or the other")
        return GGUF(os.path.join(path, files[0]))
    return Folder(path)


def _begins_as_gguf(path: str) -> bool:
    """Whether reading as GGUF has something to say about the file: also that it cannot be opened."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return True
