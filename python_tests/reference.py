"""Slow float64 twins of the kernels: plain formulas in numpy, nothing imported from pyllm.

Each operation stands beside the function that bounds what float32 arithmetic may differ from it, derived, never fitted.
u is the unit roundoff of float32 and gamma(n) = n u / (1 - n u) the bound of n roundings in a row (Higham, Accuracy and
Stability of Numerical Algorithms, chapter 3). Inputs are what the kernel read, already rounded to its input types.
"""

from __future__ import annotations

import math

import numpy as np
import reference_blocks as blocks
from numpy.typing import NDArray

U = 2.0**-24  # float32
U_BF16 = 2.0**-8
TINY = 2.0**-126  # smallest normal float32: bf16 dot instructions flush what is below it
EXP_ULP = 2.0  # promised of exp, tanh, erf and sigmoid in float32; one ulp is at most 2 u


def gamma(n: float) -> float:
    """Relative bound of n roundings in a row."""
    return n * U / (1 - n * U)


def f64(x: NDArray) -> NDArray:
    return np.asarray(x, np.float64)


# --- products ---


def matmul(a: NDArray, b: NDArray) -> NDArray:
    """y = a @ b, a (..., m, k), b (..., k, n)."""
    return f64(a) @ f64(b)


def matmul_bound(a: NDArray, b: NDArray, extra: float = 0) -> NDArray:
    """k fused multiply-adds in float32 in any order, `extra` roundings of the result (bias, store)."""
    k = np.shape(a)[-1]
    return gamma(k + extra) * (np.abs(f64(a)) @ np.abs(f64(b))) + (k + extra) * TINY


def linear(x: NDArray, weight: NDArray, bias: NDArray | None = None) -> NDArray:
    """y = x @ weight.T + bias, x (..., k), weight (n, k)."""
    y = matmul(x, f64(weight).T)
    return y if bias is None else y + f64(bias)


def linear_bound(x: NDArray, weight: NDArray, bias: NDArray | None = None) -> NDArray:
    bound = matmul_bound(x, f64(weight).T, extra=2)
    return bound if bias is None else bound + gamma(2) * np.abs(f64(bias))


def quantised_linear(x: NDArray, name: str, raw: NDArray, terms: int = 1) -> NDArray:
    """The product that int8 activations give: x is first rounded to its codes per 32, then all is exact."""
    return matmul(sum(blocks.rounded_activations(x, terms)), blocks.dequantise(name, raw, np.float64).T)


def quantised_linear_bound(x: NDArray, name: str, raw: NDArray, terms: int = 1) -> NDArray:
    """Integer sums per group of at least 16 are exact; scales, offsets and the sum over groups round in float32."""
    rounded = sum(np.abs(term) for term in blocks.rounded_activations(x, terms))
    scaled, offset = blocks.parts(name, raw)
    size = np.abs(scaled) if offset is None else np.abs(scaled) + np.abs(offset)
    depth = 2 * terms * x.shape[-1] / 16
    return gamma(depth + 6) * (rounded @ size.T) + depth * TINY


def activation_error(x: NDArray, name: str, raw: NDArray) -> NDArray:
    """What rounding x to int8 codes may change: half a step of each group (a flushed group: all) times its weights."""
    _, scale = blocks.quantise_activations(x)
    half = np.repeat(f64(scale) * 0.5 * (1 + 2**-14), 32, axis=-1)  # the code's own product rounds by 127 * 2 u
    half = np.where(half > 0, half, np.abs(f64(x)))
    return half @ np.abs(blocks.dequantise(name, raw, np.float64)).T


# --- rows ---


