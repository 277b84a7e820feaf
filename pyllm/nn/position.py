"""Positions: sines and cosines, and rotary frequencies, plain and stretched for longer contexts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sinusoids(positions: int, width: int) -> NDArray[np.float32]:
    """(positions, width): sin(p / 10000^(2i / width)) at 2i, cos of the same at 2i + 1. arXiv:1706.03762."""
    frequency = 10000.0 ** (-np.arange(0, width, 2) / width)
    angle = np.arange(positions, dtype=np.float64)[:, None] * frequency
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(positions, -1)[:, :width].astype(np.float32)


def rotary_frequencies(dim: int, theta: float, scaling: dict[str, Any] | None) -> tuple[list[float], float]:
    """(frequencies of the dim/2 pairs, magnitude of cosines and sines).

    Plain: theta^(-2i/dim), magnitude 1 (arXiv:2104.09864). scaling["type"]: linear, llama3, yarn (arXiv:2309.00071),
    frequencies (a divisor per pair), dynamic (theta grows with the context beyond the trained one), longrope
    (arXiv:2402.13753: a divisor per pair, other ones beyond the original context). The last two follow
    scaling["context"], fixed when a model is loaded: followed from token to token, as elsewhere, an answer would depend
    on how its text was cut into steps.
    """
    plain = [theta ** (-2 * i / dim) for i in range(dim // 2)]
    kind = None if scaling is None else scaling["type"]
    if scaling is None:
        return plain, 1.0
    if kind == "dynamic":
        return _dynamic(plain, dim, scaling), 1.0
    if kind == "longrope":
        long = scaling["context"] > scaling["original_max_position_embeddings"]
        divisors = scaling["long_factor" if long else "short_factor"]
        return [f / divisor for f, divisor in zip(plain, divisors, strict=True)], _longrope_magnitude(scaling)
    if kind == "linear":
        return [f / scaling["factor"] for f in plain], 1.0
    if kind == "frequencies":
        return [f / divisor for f, divisor in zip(plain, scaling["factors"], strict=True)], 1.0
    if kind == "llama3":
        return [_llama3(f, scaling) for f in plain], 1.0
    if kind == "yarn":
        return _yarn(plain, dim, theta, scaling), _yarn_magnitude(scaling)
    known = "linear, dynamic, llama3, yarn, longrope, frequencies"
    raise ValueError(f"rotary positions: scaling '{kind}' is not known; {known} are")


def rotary_context(scaling: dict[str, Any] | None, trained: int) -> int:
    """Positions that may be rotated: scaling["context"] where the rotation follows it."""
    return trained if scaling is None else int(scaling.get("context", trained))


def _dynamic(plain: list[float], dim: int, s: dict[str, Any]) -> list[float]:
    """theta times (factor c - factor + 1)^(dim / (dim - 2)), where c is the context in trained contexts, above 1."""
    grown = max(1.0, s["factor"] * s["context"] / s["original_max_position_embeddings"] - s["factor"] + 1)
    return [f * grown ** (-2 * i / max(dim - 2, 1)) for i, f in enumerate(plain)]


def _longrope_magnitude(s: dict[str, Any]) -> float:
    """sqrt(1 + ln(factor) / ln(original context)) unless the configuration says otherwise."""
    if s["attention_factor"] is not None:
        return float(s["attention_factor"])
    original = max(s["original_max_position_embeddings"], 2)
    return math.sqrt(1 + math.log(s["factor"]) / math.log(original)) if s["factor"] > 1 else 1.0


def _llama3(frequency: float, s: dict[str, Any]) -> float:
    """Long waves are stretched by `factor`, short ones kept, those between blended."""
    turns = s["original_max_position_embeddings"] * frequency / (2 * math.pi)  # within the original context
    low, high = s["low_freq_factor"], s["high_freq_factor"]
    keep = min(1.0, max(0.0, (turns - low) / (high - low)))
    return frequency * (keep + (1 - keep) / s["factor"])


def _yarn(plain: list[float], dim: int, theta: float, s: dict[str, Any]) -> list[float]:
    """Between the pairs that turn beta_fast and beta_slow times in the original context, from kept to stretched."""
    context = s["original_max_position_embeddings"]
    low, high = (
        dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))
        for turns in (s["beta_fast"], s["beta_slow"])
    )
    if s["truncate"]:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # as the reference does: a step, not a division by zero
    stretch = [min(1.0, max(0.0, (i - low) / (high - low))) for i in range(dim // 2)]
    return [f * (1 - part + part / s["factor"]) for f, part in zip(plain, stretch, strict=True)]


def _yarn_magnitude(s: dict[str, Any]) -> float:
    """Sharpens attention as the context grows: 0.1 ln(factor) + 1 unless the configuration says otherwise."""

    def grown(weight: float) -> float:
        return 0.1 * weight * math.log(s["factor"]) + 1 if s["factor"] > 1 else 1.0

    if s["attention_factor"] is not None:
        return float(s["attention_factor"])
    if s["mscale"] and s["mscale_all_dim"]:
        return grown(s["mscale"]) / grown(s["mscale_all_dim"])
    return grown(1)
