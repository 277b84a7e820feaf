"""How near a GGUF model's logits are to a float64 forward of its dequantised weights, beside llama.cpp's.

quality.py MODEL.gguf TEXT [TEXT ...] [--tokens 20480] [--precision default] [--peer-python PYTHON] [--json FILE]

Teacher-forced over windows of real text, each from an empty state. Per position: is the top token the reference's, the
KL divergence from the reference's distribution, the negative log-likelihood of the token that follows. The float64
logits (float32 on disk, 200 KB a token for a vocabulary of 49,152) and llama.cpp's figures are kept in --cache.
Texts may be .gz or .xz and share the tokens equally.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import lzma
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python_tests"))
import gguf_reference
import reference_models

Forward = Callable[[list[int]], NDArray]


class Figures(NamedTuple):
    """Per position, (windows, window): the likeliest token, KL from the reference, -log p(next), the top-two margin."""

    top: NDArray
    divergence: NDArray
    loss: NDArray
    margin: NDArray


def read_text(path: Path) -> bytes:
    """The file's bytes, unpacked by its suffix."""
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opener(path, "rb") as file:
        return file.read()


def log_softmax(logits: NDArray) -> NDArray:
    """float64 (rows, vocabulary)."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def figures_of(logits: NDArray, reference: NDArray, ids: NDArray) -> Figures:
    """One window's figures; the last position has no next token and counts none."""
    count = len(ids)
    divergence, loss, margin = (np.zeros(count) for _ in range(3))
    for start in range(0, count, 128):  # float64 copies of the whole window would take gigabytes
        rows = slice(start, min(start + 128, count))
        ours, truth = log_softmax(logits[rows]), log_softmax(reference[rows])
        divergence[rows] = (np.exp(truth) * (truth - ours)).sum(axis=-1)
        following = np.append(ids[1:], 0)[rows]
        loss[rows] = -ours[np.arange(len(following)), following]
        best = np.partition(ours, -2, axis=-1)[:, -2:]
        margin[rows] = best[:, 1] - best[:, 0]
    return Figures(logits.argmax(axis=-1), divergence, loss, margin)


def measure(forward: Forward, windows: NDArray, reference: NDArray, label: str) -> Figures:
    """The figures of an engine over all windows."""
    rows, start = [], time.perf_counter()
    for index, ids in enumerate(windows):
        logits = forward(ids.tolist())
        if not np.isfinite(logits).all():
            raise ValueError(f"{label}: window {index}: logits are not finite")
        rows.append(figures_of(logits, reference[index], ids))
        print(
            f"\r{label}: {index + 1}/{len(windows)} windows, {time.perf_counter() - start:.0f} s",
            end="",
            file=sys.stderr,
            flush=True,
        )
    print(file=sys.stderr)
    return Figures(*(np.stack(column) for column in zip(*rows, strict=True)))


def summary(ours: Figures, truth: Figures) -> dict[str, float]:
    """What is published: agreement in per cent, mean divergence in nats, perplexity against the reference's."""
    same, sure = ours.top == truth.top, truth.margin > 1.0
    perplexity, exact = np.exp(ours.loss[:, :-1].mean()), np.exp(truth.loss[:, :-1].mean())
    return {
        "positions": int(same.size),
        "top_token_percent": 100 * float(same.mean()),
        "sure_positions": int(sure.sum()),
        "sure_misses": int((sure & ~same).sum()),
        "kl_mean": float(ours.divergence.mean()),
        "kl_p99": float(np.quantile(ours.divergence, 0.99)),
        "perplexity": float(perplexity),
        "perplexity_percent": 100 * float(perplexity / exact - 1),
    }


