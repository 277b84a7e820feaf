"""Compare token ids line by line with llama.cpp on the same GGUF file, and time both (and PyPI's tokenizers).

    python benchmarks/tokenizer_parity.py MODEL.gguf DATA... [--peers llama_cpp,tokenizers] [--megabytes 6]

DATA are text files (.txt, .py, .jsonl, .tsv, ..., also .gz and .xz) or folders of them. Generated lines are added:
ten scripts, emoji, numbers, white space and malformed UTF-8; and all lines once more in blocks of several.
Exits 1 when a line differs.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import random
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from pyllm.formats import GGUF
from pyllm.text import from_gguf

Encoder = Callable[[bytes], list[int]]

SCRIPTS = {
    "Latin": (0xC0, 0x24F),
    "Greek": (0x370, 0x3FF),
    "Cyrillic": (0x400, 0x52F),
    "Hebrew": (0x590, 0x5FF),
    "Arabic": (0x600, 0x6FF),
    "Devanagari": (0x900, 0x97F),
    "Bengali": (0x980, 0x9FF),
    "Thai": (0xE00, 0xE7F),
    "Hiragana": (0x3040, 0x309F),
    "Han": (0x4E00, 0x9FFF),
    "Hangul": (0xAC00, 0xD7A3),
    "Georgian": (0x10A0, 0x10FF),
    "Emoji": (0x1F300, 0x1FAFF),
    "Signs": (0x2000, 0x2BFF),
    "All": (0x20, 0x10FFFF),
}
SPACES = " \t\u00a0\u2003\u3000\r\x0b\x85\u2028"
JOINERS = ["", " ", "  ", "\t", "'s ", ", ", "123", " 45,6", "\u200d", "\ufe0f", "\u0301", " \n", "_", "'LL"]


def generated(lines: int, seed: int = 1) -> Iterator[bytes]:
    """Lines of words from every script with odd joints, and lines of damaged UTF-8."""
    draw = random.Random(seed)
    spans = list(SCRIPTS.values())
    for _ in range(lines):
        first, last = draw.choice(spans)
        pieces = []
        for _ in range(draw.randrange(1, 14)):
            word = (chr(draw.randint(first, last)) for _ in range(draw.randrange(1, 9)))
            pieces.append("".join(c for c in word if not 0xD800 <= ord(c) < 0xE000))
            pieces.append(draw.choice(JOINERS) if draw.random() < 0.8 else draw.choice(SPACES) * draw.randrange(1, 5))
        line = "".join(pieces).encode()
        if draw.random() < 0.3:
            line = damaged(line, draw)
        yield line.replace(b"\n", b" ")


def blocks(lines: list[bytes], seed: int = 2) -> Iterator[bytes]:
    """Every line again, in blocks of several joined by line ends of all kinds, some with spaces around them."""
    draw = random.Random(seed)
    ends = [b"\n", b"\n\n", b"\r\n", b" \n", b"\n  ", b"\t\n\n \t", b"\r", b"\n\r \n", b"  ", b"/\n/", b"!\n"]
    start = 0
    while start < len(lines):
        stop = start + draw.randrange(2, 9)
        yield b"".join(line + draw.choice(ends) * draw.randrange(1, 3) for line in lines[start:stop])
        start = stop


def damaged(line: bytes, draw: random.Random) -> bytes:
    """A few bytes removed, doubled or replaced; nothing that spells a code point above U+10FFFF (llama.cpp aborts)."""
    data = bytearray(line)
    for _ in range(draw.randrange(1, 6)):
        at = draw.randrange(len(data)) if data else 0
        choice = draw.randrange(4)
        if choice == 0 and data:
            del data[at]
        elif choice == 1:
            data.insert(at, draw.randrange(0x80, 0xF0))
        elif choice == 2:
            data[at:at] = draw.choice([b"\xc0\x80", b"\xed\xa0\x80", b"\xe0\x80\xaf", b"\xff", b"\xf8\x88", b"\xc1"])
        elif data:
            data[at] = draw.randrange(0xF0)
    return bytes(data) if not above_unicode(data) else bytes(b for b in data if b < 0xF0)


def above_unicode(data: bytes | bytearray) -> bool:
    """Whether some four bytes spell a code point above U+10FFFF."""
    return any(b > 0xF4 or (b == 0xF4 and data[i + 1 : i + 2] >= b"\x90") for i, b in enumerate(data) if b < 0xF8)


def opened(path: Path) -> bytes:
    """The file's bytes, unpacked."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def corpus(sources: list[Path], megabytes: float) -> list[bytes]:
    """Lines from all sources, the same number of bytes of each, up to `megabytes`; then a sixth of generated ones."""
    files = [f for s in sources for f in (sorted(s.rglob("*.py")) if s.is_dir() else [s])]
    share = {s: megabytes * 1e6 * 5 / 6 / len(sources) for s in sources}
    lines: list[bytes] = []
    for path in files:
        source = next(s for s in sources if path == s or s in path.parents)
        if share[source] <= 0 or ".tar" in path.name:
            continue
        data = opened(path)[: int(share[source])]
        share[source] -= len(data)
        lines += data.splitlines()
    total = 0
    for line in generated(1 << 30):
        lines.append(line)
        total += len(line)
        if total > megabytes * 1e6 / 6:
            return lines
    return lines


