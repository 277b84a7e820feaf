"""Slow float64 twins of the training kernels that work row by row, each beside its bound.

As in reference.py: plain formulas, nothing of pyllm, and bounds derived from the roundings of float32 arithmetic.
"""

from __future__ import annotations

import numpy as np
import reference as ref
from numpy.typing import NDArray
from reference import EXP_ULP, TINY, U, f64, gamma

IGNORED = -100
FLOOR = 2.0**-115  # of slopes where they no longer change: csrc/simd/math.h


def depth(rows: int) -> float:
    """Roundings in a sum over rows: inside a partial sum of 32, then over the partial sums, perhaps again by 32."""
    return min(rows, 32) + min(rows / 32, 32) + rows / 1024 + 3


# --- norms ---


def norm(x: NDArray, weight: NDArray, bias: NDArray, eps: float, layer: bool) -> NDArray:
    return ref.layer_norm(x, weight, bias, eps) if layer else ref.rms_norm(x, weight, eps) + f64(bias)


def norm_backward(
    dy: NDArray, x: NDArray, weight: NDArray, eps: float, layer: bool
) -> tuple[NDArray, NDArray, NDArray]:
    """(dx, dweight, dbias): x^ = (x - mean) r, a = dy weight, dx = r (a - mean(a) - x^ mean(a x^))."""
    dy, x = f64(dy), f64(x)
    normed, inverse = _normed(x, eps, layer)
    a = dy * f64(weight)
    mean = a.mean(axis=-1, keepdims=True) if layer else 0.0
    dx = inverse * (a - mean - normed * (a * normed).mean(axis=-1, keepdims=True))
    leading = tuple(range(x.ndim - 1))
    return dx, (dy * normed).sum(axis=leading), dy.sum(axis=leading)


def _normed(x: NDArray, eps: float, layer: bool) -> tuple[NDArray, NDArray]:
    centred = x - x.mean(axis=-1, keepdims=True) if layer else x
    inverse = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    return centred * inverse, inverse


