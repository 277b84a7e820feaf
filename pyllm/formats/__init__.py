"""Model files: GGUF, safetensors and Hugging Face folders, read without trusting a byte of them."""

from pyllm.formats.gguf import GGUF
from pyllm.formats.strings import StringArray
from pyllm.formats.types import TYPES, TensorInfo

__all__ = ["GGUF", "TYPES", "StringArray", "TensorInfo"]