def rms_norm(x: NDArray, weight: NDArray, eps: float) -> NDArray:
    """y = x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    x = f64(x)
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * f64(weight)


def rms_norm_bound(x: NDArray, weight: NDArray, eps: float) -> NDArray:
    """Half the n + 2 roundings of the mean square (the root halves them), then root, division and two products."""
    return gamma((np.shape(x)[-1] + 2) / 2 + 4) * np.abs(rms_norm(x, weight, eps)) + TINY


def heads(x: NDArray, weight: NDArray, eps: float, frequency: NDArray) -> NDArray:
    """x (length, heads, d): each head normalised, then neighbouring pairs of row i turned by i * frequency."""
    return rotary(rms_norm(x, weight, eps).swapaxes(0, 1), np.arange(len(x)), frequency, True).swapaxes(0, 1)


def heads_bound(x: NDArray, weight: NDArray, eps: float, frequency: NDArray) -> NDArray:
    """The norm's error goes into both numbers of a pair; then the rotation's own."""
    y, error = rms_norm(x, weight, eps), rms_norm_bound(x, weight, eps)
    pair = error + error.reshape(*error.shape[:-1], -1, 2)[..., ::-1].reshape(error.shape)
    turned = rotary_bound((np.abs(y) + error).swapaxes(0, 1), np.arange(len(x)), frequency, True, angle_roundings=0)
    return pair + turned.swapaxes(0, 1)


def layer_norm(x: NDArray, weight: NDArray, bias: NDArray | None = None, eps: float = 1e-5) -> NDArray:
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last axis, var without Bessel's correction."""
    x = f64(x)
    centred = x - x.mean(axis=-1, keepdims=True)
    y = centred / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps) * f64(weight)
    return y if bias is None else y + f64(bias)


def layer_norm_bound(x: NDArray, weight: NDArray, bias: NDArray | None = None, eps: float = 1e-5) -> NDArray:
    """The mean's error moves every centred value (the cancellation floor); the variance feels it to second order."""
    x, n = f64(x), np.shape(x)[-1]
    mean = x.mean(axis=-1, keepdims=True)
    centred = np.abs(x - mean)
    moved = gamma(n + 1) * np.abs(x).mean(axis=-1, keepdims=True) + U * np.abs(mean) + U * centred
    variance = (centred**2).mean(axis=-1, keepdims=True)
    change = (2 * centred * moved + moved**2).mean(axis=-1, keepdims=True) + gamma(n + 2) * variance
    relative = change / (variance + eps) + U
    root = 1 / np.sqrt(np.maximum(1 - relative, 1e-12)) - 1
    inverse = np.abs(f64(weight)) / np.sqrt(variance + eps)
    bound = inverse * ((centred + moved) * (root + gamma(4) * (1 + root)) + moved)
    return bound + U * np.abs(layer_norm(x, weight, bias, eps)) + TINY


def softmax(x: NDArray) -> NDArray:
    """exp(x - max) / sum over the last axis."""
    x = f64(x)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_bound(x: NDArray) -> NDArray:
    """The subtraction's rounding is amplified by exp; values that underflow may become zero."""
    x = f64(x)
    drop = np.abs(x - x.max(axis=-1, keepdims=True))
    p = softmax(x)
    relative = (x.shape[-1] + 4 * EXP_ULP + drop + (p * drop).sum(axis=-1, keepdims=True) + 4) * U
    return np.expm1(relative) * p + TINY


# --- elements ---


def silu(x: NDArray) -> NDArray:
    """x / (1 + exp(-x))."""
    x = f64(x)
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x))


def silu_bound(x: NDArray) -> NDArray:
    return gamma(2 * EXP_ULP + 4) * np.abs(silu(x)) + TINY * (1 + np.abs(f64(x)))


def swiglu(gate: NDArray, up: NDArray) -> NDArray:
    """silu(gate) * up."""
    return silu(gate) * f64(up)


def swiglu_bound(gate: NDArray, up: NDArray) -> NDArray:
    return (silu_bound(gate) + U * np.abs(silu(gate))) * np.abs(f64(up)) * (1 + U) + TINY


def _erf(x: NDArray) -> NDArray:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def gelu(x: NDArray, approximate: str = "none") -> NDArray:
    """x (1 + erf(x / sqrt 2)) / 2, or with tanh(sqrt(2 / pi) (x + 0.044715 x^3)) in place of erf."""
    x = f64(x)
    if approximate == "none":
        return x * np.vectorize(math.erfc, otypes=[np.float64])(-x / math.sqrt(2)) / 2
    t = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-2 * t))


