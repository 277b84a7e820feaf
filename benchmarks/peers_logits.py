"""Does llama.cpp read what pyllm writes? Logits of converted models and the error of quantised ones, beside its own.

peers_logits.py [--model NAME] [--only VARIANT]

Tiny random models of every variant of python_tests/test_parity.py become GGUF files of every type and are loaded by
llama.cpp. F32: both systems' logits differ by at most 1e-3 of the largest, worst row (llama.cpp looks GELU up
in a table of float16); F16 2e-2, BF16 5e-2, because llama.cpp rounds activations too. For block types it rounds them to
8 bits, so the gap is printed, and the file held against the one that llama.cpp's own quantiser makes of the F32 file:
tensors of the same types (but for its Q6_K heads), none with a larger error |new - old| / |old|.
The default model goes the same way, from its folder as `pyllm convert` writes it. Exit code 1 if anything differs.
`make peers` runs it; needs llama-cpp-python, which must be compiled, and is therefore no part of `make test`.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python_tests"))
import tiny_models
from test_long_context import LONGROPE
from test_parity import NO_GGUF, VARIANTS

import pyllm
from pyllm.formats import GGUF
from pyllm.formats.encode import decode
from pyllm.formats.gguf_writer import FILE_TYPES

TOLERANCE = {"F32": 1e-3, "F16": 2e-2, "BF16": 5e-2}
# llama.cpp reads no windows in files that call themselves llama, and wants GPT-NeoX with biases, Qwen3 without.
BEYOND = {*NO_GGUF, "mistral", "mistral-one-group", "qwen3-biases", "gpt-neox-turned-whole"}
# More than llama.cpp rounds its context up to, 256, so that both take the short factors.
SHORT = LONGROPE | {"original_max_position_embeddings": 320}
ASKED = VARIANTS | {"rope-longrope": tiny_models.llama_config(rope_scaling=SHORT)}
BLOCKS = ("Q8_0", "Q4_0", "Q4_1")


@llama_cpp.llama_log_callback
def silent(level: int, text: bytes, data: Any) -> None:
    """llama.cpp tells of every tensor that falls back to another type; those are compared below."""


def llama_logits(path: Path, ids: np.ndarray) -> np.ndarray:
    """(length, vocabulary) float32 by llama.cpp, keys and values in float32."""
    model = llama_cpp.Llama(
        str(path), n_ctx=len(ids) + 8, n_batch=len(ids), n_ubatch=len(ids), logits_all=True, verbose=False, n_threads=2,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, flash_attn=False,
    )  # fmt: skip
    model.eval(ids.tolist())
    found = np.array(model.scores[: len(ids)], np.float32)
    model.close()
    return found


def our_logits(path: Path, ids: np.ndarray) -> np.ndarray:
    """The same by pyllm."""
    return np.asarray(pyllm.AutoModelForCausalLM.from_pretrained(path, precision="high")(ids[None]).logits[0])


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """max |difference| / max |expected| of the worst row."""
    return float((np.abs(found - expected).max(axis=-1) / np.abs(expected).max(axis=-1)).max())


def llama_quantize(source: Path, target: Path, dtype: str) -> None:
    """llama.cpp's own quantiser, at its default settings."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = FILE_TYPES[dtype]
    settings.nthread = 2
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings))
    if code != 0:
        raise SystemExit(f"llama.cpp could not quantize {source} to {dtype}: code {code}")


def numbers(file: GGUF, name: str) -> np.ndarray:
    """A tensor as float32."""
    info = file.tensors[name]
    k = info.shape[-1]
    return decode(info.dtype, file.read(info), info.rows, k)


def worse(exact: Path, ours: Path, theirs: Path) -> tuple[list[str], int, int]:
    """(tensors whose error exceeds llama.cpp's, tensors with the same bytes, all tensors)."""
    lines, same, count = [], 0, 0
    with GGUF(exact) as one, GGUF(ours) as two, GGUF(theirs) as three:
        if set(two.tensors) != set(three.tensors):
            return [f"other tensors: {sorted(set(two.tensors) ^ set(three.tensors))}"], 0, 0
        for name, info in two.tensors.items():
            count += 1
            other = three.tensors[name]
            if info.dtype == other.dtype and np.array_equal(two.read(info), three.read(other)):
                same += 1
                continue
            x = numbers(one, name)
            errors = [float(np.linalg.norm(numbers(each, name) - x)) for each in (two, three)]
            if info.dtype == other.dtype and errors[0] > errors[1] * (1 + 1e-6):
                lines.append(f"{name} {info.dtype}: error {errors[0]:.6g}, llama.cpp's {errors[1]:.6g}")
            elif info.dtype != other.dtype and not (other.dtype == "Q6_K" and info.dtype == "Q8_0"):
                lines.append(f"{name}: {info.dtype}, llama.cpp's {other.dtype}")
    return lines, same, count


def judge(name: str, folder: Path, work: Path, ids: np.ndarray, types: tuple[str, ...]) -> list[str]:
    """What is wrong with one model; prints a line per type."""
    wrong = []
    exact = work / f"{name}-F32.gguf"
    pyllm.convert(folder, exact, "F32")
    for dtype in ("F32", *types):
        path = work / f"{name}-{dtype}.gguf"
        if dtype != "F32":
            pyllm.convert(folder, path, dtype)
        gap = relative(llama_logits(path, ids), our_logits(path, ids))
        text = f"{name:<16} {dtype:<5} logits {gap:.1e}"
        if gap > TOLERANCE.get(dtype, np.inf) or not np.isfinite(gap):
            wrong.append(text)
        if dtype in BLOCKS:
            theirs = work / f"{name}-{dtype}-llama.gguf"
            llama_quantize(exact, theirs, dtype)
            lines, same, count = worse(exact, path, theirs)
            wrong += [f"{name} {dtype} {line}" for line in lines]
            text += f", {same} of {count} tensors byte for byte llama.cpp's, {len(lines)} worse"
            theirs.unlink()
        print(text, flush=True)
        if dtype != "F32":
            path.unlink()
    exact.unlink()
    return wrong


def main(arguments: Any = None) -> int:
    """Run all; 0 when nothing differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="a real model (smollm2); none: tiny ones only")
    parser.add_argument("--only", default="", help="variants whose name contains this")
    args = parser.parse_args(arguments)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    rng = np.random.default_rng(0)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for name, config in ASKED.items():
            if args.only not in name or name in BEYOND:
                continue
            folder = tiny_models.write_folder(work / name, config, tiny_models.random_weights(config, seed=11))
            wrong += judge(name, folder, work, rng.integers(3, config["vocab_size"], 100), (*TOLERANCE, *BLOCKS)[1:])
        if args.model != "none":
            pyllm.convert(args.model, work / "real")
            wrong += judge("real", work / "real", work, rng.integers(3, 40_000, 64), BLOCKS)
            text = "The cats' 2,345 naïve wörds\n"
            ids = [pyllm.AutoTokenizer.from_pretrained(each).encode(text) for each in (args.model, work / "real")]
            wrong += [] if ids[0] == ids[1] else [f"ids {ids[0]}, of the folder {ids[1]}"]
    print("\n".join(["", *wrong, f"{len(wrong)} differences"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
