"""The model files of compare.py: the one given, it in another type by llama.cpp's quantiser, and random ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import generated

REQUANTISE = """
import sys
from llama_cpp import llama_cpp as api
p = api.llama_model_quantize_default_params()
p.nthread, p.ftype, p.allow_requantize = 2, int(sys.argv[3]), True
sys.exit(api.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), p))
"""


class Files:
    """Model files by name (`SmolLM2-Q4_0`, `7B-Q8_0`), made in a folder when first asked for."""

    def __init__(self, model: Path, folder: Path, peer_python: str) -> None:
        self.model, self.folder, self.peer_python = model, folder, peer_python

    def path(self, name: str) -> Path:
        """Where the file is. Raises ModelFileError or CalledProcessError when it cannot be made."""
        shape, kind = name.split("-")
        if shape == "SmolLM2" and kind == "Q4_1":
            return self.model
        path = self.folder / f"{name}.gguf"
        if path.exists():
            return path
        print(f"  making {path}", flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        if shape in generated.SHAPES:
            generated.write(shape, kind, str(path))
            return path
        unfinished = path.with_suffix(".part")
        number = str(generated.FILE_TYPES[kind])
        command = [self.peer_python, "-c", REQUANTISE, str(self.model), str(unfinished), number]
        subprocess.run(command, check=True, capture_output=True)
        return unfinished.rename(path)

    def remove(self, name: str) -> None:
        """Delete a random file: they are large and soon made again."""
        if name.split("-")[0] in generated.SHAPES:
            (self.folder / f"{name}.gguf").unlink(missing_ok=True)
