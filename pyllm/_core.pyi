"""The C++ core of pyllm, private: used through the Python packages above it."""

import builtins
import collections.abc
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Buffer: TypeAlias = bytes | bytearray | memoryview | NDArray[Any]

class Weight:
    def __init__(self, dtype: str, n: int, k: int) -> None: ...
    def dequantise(self, row: int, rows: int) -> NDArray[np.float32]: ...
    def fill(self, row: int, rows: int, bytes: ArrayLike) -> None: ...
    def fill_floats(self, x: ArrayLike, transposed: bool = False, row: int | None = None) -> None: ...
    def fill_turned(self, other: Weight, row: int = 0) -> None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int]: ...

class Pool:
    def __init__(self, program: Program, limit_bytes: int = 0) -> None: ...
    @property
    def free_pages(self) -> int: ...
    @property
    def page_bytes(self) -> int: ...
    @property
    def page_length(self) -> int: ...
    @property
    def pages(self) -> int: ...

class Page:
    @property
    def users(self) -> int: ...

class Sequence:
    def __init__(self, pool: Pool) -> None: ...
    def fork(self) -> Sequence: ...
    def page(self, at: int) -> Page: ...
    def place(self, at: int, page: Page) -> None: ...
    def reserve(self, length: int) -> bool: ...
    def truncate(self, length: int) -> None: ...
    @property
    def length(self) -> int: ...
    @property
    def pages(self) -> int: ...

class Program:
    def __init__(
        self,
        layers: int,
        heads: int,
        dim: int,
        cache: str,
        context: int,
        high_precision: bool,
    ) -> None: ...
    def add_norm(self, residual: int, x: int, norm: Any) -> None: ...
    def attention(
        self, q: int, layer: int, heads: int, scale: float, window: int = 0, softcap: float = 0.0
    ) -> int: ...
    def describe(self) -> str: ...
    def embedding(self, weight: Weight, positions: ArrayLike | None = None, scale: float = 1.0) -> int: ...
    def finish(self) -> None: ...
    def linear(
        self,
        x: int,
        norm: Any,
        parts: list[Any],
        act: str = "none",
        gated: bool = False,
        residual: int = -1,
        layer: int = 0,
        rotary: int = -1,
    ) -> list[int]: ...
    def heads(
        self, q: int, k: int, q_weight: ArrayLike, k_weight: ArrayLike, eps: float, layer: int, rotary: int
    ) -> None: ...
    def logits(
        self, x: int, norm: Any, weight: Weight, bias: ArrayLike | None = None, softcap: float = 0.0
    ) -> None: ...
    def map(self, x: int, up: int = -1, act: str = "none") -> int: ...
    def recurrent(self, gates: int, cell: str, weight: Weight, inner_bias: ArrayLike | None) -> int: ...
    def rotary(self, frequency: collections.abc.Sequence[float], magnitude: float) -> int: ...
    def head(self, hidden: ArrayLike) -> NDArray[np.float32]:
        """Logits (rows, vocabulary) of hidden rows, with the bits that run gives."""
    def run(self, batch: list[Any], hidden: bool = False) -> NDArray[np.float32]:
        """Appends each (sequence, ids, want); gives float32 logits of the last `want` rows of each.

        hidden: gives what the head would be given for them.
        """
    @property
    def max_rows(self) -> int: ...

class LogitsError(ValueError):
    pass

