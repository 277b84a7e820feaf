"""Learning rates as functions of the step: each gives the factor of the peak rate."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def _warm(step: int, warmup: int) -> float:
    return (step + 1) / warmup if step < warmup else 1.0


def constant(steps: int, warmup: int = 0) -> Schedule:
    """A straight rise over `warmup` steps, then 1."""
    return lambda step: _warm(step, warmup)


def linear(steps: int, warmup: int = 0, least: float = 0.0) -> Schedule:
    """A straight rise over `warmup` steps, then a straight fall to `least` at the last of `steps`."""
    return lambda step: _warm(step, warmup) if step < warmup else 1 - (1 - least) * _done(step, steps, warmup)


def cosine(steps: int, warmup: int = 0, least: float = 0.1) -> Schedule:
    """A straight rise over `warmup` steps, then half a cosine to `least`. Loshchilov, Hutter 2017, arXiv:1608.03983."""

    def factor(step: int) -> float:
        if step < warmup:
            return _warm(step, warmup)
        return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * _done(step, steps, warmup)))

    return factor


def one_cycle(steps: int, warmup: int = 0, start: float = 1 / 25, least: float = 4e-6) -> Schedule:
    """From `start` up to 1 with the last of `warmup` steps (0: three tenths), down to `least` with the last of all, by
    cosines: PyTorch's OneCycleLR. Smith, Topin 2017, arXiv:1708.07120."""
    peak = (warmup or 0.3 * steps) - 1
    rest = max(1e-9, steps - 1 - peak)  # a warm-up may be all there is

    def factor(step: int) -> float:
        if step <= peak:
            return 1 - (1 - start) * 0.5 * (1 + math.cos(math.pi * step / peak)) if peak else 1.0
        return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - peak) / rest)))

    return factor


def slanted_triangular(steps: int, warmup: int = 0, cut: float = 0.1, ratio: float = 32.0) -> Schedule:
    """A steep straight rise over `warmup` steps (0: a share `cut` of all), then a long straight fall; at both ends
    1 / ratio of the peak. (1 + p (ratio - 1)) / ratio, p = t / c below c = floor(cut steps), else
    1 - (t - c) / (steps - c). Howard, Ruder 2018, arXiv:1801.06146.
    """
    top = warmup or max(1, math.floor(cut * steps))

    def factor(step: int) -> float:
        p = step / top if step < top else 1 - _done(step, steps, top)
        return (1 + p * (ratio - 1)) / ratio

    return factor


def inverse_sqrt(steps: int, warmup: int = 4000) -> Schedule:
    """min((step + 1) / warmup, sqrt(warmup / (step + 1))): the Transformer's. Vaswani et al. 2017, arXiv:1706.03762."""
    least = max(warmup, 1)
    return lambda step: min((step + 1) / least, math.sqrt(least / (step + 1)))


def _done(step: int, steps: int, warmup: int) -> float:
    """How much of the way after the warm-up is done."""
    return min(1.0, (step - warmup) / max(1, steps - warmup))


_KINDS: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "inverse_sqrt": inverse_sqrt,
    "slanted_triangular": slanted_triangular,
}


def schedule(kind: str, steps: int, warmup: int = 0) -> Schedule:
    """A schedule by its name. Raises ValueError that lists the names."""
    if kind not in _KINDS:
        raise ValueError(f"schedule: {kind!r} is not known; known are {', '.join(_KINDS)}")
    return _KINDS[kind](steps, warmup)