class Peer:
    """llama.cpp in a process of its own: tokens and logits over pipes."""

    def __init__(self, python: str, model: Path, window: int, vocabulary: int, threads: int) -> None:
        script = Path(__file__).with_name("quality_llama_cpp.py")
        command = [python, str(script), str(model), "--window", str(window), "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.vocabulary = vocabulary

    def ask(self, line: str) -> None:
        """Send one request."""
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def tokens(self, text: bytes) -> list[int]:
        """Ids of a text, without special tokens."""
        with tempfile.NamedTemporaryFile(suffix=".txt") as file:
            file.write(text)
            file.flush()
            self.ask(f"tokens {file.name}")
            return json.loads(self.process.stdout.readline())

    def forward(self, ids: list[int]) -> NDArray:
        """Logits (length, vocabulary)."""
        self.ask(json.dumps(ids))
        size = len(ids) * self.vocabulary * 4
        return np.frombuffer(self.process.stdout.read(size), np.float32).reshape(len(ids), -1)

    def close(self) -> None:
        """End the process and fail if it failed."""
        self.process.stdin.close()
        if self.process.wait() != 0:
            raise RuntimeError(f"llama.cpp's process ended with {self.process.returncode}")


def text_windows(encode: Callable[[bytes], list[int]], texts: list[Path], tokens: int, window: int) -> NDArray:
    """int64 (windows, window): the texts' first tokens in equal shares."""
    share = -(-tokens // (window * len(texts)))
    rows = []
    for path in texts:
        ids = encode(read_text(path)[: share * window * 12])[: share * window]
        if len(ids) < share * window:
            raise ValueError(f"{path}: {len(ids):,} tokens, {share * window:,} are needed")
        rows.append(np.array(ids).reshape(share, window))
    return np.concatenate(rows)


def reference_logits(model: Path, windows: NDArray, vocabulary: int, store: Path) -> NDArray:
    """float32 (windows, window, vocabulary) mapped from the cache; computed in float64 where it is missing."""
    path = store / "float64.npy"
    if not path.exists():
        weights, config = gguf_reference.read(model)
        partial = path.with_suffix(".partial")
        shape = (*windows.shape, vocabulary)
        out = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        start = time.perf_counter()
        for index, ids in enumerate(windows):
            out[index] = getattr(reference_models, _family(config))(weights, config, ids.tolist())
            print(
                f"\rfloat64: {index + 1}/{len(windows)} windows, {time.perf_counter() - start:.0f} s",
                end="",
                file=sys.stderr,
                flush=True,
            )
        print(file=sys.stderr)
        out.flush()
        partial.rename(path)
    return np.load(path, mmap_mode="r")


def _family(config: dict) -> str:
    return "gpt2" if "n_embd" in config else "llama"


def cached(path: Path, make: Callable[[], Figures]) -> Figures:
    """Figures from a file, or made and written."""
    if not path.exists():
        np.savez(path, **make()._asdict())
    with np.load(path) as stored:
        return Figures(**{name: stored[name] for name in Figures._fields})


def pyllm_forward(model: Path, precision: str, threads: int) -> tuple[Forward, Callable[[bytes], list[int]]]:
    """pyllm's logits and its tokenizer."""
    import pyllm

    network = pyllm.AutoModelForCausalLM.from_pretrained(str(model), precision=precision, threads=threads)
    tokenizer = pyllm.AutoTokenizer.from_pretrained(str(model))

    def forward(ids: list[int]) -> NDArray:
        return np.asarray(network(np.array([ids])).logits[0])

    def encode(text: bytes) -> list[int]:
        return list(tokenizer.encode(text.decode("utf-8", "replace"), add_special_tokens=False))

    return forward, encode


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=20480)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--precision", default="default", help="default, high, or none: only prepare the references")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-python", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "pyllm-quality")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> int:
    """Measure, print, and say by the exit code whether the targets are met."""
    options = arguments()
    vocabulary = gguf_reference.vocabulary(options.model)
    peer = Peer(options.peer_python, options.model, options.window, vocabulary, options.threads)
    windows = text_windows(peer.tokens, options.text, options.tokens, options.window)
    digest = hashlib.sha256(options.model.read_bytes() + windows.tobytes())
    store = options.cache / digest.hexdigest()[:16]
    store.mkdir(parents=True, exist_ok=True)
    reference = reference_logits(options.model, windows, vocabulary, store)
    truth = cached(store / "reference.npz", lambda: measure(_replay(reference), windows, reference, "reference"))
    theirs = cached(store / "llama_cpp.npz", lambda: measure(peer.forward, windows, reference, "llama.cpp"))
    peer.close()
    result = {
        "model": options.model.name,
        "window": options.window,
        "reference": summary(truth, truth),
        "llama.cpp": summary(theirs, truth),
    }
    if options.precision != "none":
        forward, encode = pyllm_forward(options.model, options.precision, options.threads)
        same = text_windows(encode, options.text, options.tokens, options.window)
        result["tokens_equal"] = bool((same == windows).all())
        ours = measure(forward, windows, reference, f"pyllm {options.precision}")
        result["precision"], result["pyllm"] = options.precision, summary(ours, truth)
        result["failed"] = failed(result, options.precision)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if result.get("failed") else 0


def _replay(reference: NDArray) -> Forward:
    """The reference as an engine: its windows in order."""
    rows = iter(reference)
    return lambda ids: next(rows)


def failed(result: dict, precision: str) -> list[str]:
    """The targets that are missed, in words."""
    ours, theirs = result["pyllm"], result["llama.cpp"]
    floor = 99.0 if precision == "high" else 96.5
    rules = [
        (result["tokens_equal"], "token ids differ from llama.cpp's"),
        (ours["top_token_percent"] >= floor, f"top token under {floor} %"),
        (ours["sure_misses"] == 0, "a top token differs where the float64 margin exceeds 1.0"),
        (abs(ours["perplexity_percent"]) <= 0.5, "perplexity off by more than 0.5 %"),
        (ours["top_token_percent"] >= theirs["top_token_percent"], "fewer top tokens than llama.cpp"),
        (ours["kl_mean"] <= theirs["kl_mean"], "larger KL divergence than llama.cpp"),
    ]
    return [words for met, words in rules if not met]


if __name__ == "__main__":
    sys.exit(main())