def gelu_bound(x: NDArray, approximate: str = "none") -> NDArray:
    """The argument's error times the slope, the function's own, and that of 1 + f: an absolute part by cancellation."""
    x = f64(x)
    if approximate == "none":
        t = x / math.sqrt(2)
        f, slope, rounding = _erf(t), 2 / math.sqrt(math.pi) * np.exp(-t * t), 2
    else:
        t = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        f, rounding = np.tanh(t), 6
        slope = 1 - f * f
    inner = gamma(rounding) * np.abs(t) * slope + gamma(2 * EXP_ULP) * np.abs(f) + gamma(1) * np.abs(1 + f)
    return np.abs(x) / 2 * inner + gamma(2 * EXP_ULP + 4) * np.abs(gelu(x, approximate)) + TINY * (1 + np.abs(x))


def softcap(x: NDArray, cap: float) -> NDArray:
    """cap tanh(x / cap)."""
    return cap * np.tanh(f64(x) / cap)


def softcap_bound(x: NDArray, cap: float) -> NDArray:
    """A division, tanh with its promised error, a product; the slope of tanh is at most tanh(t) / t."""
    return gamma(2 * EXP_ULP + 3) * np.abs(softcap(x, cap)) + TINY * (1 + cap)


def embedding(ids: NDArray, weight: NDArray) -> NDArray:
    """Rows of weight (vocabulary, d): no arithmetic, so no bound."""
    return np.asarray(weight)[np.asarray(ids)]


# --- rotary positions ---


def rotary_frequencies(head_dim: int, theta: float, scaling: dict | None = None) -> tuple[NDArray, float]:
    """Radians per position (head_dim / 2,) and the factor on cos and sin, by Hugging Face's `rope_scaling` rules."""
    exponent = np.arange(0, head_dim, 2) / head_dim
    frequency = theta**-exponent
    kind = (scaling or {}).get("rope_type", (scaling or {}).get("type", "default"))
    if kind == "default":
        return frequency, 1.0
    if kind == "linear":
        return frequency / scaling["factor"], 1.0
    if kind == "divisors":  # one per pair, as a GGUF file states llama3's rule
        return frequency / f64(scaling["divisors"]), 1.0
    if kind == "llama3":
        return _llama3(frequency, scaling), 1.0
    if kind == "yarn":
        return _yarn(frequency, head_dim, theta, scaling)
    if kind == "longrope":
        return _longrope(frequency, scaling)
    if kind == "dynamic":
        beyond = max(scaling["context"] / scaling["original_max_position_embeddings"], 1)
        grown = theta * (scaling["factor"] * beyond - (scaling["factor"] - 1)) ** (head_dim / (head_dim - 2))
        return grown**-exponent, 1.0
    raise ValueError(f"rope_scaling: unknown type {kind!r}")


def _llama3(frequency: NDArray, scaling: dict) -> NDArray:
    """Waves longer than the trained context are slowed by factor, short ones kept, those between blended."""
    turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    keep = np.clip((turns - low) / (high - low), 0, 1)
    return frequency * (keep + (1 - keep) / scaling["factor"])


