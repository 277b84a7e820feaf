"""Write RESULTS.md and docs/speed.svg from benchmarks/results.json. Run: python benchmarks/chart.py

results.json: {"machines": {key: description}, "results": [...]}. A result has group, what, figure, unit, command,
machine (a key), date; `peer` and `peer_figure` where another system did the same work in the same run, with `ratio`,
its `interval` and what was `asked` where it was measured in pairs (and then every pair's seconds); `note` where
something must be said. Results with "chart": true are drawn, pyllm beside the peer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "benchmarks" / "results.json"
OURS, THEIRS, INK, PAPER = "#2563eb", "#94a3b8", "#1f2933", "#ffffff"
COLUMNS = ("what", "figure", "beside it", "command", "machine", "date")
PAIRED = ("times as fast", "95 % interval", "asked")
WIDTH, LEFT, RIGHT, BAR = 760, 190, 90, 20


def number(value: float) -> str:
    """A figure as a person reads it: no more digits than it has."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.5g}"


def cell(text: object) -> str:
    """Text that cannot break a table."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of one group."""
    paired = any("ratio" in r for r in rows)
    columns = (*COLUMNS[:3], *PAIRED, *COLUMNS[3:]) if paired else COLUMNS
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for r in rows:
        peer = f"{r['peer']}: {number(r['peer_figure'])} {r['unit']}" if "peer" in r else ""
        note = f" ({r['note']})" if "note" in r else ""
        ratio = ["", "", ""]
        if "ratio" in r:
            low, high = r["interval"]
            ratio = [f"**{r['ratio']:.2f}**", f"{low:.2f} to {high:.2f}, {r['pairs']} pairs", r["asked"]]
        cells = [r["what"], f"**{number(r['figure'])}** {r['unit']}{note}", peer, *(ratio if paired else [])]
        cells += [f"`{r['command']}`", r["machine"], r["date"]]
        lines.append("| " + " | ".join(map(cell, cells)) + " |")
    return lines


def markdown(data: dict[str, Any]) -> str:
    """RESULTS.md: one table per group, then the machines."""
    lines = [
        "# Results",
        "",
        "Every figure was measured; the command, the machine and the day stand beside it. Other systems ran in the",
        "same run, in turns, on the same file, with the same threads. Written by `benchmarks/chart.py` from",
        "`benchmarks/results.json`.",
    ]
    for group in dict.fromkeys(r["group"] for r in data["results"]):
        lines += ["", f"## {group}", "", *table([r for r in data["results"] if r["group"] == group])]
    if not data["results"]:
        lines += ["", "No figure has been taken yet."]
    lines += ["", "## Machines", ""]
    lines += [f"- **{key}**: {text}" for key, text in data["machines"].items()]
    return "\n".join(lines) + "\n"


def bars(y: float, result: dict[str, Any]) -> list[str]:
    """One result: its name, a bar for pyllm and one for the peer, both on a scale of their own pair."""
    pairs = [("pyllm", result["figure"], OURS)]
    if "peer" in result:
        pairs.append((result["peer"], result["peer_figure"], THEIRS))
    most = max(value for _, value, _ in pairs)
    times = f": {result['ratio']:.1f} times as fast" if "ratio" in result else ""
    parts = [f'<text x="16" y="{y + 15:g}" font-weight="bold">{result["what"]}{times}</text>']
    y += BAR + 2
    for i, (who, value, colour) in enumerate(pairs):
        top = y + i * (BAR + 4)
        length = (WIDTH - LEFT - RIGHT) * value / most
        parts += [
            f'<rect x="{LEFT}" y="{top:g}" width="{length:.1f}" height="{BAR}" rx="3" fill="{colour}"/>',
            f'<text x="{LEFT + length + 6:.1f}" y="{top + 15:g}">{number(value)}</text>',
            f'<text x="{LEFT - 8}" y="{top + 15:g}" text-anchor="end" font-size="12">{who}</text>',
        ]
    return parts


def svg(data: dict[str, Any]) -> str:
    """The chart: every result marked for it, in the order of the file."""
    drawn = [r for r in data["results"] if r.get("chart")]
    step = 3 * BAR + 20
    height = 44 + step * len(drawn) + 26
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="13" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="{PAPER}"/>',
        f'<text x="16" y="26" font-size="15">{drawn[0]["unit"]}, more is better; same file, same two threads</text>',
    ]
    for i, result in enumerate(drawn):
        parts += bars(44 + i * step, result)
    source = f"machine {drawn[0]['machine']}, {drawn[0]['date']}; RESULTS.md has the commands"
    parts.append(f'<text x="16" y="{height - 14}" font-size="11">{source}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Write both files; the chart only when something is marked for it."""
    data = json.loads(SOURCE.read_text(encoding="utf-8"))
    (ROOT / "RESULTS.md").write_text(markdown(data), encoding="utf-8")
    if any(r.get("chart") for r in data["results"]):
        (ROOT / "docs" / "speed.svg").write_text(svg(data), encoding="utf-8")


if __name__ == "__main__":
    main()