def norm_backward_bounds(
    dy: NDArray, x: NDArray, weight: NDArray, eps: float, layer: bool
) -> tuple[NDArray, NDArray, NDArray]:
    """The errors of x^ and of r, as forward bounds them, through each step of the formula."""
    dy, x, n = f64(dy), f64(x), x.shape[-1]
    normed, inverse = _normed(x, eps, layer)
    ones = np.ones(n)
    moved = ref.layer_norm_bound(x, ones, None, eps) if layer else ref.rms_norm_bound(x, ones, eps)
    root = _inverse_error(x, eps) if layer else gamma((n + 2) / 2 + 4)
    a = dy * f64(weight)
    size = np.abs(a)
    mean = a.mean(axis=-1, keepdims=True) if layer else np.zeros_like(inverse)
    product = (a * normed).mean(axis=-1, keepdims=True)
    of_mean = gamma(n + 3) * size.mean(axis=-1, keepdims=True) if layer else 0.0
    of_product = (gamma(n + 4) * size * (np.abs(normed) + moved) + size * moved).mean(axis=-1, keepdims=True)
    inner = a - mean - normed * product
    of_inner = of_mean + (np.abs(normed) + moved) * of_product + moved * np.abs(product)
    of_inner = of_inner + gamma(5) * (size + np.abs(mean) + np.abs(normed * product) + of_inner)
    dx = inverse * ((1 + root) * of_inner + (root + gamma(2)) * np.abs(inner)) + TINY
    leading = tuple(range(x.ndim - 1))
    rows = depth(x.size // n)
    dweight = (gamma(rows + 4) * np.abs(dy) * (np.abs(normed) + moved) + np.abs(dy) * moved).sum(axis=leading)
    return dx, dweight + TINY, column_sums_bound(dy)


def _inverse_error(x: NDArray, eps: float) -> NDArray:
    """Relative error of 1 / sqrt(var + eps): that of reference.layer_norm_bound's variance."""
    n, mean = x.shape[-1], x.mean(axis=-1, keepdims=True)
    centred = np.abs(x - mean)
    moved = gamma(n + 1) * np.abs(x).mean(axis=-1, keepdims=True) + U * np.abs(mean) + U * centred
    variance = (centred**2).mean(axis=-1, keepdims=True)
    change = (2 * centred * moved + moved**2).mean(axis=-1, keepdims=True) + gamma(n + 2) * variance
    relative = change / (variance + eps) + U
    return 1 / np.sqrt(np.maximum(1 - relative, 1e-12)) - 1 + gamma(4)


def column_sums_bound(x: NDArray) -> NDArray:
    return gamma(depth(x.size // x.shape[-1])) * np.abs(f64(x)).sum(axis=tuple(range(x.ndim - 1))) + TINY


# --- functions of single numbers ---


def _sigmoid(x: NDArray) -> NDArray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def activation(x: NDArray, act: str, cap: float = 1.0) -> NDArray:
    x = f64(x)
    if act == "relu":
        return np.maximum(x, 0)
    if act == "tanh":
        return np.tanh(x)
    if act == "sigmoid":
        return _sigmoid(x)
    if act == "softcap":
        return ref.softcap(x, cap)
    if act in ("gelu", "gelu_tanh"):
        with np.errstate(over="ignore"):
            return ref.gelu(x, "tanh" if act == "gelu_tanh" else "none")
    return ref.silu(x) if act == "silu" else x


def activation_bound(x: NDArray, act: str, cap: float = 1.0) -> NDArray:
    if act in ("none", "relu"):
        return np.zeros(np.shape(x)) + TINY
    if act == "tanh":  # as soft-capping by 1, without its division and product
        return ref.softcap_bound(x, 1.0)
    if act == "sigmoid":
        return gamma(2 * EXP_ULP + 3) * _sigmoid(f64(x)) + TINY
    if act == "softcap":
        return ref.softcap_bound(x, cap)
    if act == "silu":
        return ref.silu_bound(x)
    with np.errstate(over="ignore"):
        return ref.gelu_bound(x, "tanh" if act == "gelu_tanh" else "none")


def slope(x: NDArray, act: str, cap: float = 1.0) -> NDArray:
    """d act(x) / dx; relu's is 0 at 0."""
    return _slope_and_bound(f64(x), act, cap)[0]


def slope_bound(x: NDArray, act: str, cap: float = 1.0) -> NDArray:
    return _slope_and_bound(f64(x), act, cap)[1]


def _slope_and_bound(x: NDArray, act: str, cap: float) -> tuple[NDArray, NDArray]:
    """e = exp(-z) with the relative error of its argument times |z|, then s = 1 / (1 + e), 1 - s = e s, products."""
    both = 8 * EXP_ULP + 10  # roundings in s (1 - s) and one more product
    if act in ("none", "relu"):
        return (np.ones_like(x) if act == "none" else (x > 0) * 1.0), np.zeros_like(x) + TINY
    if act in ("sigmoid", "tanh", "softcap"):
        factor, roundings = (1.0, 0) if act == "sigmoid" else (4.0, 1)
        z = np.clip(x if act == "sigmoid" else 2 * (x / cap if act == "softcap" else x), -700, 700)
        y = factor * _sigmoid(z) * _sigmoid(-z)
        return y, gamma(both + roundings * np.abs(z)) * y + FLOOR
    if act == "gelu":
        z = np.clip(x, -40, 40)
        tail = ref.gelu(-np.abs(z)) / np.where(z == 0, 1, -np.abs(z))  # 1 - Phi(|x|)
        tail = np.where(z == 0, 0.5, tail)
        phi = np.exp(-z * z / 2) / np.sqrt(2 * np.pi)
        y = np.where(z > 0, 1 - tail, tail) + z * phi
        inner = z * z / 2 + 6  # sizes of the exponent and of the polynomial: each rounds at most four times
        error = tail * gamma(2 * EXP_ULP + 6 + 4 * inner) + np.abs(z) * phi * gamma(2 * EXP_ULP + 4 + 3 * inner)
        return y, error + gamma(2) * (np.abs(y) + (z > 0)) + FLOOR
    limit = 700.0 if act == "silu" else 25.0
    t = np.clip(x, -limit, limit)
    scale, bend = (1.0, 0.0) if act == "silu" else (2 * np.sqrt(2 / np.pi), 0.044715)
    z, inner = scale * (t + bend * t**3), scale * (1 + 3 * bend * t**2)
    s, rest = _sigmoid(z), _sigmoid(-z)
    shift = 0 if act == "silu" else 6  # roundings of z
    product = np.abs(t) * inner * s * rest
    error = s * gamma(both + shift * np.abs(z) * rest) + product * gamma(both + 6 + shift * np.abs(z) + shift)
    return s + t * inner * s * rest, error + FLOOR


# --- softmax, the loss ---


def softmax_backward(dy: NDArray, y: NDArray) -> NDArray:
    dy, y = f64(dy), f64(y)
    return y * (dy - (dy * y).sum(axis=-1, keepdims=True))


def softmax_backward_bound(dy: NDArray, y: NDArray) -> NDArray:
    dy, y = f64(dy), f64(y)
    total = (np.abs(dy) * y).sum(axis=-1, keepdims=True)
    return y * (gamma(y.shape[-1] + 2) * total + gamma(3) * np.abs(dy)) + TINY


def losses(logits: NDArray, targets: NDArray, smoothing: float = 0.0) -> NDArray:
    """-(1 - e) log p[target] - e mean(log p), (rows,); 0 where the target is ignored."""
    x = f64(logits)
    top = x.max(axis=-1, keepdims=True)
    log_p = x - top - np.log(np.exp(x - top).sum(axis=-1, keepdims=True))
    at = np.where(targets == IGNORED, 0, targets)
    value = -(1 - smoothing) * log_p[np.arange(len(x)), at]
    if smoothing:
        value = value - smoothing * log_p.mean(axis=-1)
    return np.where(targets == IGNORED, 0, value)


def loss_gradient(logits: NDArray, targets: NDArray, weights: NDArray, smoothing: float, scale: float) -> NDArray:
    kept = targets != IGNORED
    d = ref.softmax(logits) - smoothing / logits.shape[1]
    d[np.flatnonzero(kept), targets[kept]] -= 1 - smoothing
    return d * (scale * f64(weights) * kept)[:, None]


def _sum_error(logits: NDArray) -> NDArray:
    """Relative error of sum(exp(x - max)): 256 numbers in each of 16 lanes, their sum, exp and its argument."""
    x = f64(logits)
    drop = x.max(axis=-1, keepdims=True) - x
    p = ref.softmax(x)
    return (256 + 5 + 2 * EXP_ULP) * 1.01 * U + (p * drop).sum(axis=-1, keepdims=True) * 1.01 * U


def losses_bound(logits: NDArray, targets: NDArray, smoothing: float = 0.0) -> NDArray:
    """The sum's error is the logarithm's; then the sum of x for smoothing, then rounding to float32."""
    plain = smoothing * gamma(262) * np.abs(f64(logits)).mean(axis=-1)
    size = np.abs(losses(logits, targets, smoothing))
    return (_sum_error(logits)[:, 0] + plain + U * size + U * smoothing * size) * (targets != IGNORED) + TINY


def loss_gradient_bound(logits: NDArray, targets: NDArray, weights: NDArray, smoothing: float, scale: float) -> NDArray:
    x, k = f64(logits), logits.shape[1]
    drop = x.max(axis=-1, keepdims=True) - x
    p = ref.softmax(x)
    error = p * (_sum_error(x) + (drop + 2 * EXP_ULP + 5) * 1.01 * U) + gamma(3) * (p + smoothing / k) + TINY
    exact = np.abs(loss_gradient(logits, targets, weights, smoothing, scale))
    return error * np.abs(scale * f64(weights))[:, None] + gamma(2) * exact + TINY


# --- dropout ---


def philox(place: NDArray, seed: int, stream: int) -> NDArray:
    """Word (place / 16 % 4) of the ten-round Philox block with the counter (place / 64 * 16 + place % 16, stream), key
    seed. uint64 in, out."""
    low, m = np.uint64(0xFFFFFFFF), (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
    shift = np.uint64(32)
    block = place // np.uint64(64) * np.uint64(16) + place % np.uint64(16)
    c = [block & low, block >> shift, *(np.full_like(block, half) for half in (stream & 0xFFFFFFFF, stream >> 32))]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = c[0] * m[0], c[2] * m[1]
        c = [(b >> shift) ^ c[1] ^ np.uint64(key[0]), b & low, (a >> shift) ^ c[3] ^ np.uint64(key[1]), a & low]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.choose((place // np.uint64(16) % np.uint64(4)).astype(int), c)


def dropout(x: NDArray, p: float, seed: int, stream: int, offset: int) -> NDArray:
    """Exact: x times 1 / (1 - p) in float32, or 0."""
    place = np.uint64(offset) + np.arange(x.size, dtype=np.uint64)
    keep = philox(place, seed, stream) >= np.uint64(np.rint(p * 2.0**32))
    return x * np.where(keep, np.float32(1 / (1 - p)), np.float32(0)).reshape(x.shape)


# --- optimisers ---


def adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, step, scale):
    """(p, m, v) after a step, and their bounds: roundings of m, of v (its root halves them), of the step."""
    p, g, m, v = f64(p), f64(g) * scale, f64(m), f64(v)
    new_m, new_v = m + (1 - beta1) * (g - m), beta2 * v + (1 - beta2) * g * g
    divisor = np.sqrt(new_v) / np.sqrt(1 - beta2**step) + eps
    factor = lr / (1 - beta1**step)
    moved = factor * new_m / divisor
    new_p = p * (1 - lr * weight_decay) - moved
    of_m = gamma(6) * (np.abs(m) + (1 - beta1) * (np.abs(g) + np.abs(m))) + TINY
    of_v = gamma(7) * new_v + TINY
    of_root = np.sqrt(of_v) * (new_v < TINY) / np.sqrt(1 - beta2**step)  # where v itself underflows
    of_p = factor / divisor * (of_m + (gamma(12) + of_root / divisor) * np.abs(new_m))
    of_p = of_p + gamma(3) * (np.abs(p) + np.abs(moved)) + TINY
    return (new_p, new_m, new_v), (of_p, of_m, of_v)


def sgd(p, g, m, lr, momentum, weight_decay, nesterov, scale, first):
    """(p, m) after a step, and their bounds; m None stays None."""
    p, g = f64(p), f64(g) * scale
    size = np.abs(g) + weight_decay * np.abs(p)
    g = g + weight_decay * p
    new_m = None
    if m is not None:
        new_m = g if first else momentum * f64(m) + g
        size_m = size if first else momentum * np.abs(f64(m)) + size
        g, size = (g + momentum * new_m, size + momentum * size_m) if nesterov else (new_m, size_m)
    of_p = gamma(8) * lr * size + gamma(2) * np.abs(p) + TINY
    return (p - lr * g, new_m), (of_p, None if m is None else gamma(5) * size_m + TINY)
