"""What compare.py measures, as one table: the work, the file, beside whom, and how many times as fast is asked for.

A row names its files by shape and type; compare_files.py makes them. Work is a request of compare_workers.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

LLAMA = ("llama.cpp", "llama.cpp-flash")
IK = ("ik_llama.cpp",)


class Row(NamedTuple):
    """One comparison."""

    name: str
    what: str  # for a reader
    work: dict[str, Any]
    count: int  # tokens per measurement; 1: the measurement itself
    file: str  # shape-type, read by pyllm and, unless peer_file says otherwise, by the peer
    asked: float | None  # how many times as fast as the fastest peer: the interval's lower bound
    peers: tuple[str, ...] = LLAMA
    peer_file: str = ""
    seconds: float | None = None  # at most so long, where the issue asks for a time
    isa: str = ""  # PYLLM_ISA, and the peer's build
    pick: bool = False  # slow work: only the faster peer of three calls each goes into the pairs
    chart: bool = False


def prompt(tokens: int) -> dict[str, Any]:
    """A prompt from an empty state to its next token."""
    return {"do": "prompt", "tokens": tokens}


def decode(new: int, fill: int = 1) -> dict[str, Any]:
    """Single steps after so many tokens."""
    return {"do": "decode", "fill": fill, "new": new}


def together(sequences: int, do: str = "together", new: int = 32) -> dict[str, Any]:
    """Sequences in step after prompts of 128 tokens."""
    return {"do": do, "sequences": sequences, "fill": 128, "new": new}


Q4_1, Q4_0 = "SmolLM2-Q4_1", "SmolLM2-Q4_0"
FIRST = {"do": "first", "text": "The capital of France is"}
SMOLLM2 = [
    Row("decode", "decoding", decode(128), 128, Q4_1, 3.0, chart=True),
    Row("decode-best", "decoding, llama.cpp on its best format", decode(128), 128, Q4_1, 1.9,
        peer_file=Q4_0),
    Row("decode-4096", "decoding after 4,096 tokens", decode(64, 4096), 64, Q4_1, 4.0, chart=True),
    Row("prompt", "reading a prompt", prompt(512), 512, Q4_1, 6.0, chart=True),
    Row("prompt-ik", "reading a prompt, beside ik_llama.cpp", prompt(512), 512, Q4_1, None, peers=IK),
    Row("together-16", "16 sequences decoding together", together(16), 512, Q4_1, 5.0, chart=True),
    Row("together-16-best", "16 sequences, llama.cpp on its best format", together(16), 512, Q4_1, 2.5, peer_file=Q4_0),
    Row("together-8", "8 sequences decoding together", together(8), 256, Q4_1, 4.0, chart=True),
    Row("engine-16", "16 requests in pyllm's Engine", together(16, "engine"), 512, Q4_1, 5.0),
    Row("first-token", "process start to first token", FIRST, 1, Q4_1, None, peers=LLAMA[:1], seconds=0.25),
]  # fmt: skip
AVX2 = [
    Row("avx2-prompt", "reading a prompt, both for AVX2", prompt(512), 512, Q4_1, 1.3, isa="avx2"),
    Row("avx2-decode", "decoding, both for AVX2", decode(128), 128, Q4_1, 1.3, isa="avx2"),
]


def pair(shape: str, kind: str, new: int, asked: tuple[float, float]) -> list[Row]:
    """Decoding and a prompt of 128 of random weights in a shape."""
    file = f"{shape}-{kind}"
    return [
        Row(f"{file}-decode", "decoding", decode(new), new, file, asked[0], pick=True),
        Row(f"{file}-prompt", "reading a prompt of 128", prompt(128), 128, file, asked[1], pick=True),
    ]


TYPES_7B = ("Q4_0", "Q4_K_M", "Q8_0")
TYPES_1B = ("Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q5_K", "Q6_K", "F16", "BF16", "F32")
GROUPS: dict[str, list[Row]] = {
    "smollm2": SMOLLM2,
    "avx2": AVX2,
    "7B": [row for kind in TYPES_7B for row in pair("7B", kind, 12, (1.4, 2.0))],
    "1B": [row for kind in TYPES_1B for row in pair("1B", kind, 24, (1.2, 1.3))],
    "tiny": pair("tiny", "Q4_K_M", 8, (1.0, 1.0)),  # to see that the campaign itself works
}


def chosen(names: list[str]) -> list[Row]:
    """Rows by group, file or name, in the order of the table. Raises ValueError for a name that is none of them."""
    rows = [row for group in GROUPS.values() for row in group]
    found = []
    for name in names:
        mine = [row for row in GROUPS.get(name, rows) if name in GROUPS or name in (row.name, row.file)]
        if not mine:
            raise ValueError(f"compare: no row, file or group '{name}'; groups are {', '.join(GROUPS)}")
        found += mine
    return [row for row in rows if row in found]
