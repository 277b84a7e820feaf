"""Curves as inline SVG: lines over steps with axes, and bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 68, 12, 14, 34
MOST_POINTS = 1200  # of a line; more are thinned to the least and greatest of each stretch
COLOURS = ("var(--a)", "var(--b)", "var(--c)", "var(--d)", "var(--e)")

Point = tuple[float, float]


class Line(NamedTuple):
    """A named line; points in order of x. A y that is not finite interrupts it. dots: mark each point."""

    name: str
    points: Sequence[Point]
    dots: bool = False


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most about `most` points: of each stretch the least and the greatest, so that no peak is lost.

    A stretch with a value that is not finite ends with one such, as the line is to be interrupted there.
    """
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(2 * len(points) / most)
    found: list[Point] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        finite = [point for point in part if math.isfinite(point[1])]
        if finite:
            low, high = min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])
            found += [low] if low == high else sorted((low, high))
        if len(finite) < len(part):
            found.append((part[-1][0], math.nan))
    return found


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within low..high."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * m for m in (1, 2, 5, 10, 20) if span / (power * m) <= most)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Least and greatest, widened where they are equal."""
    low, high = min(values), max(values)
    if high - low <= max(1e-12 * max(abs(low), abs(high)), 1e-290):
        margin = abs(low) * 0.1 or 1.0
        return low - margin, high + margin
    return low, high


def _pieces(points: Sequence[Point]) -> list[list[Point]]:
    """Runs of points whose y is finite."""
    found: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            found[-1].append(point)
        elif found[-1]:
            found.append([])
    return [piece for piece in found if piece]


def curves(title: str, lines: Sequence[Line], y_name: str, x_name: str = "step") -> str:
    """An SVG of lines over steps, or what x_name says; a sentence where no point is finite."""
    pieces = [(line, _pieces(thinned(line.points))) for line in lines]
    points = [point for _, parts in pieces for piece in parts for point in piece if abs(point[1]) < 1e300]
    if not points:
        return f"<p class='none'>{escape(title)}: nothing was recorded.</p>"
    x_range, y_range = _range([x for x, _ in points]), _range([y for _, y in points])

    def place(point: Point) -> Point:
        x = LEFT + (point[0] - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - (point[1] - y_range[0]) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM)
        return x, min(max(y, TOP), HEIGHT - BOTTOM)

    drawn = [*_axes(place, x_range, y_range, y_name, x_name)]
    for index, (line, parts) in enumerate(pieces):
        colour = COLOURS[index % len(COLOURS)]
        for piece in parts:
            drawn += _line([place(point) for point in piece], colour, line.dots)
        if len(lines) > 1:
            at = f"x='{WIDTH - RIGHT - 110}' y='{TOP + 14 + 16 * index}' style='fill:{colour}'"
            drawn.append(f"<text {at}>{escape(line.name)}</text>")
    head = f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{escape(title)}'>"
    return f"<figure><figcaption>{escape(title)}</figcaption>{head}{''.join(drawn)}</svg></figure>"


def _line(places: Sequence[tuple[float, float]], colour: str, dots: bool) -> list[str]:
    """A stretch of a line, and its points where they are few."""
    found = []
    if len(places) > 1:
        written = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        found.append(f"<polyline points='{written}' fill='none' stroke='{colour}' stroke-width='1.5'/>")
    if dots or len(places) == 1:
        found += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.5' fill='{colour}'/>" for x, y in places]
    return found


def _axes(place: Callable[[Point], Point], x_range: Point, y_range: Point, y_name: str, x_name: str) -> list[str]:
    """Grid, numbers and the names of both axes."""
    drawn = []
    for value in ticks(*y_range):
        _, y = place((x_range[0], value))
        drawn.append(f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}' class='grid'/>")
        drawn.append(f"<text x='{LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{value:,.6g}</text>")
    for value in ticks(*x_range):
        x, _ = place((value, y_range[0]))
        drawn.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{TOP}' y2='{HEIGHT - BOTTOM}' class='grid'/>")
        drawn.append(f"<text x='{x:.1f}' y='{HEIGHT - BOTTOM + 14}' text-anchor='middle'>{value:,.10g}</text>")
    centre = f"x='{(LEFT + WIDTH - RIGHT) / 2:.0f}' y='{HEIGHT - 4}' text-anchor='middle'"
    drawn.append(f"<text {centre}>{escape(x_name)}</text>")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f"transform='translate(12 {middle:.0f}) rotate(-90)' text-anchor='middle'"
    drawn.append(f"<text {turned}>{escape(y_name)}</text>")
    return drawn


def bars(rows: Sequence[tuple[str, int]]) -> str:
    """An SVG of one bar a row, with its number and its share."""
    total, longest = sum(n for _, n in rows) or 1, max((n for _, n in rows), default=0) or 1
    drawn = []
    for index, (name, n) in enumerate(rows):
        y = 22 * index
        drawn.append(f"<text x='0' y='{y + 14}'>{escape(name)}</text>")
        drawn.append(f"<rect x='250' y='{y + 3}' width='{220 * n / longest:.1f}' height='14' fill='var(--a)'/>")
        drawn.append(f"<text x='{256 + 220 * n / longest:.1f}' y='{y + 14}'>{n:,} ({100 * n / total:.1f} %)</text>")
    return f"<svg viewBox='0 0 {WIDTH} {22 * len(rows) + 4}' role='img' aria-label='parameters'>{''.join(drawn)}</svg>"
