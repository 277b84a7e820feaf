"""What benchmarks/ulmfit.py draws and prints: four panels over the number of labels, bars of one deviation; a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PANELS = (("accuracy", "accuracy", False), ("seconds", "training seconds", True), ("bytes", "bytes", True),
          ("latency_ms", "ms a sentence", True))  # fmt: skip
COLOURS = ("#777777", "#c4501b", "#7a3fb2", "#1f6fb2", "#2a8a4a", "#b2891f")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 260, 58, 34, 26


def spread(rows: Sequence[dict[str, Any]], system: str, labels: str, name: str) -> tuple[float, float, int] | None:
    """(mean, standard deviation, how many seeds), None where nothing was measured."""
    found = [row[name] for row in rows if row["system"] == system and row["labels"] == labels]
    return (statistics.mean(found), statistics.stdev(found) if len(found) > 1 else 0.0, len(found)) if found else None


def _ordered(rows: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({row["labels"] for row in rows}, key=lambda each: math.inf if each == "all" else int(each))


def draw(rows: Sequence[dict[str, Any]], systems: Sequence[str], path: Path) -> str:
    """Write the picture; gives the table of all systems, ablations too, as Markdown."""
    labels = _ordered(rows)
    if not labels:
        return "no results"
    parts = [_panel(rows, systems, labels, i, *panel) for i, panel in enumerate(PANELS)]
    names = "".join(
        f"<text x='{LEFT + 90 * i}' y='{2 * HEIGHT + 18}' fill='{COLOURS[i]}'>{system}</text>"
        for i, system in enumerate(systems)
    )
    style = "<style>text{font:11px sans-serif}</style><rect width='100%' height='100%' fill='white'/>"
    size = f"width='{2 * WIDTH}' height='{2 * HEIGHT + 28}'"
    path.write_text(f"<svg xmlns='http://www.w3.org/2000/svg' {size}>{style}{''.join(parts)}{names}</svg>\n")
    return table(rows, labels)


def table(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> str:
    """A line for each system and number of labels."""
    lines = [
        "| labels | system | accuracy | F1 | MCC | seconds | parameters | ms a sentence | seeds |",
        "|" + "---|" * 9,
    ]
    for each in labels:
        for system in dict.fromkeys(row["system"] for row in rows):
            found = [spread(rows, system, each, name) for name in ("accuracy", "f1", "mcc", "seconds", "latency_ms")]
            size = spread(rows, system, each, "parameters")
            if found[0] is None or size is None:
                continue
            (a, da, n), (f, df, _), (m, dm, _), (s, ds, _), (t, _, _) = (cell for cell in found if cell)
            cells = f"{a:.3f} ± {da:.3f} | {f:.3f} ± {df:.3f} | {m:.3f} ± {dm:.3f} | {s:.1f} ± {ds:.1f}"
            lines.append(f"| {each} | {system} | {cells} | {size[0]:,.0f} | {t:.2f} | {n} |")
    return "\n".join(lines)


def _panel(
    rows: Sequence[dict[str, Any]],
    systems: Sequence[str],
    labels: list[str],
    number: int,
    name: str,
    title: str,
    log: bool,
) -> str:
    """One of four: points with error bars, joined by lines; x is the number of labels, evenly spaced."""
    found = {(s, k): spread(rows, s, each, name) for s in systems for k, each in enumerate(labels)}
    scale = (lambda v: math.log10(max(v, 1e-6))) if log else (lambda v: v)
    ends = [
        scale(v) for cell in found.values() if cell for v in (max(cell[0] - cell[1], cell[0] / 2), cell[0] + cell[1])
    ]
    if not ends:
        return ""
    low, high = min(ends), max(ends) if max(ends) > min(ends) else min(ends) + 1
    dx, dy = WIDTH * (number % 2), HEIGHT * (number // 2)

    def place(k: float, value: float) -> tuple[float, float]:
        share = min(max((scale(value) - low) / (high - low), 0.0), 1.0)
        x = dx + LEFT + 30 + k * (WIDTH - LEFT - 60) / max(len(labels) - 1, 1)
        return x, dy + HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    drawn = [f"<text x='{dx + LEFT}' y='{dy + 14}' font-weight='bold'>{title}</text>"]
    for i in range(5):
        value = low + (high - low) * i / 4
        shown = 10**value if log else value
        _, y = place(0, shown)
        drawn.append(f"<line x1='{dx + LEFT}' x2='{dx + WIDTH - 10}' y1='{y:.1f}' y2='{y:.1f}' stroke='#ddd'/>")
        drawn.append(f"<text x='{dx + LEFT - 4}' y='{y + 4:.1f}' text-anchor='end'>{shown:.3g}</text>")
    for k, each in enumerate(labels):
        x, _ = place(k, 10**low if log else low)
        drawn.append(f"<text x='{x:.1f}' y='{dy + HEIGHT - BOTTOM + 16}' text-anchor='middle'>{each}</text>")
    for i, system in enumerate(systems):
        cells = [(k, cell) for k in range(len(labels)) if (cell := found[system, k])]
        shifted = [(k + 0.03 * (i - 1.5), cell) for k, cell in cells]
        points = " ".join("{:.1f},{:.1f}".format(*place(k, mean)) for k, (mean, _, _) in shifted)
        drawn.append(f"<polyline points='{points}' fill='none' stroke='{COLOURS[i]}'/>")
        for k, (mean, deviation, _) in shifted:
            (x, y), (_, y1), (_, y2) = place(k, mean), place(k, mean - deviation), place(k, mean + deviation)
            drawn.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{COLOURS[i]}'/>")
            drawn.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{y1:.1f}' y2='{y2:.1f}' stroke='{COLOURS[i]}'/>")
    return "".join(drawn)
