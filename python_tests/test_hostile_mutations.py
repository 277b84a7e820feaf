"""Tiny models cut at every byte and with every header bit flipped: refused, or exactly what the bytes say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import gguf_writer, safetensors_cases

import pyllm

PACKAGE = str(Path(pyllm.__file__).parent.parent)
HERE = Path(__file__).parent


def safetensors_header(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def models() -> dict[str, tuple[bytes, int]]:
    """File name -> (bytes, bytes of header)."""
    llama, gpt2 = gguf_writer.tiny_llama(), gguf_writer.tiny_gpt2()
    old = replace(gpt2, version=gguf_writer.number(gguf_writer.U32, 2))
    wide = replace(gpt2.with_metadata("general.alignment", gguf_writer.value(gguf_writer.U32, 64)), alignment=64)
    plain = safetensors_cases.tiny()
    spaced = safetensors_cases.pack(b'{"w": {"shape":[2, 3],"dtype":"F32","data_offsets":[0, 24]}}        ')
    return {
        "llama.gguf": (llama.pack(), len(llama.header())),
        "version2.gguf": (old.pack(), len(old.header())),
        "aligned.gguf": (wide.pack(), len(wide.header())),
        "tiny.safetensors": (plain, safetensors_header(plain)),
        "spaced.safetensors": (spaced, safetensors_header(spaced)),
    }


@pytest.mark.parametrize("name", models())
def test_every_cut_and_every_flip(tmp_path, name):
    data, header = models()[name]
    path = tmp_path / name
    path.write_bytes(data)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), PACKAGE, *sys.path])}
    command = [sys.executable, str(HERE / "hostile" / "mutations.py"), str(path), str(header)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-2000:]}"
    found = json.loads(done.stdout)
    assert found["surprises"] == []
    assert found["cuts"] == {"refused": len(data), "accepted": 0, "surprise": 0}
    assert sum(found["flips"].values()) == 8 * header
    # Most bits lie in names and values, which may be anything; lengths, types and offsets must be caught.
    assert found["flips"]["refused"] > header and found["flips"]["accepted"] > header // 16