class Sampling:
    """The parameters of the sampler, checked by pyllm.generate.Sampler."""

    sample: bool
    def __init__(self) -> None: ...
    def choose(
        self,
        logits: NDArray[np.float32],
        tokens: ArrayLike,
        prompt: int,
        seed: int,
        sequence: int,
        top: int = 0,
        logprob: bool = False,
        edited: Any = None,
        most: int = 0,
    ) -> tuple[int, float | None, list[tuple[int, float]]]:
        """(token, logprob, [(id, logprob), ...]) from logits (vocabulary,) float32 after tokens (length,) int64, of
        which there may be `most`."""
    def edit(self, logits: NDArray[np.float32], tokens: ArrayLike, prompt: int, most: int = 0) -> NDArray[np.float32]:
        """A copy of logits after bias, penalties, bans and what is forced."""
    @property
    def edits(self) -> bool: ...
    def warp(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of logits divided by the temperature, -inf where top-k, top-p, min-p or typical-p cut."""
    @property
    def banned(self) -> list[list[int]]: ...
    @banned.setter
    def banned(self, value: collections.abc.Sequence[collections.abc.Sequence[int]]) -> None: ...
    @property
    def bias(self) -> list[tuple[int, float]]: ...
    @bias.setter
    def bias(self, value: collections.abc.Sequence[tuple[int, float]]) -> None: ...
    @property
    def ends(self) -> list[int]: ...
    @ends.setter
    def ends(self, value: collections.abc.Sequence[int]) -> None: ...
    @property
    def forced_first(self) -> list[int]: ...
    @forced_first.setter
    def forced_first(self, value: collections.abc.Sequence[int]) -> None: ...
    @property
    def forced_last(self) -> list[int]: ...
    @forced_last.setter
    def forced_last(self, value: collections.abc.Sequence[int]) -> None: ...
    @property
    def frequency_penalty(self) -> float: ...
    @frequency_penalty.setter
    def frequency_penalty(self, value: float) -> None: ...
    @property
    def min_new_tokens(self) -> int: ...
    @min_new_tokens.setter
    def min_new_tokens(self, value: int) -> None: ...
    @property
    def min_p(self) -> float: ...
    @min_p.setter
    def min_p(self, value: float) -> None: ...
    @property
    def no_repeat_ngram(self) -> int: ...
    @no_repeat_ngram.setter
    def no_repeat_ngram(self, value: int) -> None: ...
    @property
    def presence_penalty(self) -> float: ...
    @presence_penalty.setter
    def presence_penalty(self, value: float) -> None: ...
    @property
    def repetition_penalty(self) -> float: ...
    @repetition_penalty.setter
    def repetition_penalty(self, value: float) -> None: ...
    @property
    def temperature(self) -> float: ...
    @temperature.setter
    def temperature(self, value: float) -> None: ...
    @property
    def top_k(self) -> int: ...
    @top_k.setter
    def top_k(self, value: int) -> None: ...
    @property
    def top_p(self) -> float: ...
    @top_p.setter
    def top_p(self, value: float) -> None: ...
    @property
    def typical_p(self) -> float: ...
    @typical_p.setter
    def typical_p(self, value: float) -> None: ...

class WordCounts:
    def __init__(self, cut: str, most: int) -> None: ...
    def __len__(self) -> int: ...
    def add(self, data: bytes) -> None: ...
    def common(self, least: int, most: int) -> list[tuple[bytes, int]]: ...
    def end_text(self) -> None: ...
    @property
    def forgotten(self) -> int: ...
    @property
    def forgotten_total(self) -> int: ...
    @property
    def total(self) -> int: ...

class PairTrainer:
    def __init__(
        self, counts: WordCounts, special: collections.abc.Sequence[str], vocabulary: int, least: int
    ) -> None: ...
    def __len__(self) -> int: ...
    def merge(self, most: int) -> bool: ...
    def merges(self) -> list[tuple[int, int]]: ...
    def tokens(self) -> list[bytes]: ...

class Vocabulary:
    def __init__(self, data: Buffer, starts: ArrayLike, lengths: ArrayLike, kinds: ArrayLike | None) -> None: ...
    def __len__(self) -> int: ...
    def find(self, text: bytes, /) -> int | None: ...
    def kind(self, id: int, /) -> int: ...
    def mark(self, id: int, kind: int, /) -> None: ...
    def reserved_starts(self, value: bytes) -> list[int]: ...
    def text(self, id: int, /) -> bytes: ...

class BytePairs:
    def __init__(
        self, vocabulary: Vocabulary, pre: str, data: Buffer, starts: ArrayLike, lengths: ArrayLike
    ) -> None: ...
    def bytes(self, id: int, /) -> builtins.bytes: ...
    def decode(self, ids: ArrayLike, skip_reserved: bool) -> builtins.bytes: ...
    def encode(
        self, data: builtins.bytes, allow_special: bool, breaks: collections.abc.Sequence[int] = []
    ) -> NDArray[np.int32]: ...

class ScorePairs:
    def __init__(
        self, vocabulary: Vocabulary, scores: ArrayLike, unknown: int | None, add_space_prefix: bool
    ) -> None: ...
    def bytes(self, id: int, /) -> builtins.bytes: ...
    def decode(self, ids: ArrayLike, skip_reserved: bool) -> builtins.bytes: ...
    def encode(
        self, data: builtins.bytes, allow_special: bool, breaks: collections.abc.Sequence[int] = []
    ) -> NDArray[np.int32]: ...

def adamw(
    p: NDArray[np.float32],
    g: ArrayLike,
    m: NDArray[np.float32],
    v: NDArray[np.float32],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    scale: float = 1.0,
) -> None:
    """One step of AdamW in place: p, m, v float32 of g's size; g is multiplied by scale first; steps count from 1."""
class WordTable:
    def __init__(self, vocabulary: Vocabulary, cut: str, unknown: int) -> None: ...
    def bytes(self, id: int, /) -> builtins.bytes: ...
    def decode(self, ids: ArrayLike, skip_reserved: bool) -> builtins.bytes: ...
    def encode(
        self, data: builtins.bytes, allow_special: bool, breaks: collections.abc.Sequence[int] = []
    ) -> NDArray[np.int32]: ...

def attention(
    q: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    heads: int,
    kv_heads: int,
    dim: int,
    scale: float,
    causal: bool,
    window: int,
    softcap: float,
    cache: str,
    /,
) -> NDArray[np.float32]: ...
def quick_pairs() -> bool:
    """Whether products of pairs of bf16 cost no more than those of floats."""

def recurrent_backward(
    cell: str,
    dh: ArrayLike,
    dc: ArrayLike | None,
    gates: NDArray[np.float32],
    weight: ArrayLike,
    h: ArrayLike,
    c: ArrayLike | None,
    inner: ArrayLike | None,
    first: ArrayLike | None,
    first_c: ArrayLike | None,
    sequences: int,
    sizes: ArrayLike,
    reversed: bool,
    type: str,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Gradients of the first h, of LSTM's first c and of GRU's recurrent products; those of the gates replace them."""

def recurrent_forward(
    cell: str,
    gates: NDArray[np.float32],
    weight: ArrayLike,
    inner_bias: ArrayLike | None,
    first: ArrayLike | None,
    first_c: ArrayLike | None,
    sequences: int,
    sizes: ArrayLike,
    reversed: bool,
    type: str,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """h of every row, LSTM's c, GRU's inner products; gates hold the input products, and become the gates."""

def attention_backward(
    dout: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    out: ArrayLike,
    lse: ArrayLike,
    starts: ArrayLike,
    heads: int,
    groups: int,
    scale: float,
    causal: bool,
    window: int,
    softcap: float,
    type: str,
    key_starts: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    drop: tuple[float, int, int, int] | None = None,
) -> tuple[NDArray[np.float32], ...]:
    """dq, dk and dv of attention_forward, and dbias where it has one, from its out and lse; the same bytes for any
    number of threads.
    """

def attention_forward(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    starts: ArrayLike,
    heads: int,
    groups: int,
    scale: float,
    causal: bool,
    window: int,
    softcap: float,
    type: str,
    key_starts: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    drop: tuple[float, int, int, int] | None = None,
    wanted: bool = True,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """softmax(softcap(scale q K^T)) V of whole sequences: out (N, heads * d), lse (N, heads), none unless wanted.

    q (N, heads * d), k and v (N, groups * d): the rows of all sequences one after the other; starts (sequences + 1)
    int32, from 0 to N; window: a causal query sees the last that many keys, 0: all; type of the products F32 or BF16.
    key_starts (sequences + 1): k and v have rows of their own, (M, groups * d), and queries see all of those that have
    the number of their sequence; not with causal. bias (heads, distances), added to the scores: the last column is of a
    query's own place where causal, else the one in the middle; not with window, softcap or key_starts. drop: (p, seed,
    stream, offset) of the weights' dropout, whose draws are of an array (N, heads, the longest's keys to whole 64s).
    """

def axpy(x: ArrayLike, a: float, into: NDArray[np.float32]) -> None:
    """into += a * x, in place."""

def column_sums(x: ArrayLike) -> NDArray[np.float32]:
    """x (..., k) -> (k,): sums over all leading dimensions."""

def continuations(
    how: Sampling,
    logits: NDArray[np.float32],
    scores: collections.abc.Sequence[float],
    starts: collections.abc.Sequence[int],
    most: int,
    said: collections.abc.Sequence[tuple[Any, int, int]] = ...,
) -> list[list[tuple[float, int, int, float]]]:
    """Of every group of beams, rows [starts[g], starts[g + 1]) of logits (beams, vocabulary), the `most` best
    continuations, descending: (score, row, token, log-probability). said: (tokens, prompt, tokens at most) of every
    beam, needed where `how` has edits.
    """

def cpu_features() -> dict[str, bool]: ...
def cross_entropy(
    logits: NDArray[np.float32],
    targets: ArrayLike,
    weights: ArrayLike | None = None,
    smoothing: float = 0.0,
    scale: float = 1.0,
) -> NDArray[np.float32]:
    """Losses (rows,); logits (rows, vocabulary) become scale * weight * their derivative. Target -100: both 0.

    Neither weights (rows,) nor scale are in the losses. Raises IndexError for a target outside the vocabulary.
    """

def cross_entropy_losses(logits: ArrayLike, targets: ArrayLike, smoothing: float = 0.0) -> NDArray[np.float32]:
    """The losses of cross_entropy; logits stay as they are."""

def dropout(x: ArrayLike, p: float, seed: int, stream: int, offset: int = 0) -> NDArray[np.float32]:
    """x / (1 - p) or 0 by one word of Philox, which seed, stream and place offset + i choose."""

def embedding(ids: ArrayLike, weight: Weight) -> NDArray[np.float32]: ...
def embedding_backward(dy: ArrayLike, ids: ArrayLike, into: NDArray[np.float32]) -> None:
    """into (vocabulary, d) += the rows of dy (..., d) at ids (...), int32, in their order."""

def heads(
    q: ArrayLike, k: ArrayLike, q_weight: ArrayLike, k_weight: ArrayLike, eps: float, table: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """q (rows, heads, dim), k (rows, key heads, dim): each head normalised and turned, row i at position i."""

def huge_pages() -> str: ...
def isa() -> str: ...
def isas() -> list[str]:
    """Instruction sets this CPU runs, best last."""

def last_kernel_isa() -> str:
    """Instruction set that the last of these functions ran on."""

def likeliest(logits: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
    """The k likeliest [(id, logprob), ...] of one float32 row."""

def linear(
    x: ArrayLike,
    weight: Weight,
    bias: ArrayLike | None = None,
    high: bool = False,
    into: NDArray[np.float32] | None = None,
    add: bool = False,
    transposed: bool = False,
) -> NDArray[np.float32]:
    """x (rows, k), transposed (k, rows), times W^T, plus bias; written to `into` where given, or added to it."""

def linears(
    x: ArrayLike,
    weights: list[Weight],
    biases: list[NDArray[np.float32] | None],
    high: bool = False,
    into: list[NDArray[np.float32]] | None = None,
    residual: NDArray[np.float32] | None = None,
    lows: collections.abc.Sequence[tuple[Weight | NDArray[np.float32], Weight] | None] = (),
    act: str = "none",
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32] | None]]:
    """Products of one x (rows, k) with one to three weights: all act(x W^T + bias + h B^T), and all h.

    residual: what a single product, not activated, is added to.

    lows: (A, B) or (h, B) of each weight, or None: A (r, k) of floats, h = x A^T (rows, r), B (n, r) F32.
    """

def empty(shape: collections.abc.Sequence[int]) -> NDArray[np.float32]:
    """A float32 array that is not set and begins on a line of 64 bytes."""

def keep_freed() -> None:
    """Keeps freed memory for what comes next."""

def log_softmax_at(rows: NDArray[np.float32], ids: ArrayLike) -> NDArray[np.float64]:
    """rows (n, vocabulary) float32, ids (n,) int64 -> (n,) float64."""

def log_sum_exp(logits: NDArray[np.float32]) -> float:
    """log(sum(exp(logits))) of one float32 row, in double."""

def map(x: ArrayLike, up: ArrayLike | None, act: str, cap: float = 0.0) -> NDArray[np.float32]:
    """act(x) * up of float32, or of bf16 as uint16."""

def map_backward(
    dy: ArrayLike, x: ArrayLike, up: ArrayLike | None, act: str, cap: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """(dx, dup) of y = act(x) * up; x and up float32, or bf16 as uint16."""

def map_halves(x: ArrayLike, up: ArrayLike | None, act: str, wanted: bool = True) -> tuple[Any, Any, Any]:
    """(y, x, up) of y = act(x) * up: x and up rounded to bf16, y of the rounded ones or None."""

def measure_limits(seconds: float = 0.2) -> dict[str, float]: ...
def norm(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None, eps: float, layer: bool, residual: ArrayLike | None = None
) -> NDArray[np.float32]: ...
def norm_backward(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike, bias_wanted: bool, eps: float, layer: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
    """(dx, dweight, dbias) of y = norm(x) * weight + bias over the last dimension."""

def outer(
    h: ArrayLike, x: ArrayLike, into: NDArray[np.float32], add: bool = False, across: bool = False
) -> None:
    """into = h^T x, or its transpose, of an h (rows, r) of few columns; or more by that."""

def philox4x32(counter: collections.abc.Sequence[int], key: collections.abc.Sequence[int]) -> list[int]:
    """Philox4x32-10 of a counter (4) under a key (2)."""

def philox_uniform(seed: int, stream: int, position: int) -> float:
    """The draw in [0, 1) of a position of a stream of a seed."""

def rotary(x: ArrayLike, table: ArrayLike, position: ArrayLike) -> NDArray[np.float32]: ...
def scan_strings(buffer: Buffer, start: int, count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64], int]:
    """Walk `count` strings (64-bit little-endian length, then bytes) from byte `start`: (starts, lengths, end).
    starts, lengths: (count,) uint64. Raises ValueError(index, offset, length) where the buffer ends too early.
    """

def set_isa(name: str) -> None: ...
def set_threads(n: int) -> None: ...
def sgd(
    p: NDArray[np.float32],
    g: ArrayLike,
    m: NDArray[np.float32] | None,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    scale: float = 1.0,
    first: bool = False,
) -> None:
    """One step of SGD in place; first: m becomes g instead of momentum * m + g."""

def softmax(x: ArrayLike) -> NDArray[np.float32]: ...
def softmax_backward(dy: ArrayLike, y: ArrayLike) -> NDArray[np.float32]:
    """dx = y (dy - sum(dy y)) over the last dimension."""

def split_words(pre: str, data: bytes) -> list[bytes]: ...
def splitter_names() -> list[str]: ...
def step_attention(
    q: ArrayLike,
    keys: Any,
    values: Any,
    places: ArrayLike,
    count: ArrayLike,
    heads: int,
    scale: float,
    bias: ArrayLike | None = None,
    weights: bool = False,
) -> Any:
    """softmax(scale q K^T + bias) V of one query for each row of q (rows, heads * d), which sees count[row] rows of
    keys and values (places, heads * d), float32 or bf16 as uint16: places[row] (rows, capacity), or places[row] on.

    bias (heads, n): a row's last key gets the last column. weights: (out, (rows, heads, longest)), zeros where nothing
    is seen.
    """

def sum_of_squares(x: ArrayLike) -> float:
    """In double, of an array of any shape."""

def threads() -> int: ...
def threads_reason() -> str: ...