def llama_cpp_encoder(path: str) -> Encoder:
    """llama.cpp's tokenizer of that file."""
    import llama_cpp

    model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    return lambda line: model.tokenize(line, add_bos=False, special=False)


def tokenizers_encoder(path: str) -> Encoder:
    """PyPI's tokenizers over the same vocabulary; only for byte-level files that split like smollm or gpt-2."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    meta = GGUF(path).metadata
    vocab = {token: i for i, token in enumerate(meta["tokenizer.ggml.tokens"])}
    merges = [tuple(m.split(" ", 1)) for m in meta["tokenizer.ggml.merges"]]
    peer = Tokenizer(models.BPE(vocab, merges))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if meta["tokenizer.ggml.pre"] in ("smollm", "starcoder"):
        level = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])
    peer.pre_tokenizer = level
    return lambda line: peer.encode(line.decode("utf-8", "replace"), add_special_tokens=False).ids


PEERS = {"llama_cpp": llama_cpp_encoder, "tokenizers": tokenizers_encoder}


def compare(lines: list[bytes], name: str, peer: Encoder, ours: Encoder) -> int:
    """Number of lines whose ids differ; prints the first few and both speeds."""
    size = sum(map(len, lines)) / 1e6
    start = time.perf_counter()
    mine = [ours(line) for line in lines]
    middle = time.perf_counter()
    theirs = [peer(line) for line in lines]
    end = time.perf_counter()
    valid = [True] * len(lines) if name == "llama_cpp" else [is_valid(line) for line in lines]
    bad = [i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b and valid[i]]
    for i in bad[:5]:
        print(f"  line {i}: {lines[i]!r}\n    pyllm {mine[i]}\n    {name} {theirs[i]}")
    print(
        f"{name}: {len(lines):,} lines, {size:.1f} MB, {sum(map(len, mine)):,} ids; differing lines: {len(bad)}; "
        f"pyllm {size / (middle - start):.1f} MB/s, {name} {size / (end - middle):.1f} MB/s"
    )
    return len(bad)


def is_valid(line: bytes) -> bool:
    """Whether the line is UTF-8 and of code points that Unicode 15.1 (3.13's unicodedata) had assigned."""
    try:
        return all(unicodedata.category(c) != "Cn" for c in line.decode())
    except UnicodeDecodeError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--peers", default="llama_cpp")
    parser.add_argument("--megabytes", type=float, default=6.0)
    args = parser.parse_args()
    tokenizer = from_gguf(GGUF(args.model))
    lines = corpus(args.data, args.megabytes) if args.data else list(generated(20_000))
    lines += list(blocks(lines))
    bad = 0
    for name in args.peers.split(","):
        bad += compare(lines, name, PEERS[name](args.model), lambda line: tokenizer.encode(line, False))
    whole = b"\n".join(lines)
    start = time.perf_counter()
    count = len(tokenizer.encode(whole, False))
    print(f"pyllm, all as one text: {len(whole) / 1e6 / (time.perf_counter() - start):.1f} MB/s, {count:,} ids")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