def _yarn(frequency: NDArray, head_dim: int, theta: float, scaling: dict) -> tuple[NDArray, float]:
    """A ramp over dimensions between beta_fast and beta_slow turns per trained context, and a temperature."""
    factor, trained = scaling["factor"], scaling["original_max_position_embeddings"]

    def dimension(turns: float) -> float:
        return head_dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.get("beta_fast") or 32), dimension(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    slowed = np.clip((np.arange(head_dim // 2) - low) / ((high - low) or 0.001), 0, 1)
    return frequency * (1 - slowed + slowed / factor), _yarn_temperature(factor, scaling)


def _longrope(frequency: NDArray, scaling: dict) -> tuple[NDArray, float]:
    """Divisors of their own beyond the original context; one temperature for both."""
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    divisors = scaling["long_factor" if scaling["context"] > original else "short_factor"]
    warm = scaling.get("attention_factor") or math.sqrt(1 + max(math.log(factor), 0) / math.log(original))
    return frequency / f64(divisors), warm


def _yarn_temperature(factor: float, scaling: dict) -> float:
    if scaling.get("attention_factor") is not None:
        return scaling["attention_factor"]

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1

    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return scale(scaling["mscale"]) / scale(scaling["mscale_all_dim"])
    return scale(1.0)


def rotary(
    x: NDArray, positions: NDArray, frequency: NDArray, interleaved: bool = False, factor: float = 1.0
) -> NDArray:
    """Turn pairs of x (..., length, head_dim) by positions (length,) * frequency: neighbours, or halves."""
    first, second = _pairs(f64(x), interleaved)
    angle = f64(positions)[:, None] * frequency
    cos, sin = np.cos(angle) * factor, np.sin(angle) * factor
    return _unpair(first * cos - second * sin, second * cos + first * sin, interleaved)


def rotary_bound(
    x: NDArray,
    positions: NDArray,
    frequency: NDArray,
    interleaved: bool = False,
    factor: float = 1.0,
    angle_roundings: float = 2,
) -> NDArray:
    """cos and sin as float32 of an angle with so many relative roundings (frequency and product), then two products."""
    first, second = _pairs(np.abs(f64(x)), interleaved)
    angle = np.abs(f64(positions)[:, None] * frequency) * gamma(angle_roundings)
    size = (first + second) * abs(factor)
    bound = size * (angle + gamma(4)) + TINY
    return _unpair(bound, bound, interleaved)


def _pairs(x: NDArray, interleaved: bool) -> tuple[NDArray, NDArray]:
    half = x.shape[-1] // 2
    return (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])


def _unpair(first: NDArray, second: NDArray, interleaved: bool) -> NDArray:
    if interleaved:
        return np.stack([first, second], axis=-1).reshape(*first.shape[:-1], -1)
    return np.concatenate([first, second], axis=-1)


# --- attention ---


def visible(length: int, total: int, causal: bool, window: int | None) -> NDArray:
    """bool (length, total): queries are the last `length` of `total` positions; a window counts the query itself."""
    query = np.arange(total - length, total)[:, None]
    key = np.arange(total)
    allowed = key <= query if causal else np.ones((length, total), bool)
    return allowed & (key > query - window) if window else allowed


def _grouped(x: NDArray, heads: int) -> NDArray:
    return np.repeat(f64(x), heads // x.shape[1], axis=1)


def _scores(
    q: NDArray, k: NDArray, causal: bool, scale: float | None, window: int | None, cap: float | None = None
) -> tuple[NDArray, float]:
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = f64(q) @ _grouped(k, q.shape[1]).swapaxes(2, 3) * scale
    scores = scores if cap is None else softcap(scores, cap)
    return np.where(visible(q.shape[2], k.shape[2], causal, window), scores, -np.inf), scale


def attention(
    q: NDArray, k: NDArray, v: NDArray, causal: bool = False, scale: float | None = None, window: int | None = None,
    cap: float | None = None,
) -> NDArray:
    """softmax(softcap(q k^T scale)) v: q (batch, heads, length, d), k and v (batch, groups, total, d)."""
    scores, _ = _scores(q, k, causal, scale, window, cap)
    return softmax(scores) @ _grouped(v, q.shape[1])


def attention_bound(
    q: NDArray,
    k: NDArray,
    v: NDArray,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    probability_unit: float = 0.0,
    cap: float | None = None,
) -> NDArray:
    """Score errors pass through the cap, whose slope is at most 1, and exp; then the weighted sum.

    probability_unit: roundoff of stored probabilities.
    """
    heads, d, total = q.shape[1], q.shape[3], k.shape[2]
    scores, scale = _scores(q, k, causal, scale, window, cap)
    size = np.abs(f64(q)) @ np.abs(_grouped(k, heads)).swapaxes(2, 3) * abs(scale)
    seen = np.isfinite(scores)
    error = gamma(d + 3) * size + (0 if cap is None else softcap_bound(size, cap))
    moved = np.where(seen, error, 0).max(axis=-1, keepdims=True)
    drop = np.where(seen, scores.max(axis=-1, keepdims=True) - np.where(seen, scores, 0), 0).max(axis=-1, keepdims=True)
    chunks = total / 256 + 1  # each merge of two partial results rescales by one more exp
    roundings = 2 * total + (4 * EXP_ULP + 4) * chunks + 2 * drop + 8
    relative = np.expm1(2 * moved + roundings * U) + 2 * probability_unit
    return relative * (softmax(scores) @ np.abs(_grouped(v, heads))) + total * TINY
