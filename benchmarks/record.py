"""Enter what a campaign measured into results.json, then rewrite RESULTS.md and the chart.

record.py FILE.json [FILE.json ...] [--machine A]

Takes the files of compare.py, gemm.py, training.py, encoders.py, quality.py, and of
`make bench ARGS="--benchmark_out=FILE.json"`. A figure replaces the one of the same name in its group; a run of native
benchmarks replaces its whole group.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import chart

Result = dict[str, Any]
PEER_NAMES = {"llama.cpp-flash": "llama.cpp, flash attention", "torch": "PyTorch", "torch-onednn": "PyTorch, oneDNN",
              "numpy-transposed": "numpy", "ort-int8": "ONNX Runtime, int8", "ort-fp32": "ONNX Runtime",
              "ct2-int8": "CTranslate2, int8", "ct2-float32": "CTranslate2", "torch-bf16": "PyTorch, bf16",
              "torch-fp32": "PyTorch"}  # fmt: skip
ISAS = {
    "avx512amx": "AVX-512 with AMX",
    "avx512vnni": "AVX-512 with VNNI and BF16",
    "avx512": "AVX-512",
    "avx2": "AVX2",
    "base": "the baseline",
}


def beside(data: Result) -> Result:
    """What every paired result says: both figures, the ratio with its interval, and the samples behind them."""
    peer = data["against"]
    ratio = data["ratio"][peer]
    names = list(data["per_second"])
    return {
        "figure": data["per_second"]["pyllm"],
        "peer": PEER_NAMES.get(peer, peer),
        "peer_figure": data["per_second"][peer],
        "ratio": ratio["median"],
        "interval": ratio["interval"],
        "pairs": data["pairs"],
        "dropped": data["dropped"],
        "seconds": {name: [float(f"{r['seconds'][name]:.5g}") for r in data["raw"]] for name in names},
    }


def compared(data: Result) -> list[Result]:
    """A row of compare.py."""
    row, found = data["row"], beside(data)
    if row["peer_file"]:
        found["peer"] += " on " + row["peer_file"].split("-")[1]
    if row["seconds"] is not None:
        found |= {key: 1 / found[key] for key in ("figure", "peer_figure")}
    asked = f"at most {row['seconds']} s" if row["seconds"] else f"{row['asked']}" if row["asked"] else ""
    return [
        {
            "group": "Speed",
            "what": f"{data['model'].removesuffix('.gguf')}: {row['what']}",
            "unit": "s" if row["seconds"] is not None else "tokens/s",
            **found,
            "asked": asked,
            "versions": {name: facts["version"] for name, facts in data["facts"]["engines"].items()},
            "command": f"benchmarks/compare.py {row['name']} --threads {data['threads']}",
            "date": data["facts"]["date"],
            **({"chart": True} if row["chart"] else {}),
        }
    ]


def multiplied(data: Result) -> list[Result]:
    """The products of gemm.py."""
    return [
        {
            "group": "Products of matrices",
            "what": f"{product['gemm']}, rows x outputs x inputs",
            "unit": "GFLOP/s",
            **beside(product),
            "asked": "1",
            "versions": data["facts"]["versions"],
            "command": f"benchmarks/gemm.py --threads {product['threads']}",
            "date": data["facts"]["date"],
        }
        for product in data["products"]
    ]


def trained(data: Result) -> list[Result]:
    """The steps of training.py and recurrent.py: speed beside PyTorch, then memory."""
    found = []
    for row in data["training"]:
        used = row["memory_MB"]
        common = {"group": "Training steps", "versions": data["facts"]["versions"], "date": data["facts"]["date"],
                  "command": f"benchmarks/{row['module']}.py {row['row']} --threads {row['threads']}"}  # fmt: skip
        found.append({"what": row["what"], "unit": "tokens/s", **beside(row), "asked": f"{row['asked']}", **common})
        share = f"{used['pyllm'] / used['torch']:.2f} of PyTorch's {used['torch']:,.0f}"
        found.append({"what": f"{row['what']}: memory at most", "figure": used["pyllm"], "unit": "MB", "note": share,
                      **common})  # fmt: skip
    return found


def encoded(data: Result) -> list[Result]:
    """The rows of encoders.py."""
    return [
        {
            "group": "Encoders and encoder-decoders",
            "what": row["what"],
            "unit": "tokens/s",
            **beside(row),
            "asked": f"{row['asked']}",
            "versions": data["facts"]["versions"],
            "command": f"benchmarks/encoders.py {row['row']} --threads {row['threads']}",
            "date": data["facts"]["date"],
        }
        for row in data["encoders"]
    ]


def kernels(data: Result) -> list[Result]:
    """Google Benchmark's: of each kernel the median where it was repeated, and every repetition's time."""
    found: dict[str, Result] = {}
    for run in data["benchmarks"]:
        if run.get("aggregate_name", "median") != "median":
            continue
        kernel, kind, shape, isa = run["run_name"].split("/")[:4]
        result = found.setdefault(run["run_name"], {"nanoseconds": []})
        if run["run_type"] == "iteration":
            result["nanoseconds"].append(float(f"{run['real_time']:.5g}"))
        limit = run["label"]
        unit = "GB/s" if limit == "read" else "GOP/s"
        what = "read bandwidth" if limit == "read" else f"{limit} peak"
        result |= {
            "group": f"Kernels on {ISAS[isa]}",
            "what": f"{kernel} {kind} {shape}",
            "figure": run[unit],
            "unit": unit,
            "note": f"{run['%limit']:.0f} % of the {what} of the same minute",
            "command": "make bench",
            "date": data["context"]["date"][:10],
        }
    return list(found.values())


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
    """The list with each new result in the place of the one of its name and group, or at the end."""
    whole = {result["group"] for result in new if "nanoseconds" in result}
    kept = [result for result in results if result["group"] not in whole]
    by_name = {(result["group"], result["what"]): result for result in [*kept, *new]}
    return list(by_name.values())


def written(data: Result) -> str:
    """JSON with a list of numbers on one line."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    return re.sub(r"\[[\s\d.,eE+-]+\]", lambda found: " ".join(found.group().split()), text) + "\n"


def told(data: Result) -> list[Result]:
    """What a command printed, as {"entries": [{"group", "what", "figure", "unit", "note", "command"}, ...]}."""
    return [{"date": time.strftime("%Y-%m-%d"), **entry} for entry in data["entries"]]


READERS = {"training": trained, "encoders": encoded, "row": compared, "products": multiplied, "benchmarks": kernels,
           "precision": judged, "entries": told}  # fmt: skip


def main() -> None:
    """Read the files, enter their figures, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--machine", default="A", help="key of the machine in results.json")
    options = parser.parse_args()
    data = json.loads(chart.SOURCE.read_text(encoding="utf-8"))
    for path in options.files:
        measured = json.loads(path.read_text(encoding="utf-8"))
        new = next(read for key, read in READERS.items() if key in measured)(measured)
        data["results"] = enter(data["results"], [{**result, "machine": options.machine} for result in new])
    chart.SOURCE.write_text(written(data), encoding="utf-8")
    chart.main()


if __name__ == "__main__":
    main()
