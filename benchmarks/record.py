"""Enter what a campaign measured into results.json, then rewrite RESULTS.md and the chart.

record.py FILE.json [FILE.json ...] [--machine A]

Takes the --json files of compare.py and quality.py. A figure replaces the one of the same name.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import chart

Result = dict[str, Any]
PEER_NAMES = {"llama.cpp-flash": "llama.cpp, flash attention"}


def compared(data: Result) -> list[Result]:
    """Results of compare.py: prompt, decoding and first token beside the faster peer."""
    name, found = data["model"].removesuffix(".gguf"), []
    kinds = {"prompt": ("reading a prompt", "tokens/s"), "decode": ("decoding", "tokens/s")}
    kinds["first_token"] = ("process start to first token", "s")
    for key, (what, unit) in kinds.items():
        part = data[key]
        peer = part["against"]
        ratio = part["ratio"][peer]
        low, high = ratio["interval"]
        figures = [part["per_second"]["pyllm"], part["per_second"][peer]]
        note = f"{ratio['median']:.2f} times as fast, 95 % interval {low:.2f} to {high:.2f}, {part['pairs']} pairs"
        ours, theirs = [1 / f for f in figures] if unit == "s" else figures
        found.append(
            {
                "group": "Speed",
                "what": f"{name}: {what}",
                "figure": ours,
                "unit": unit,
                "peer": PEER_NAMES.get(peer, peer),
                "peer_figure": theirs,
                "note": note,
                "command": f"benchmarks/compare.py {data['model']} --threads {data['threads']}",
                "date": data["facts"]["date"],
                **({"chart": True} if unit == "tokens/s" else {}),
            }
        )
    return found


def judged(data: Result) -> list[Result]:
    """Results of quality.py: how near the logits are to float64 on the same weights, beside llama.cpp's."""
    kinds = {"top_token_percent": ("top token equal", "%"), "kl_mean": ("mean KL divergence", "nats"),
             "perplexity_percent": ("perplexity above float64's", "%")}  # fmt: skip
    ours, theirs, precision = data["pyllm"], data["llama.cpp"], data["precision"]
    name = data["model"].removesuffix(".gguf")
    command = f"benchmarks/quality.py {data['model']} TEXT --tokens {ours['positions']} --precision {precision}"
    return [
        {
            "group": "Nearness to float64 on the same weights",
            "what": f"{name}, precision {precision}: {what}",
            "figure": ours[key],
            "unit": unit,
            "peer": "llama.cpp",
            "peer_figure": theirs[key],
            "command": command,
            "date": time.strftime("%Y-%m-%d"),
        }
        for key, (what, unit) in kinds.items()
    ]


def enter(results: list[Result], new: list[Result]) -> list[Result]:
    """The list with each new result in the place of the one of its name, or at the end."""
    by_name = {result["what"]: result for result in results}
    return list({**by_name, **{result["what"]: result for result in new}}.values())


def main() -> None:
    """Read the files, enter their figures, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--machine", default="A", help="key of the machine in results.json")
    options = parser.parse_args()
    data = json.loads(chart.SOURCE.read_text(encoding="utf-8"))
    for path in options.files:
        measured = json.loads(path.read_text(encoding="utf-8"))
        new = compared(measured) if "decode" in measured else judged(measured)
        data["results"] = enter(data["results"], [{**result, "machine": options.machine} for result in new])
    chart.SOURCE.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    chart.main()


if __name__ == "__main__":
    main()
