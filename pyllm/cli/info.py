"""Describe a model file without loading it: architecture, shapes, tensor types, parameters, memory plan."""

from __future__ import annotations

import argparse
import math
from typing import Any

from pyllm.cli import doctor, options, output

# What a row is called, its key in GGUF (after the architecture's name) and in config.json, LLaMA's and GPT-2's names.
FIELDS = {
    "layers": ("block_count", ("num_hidden_layers", "n_layer")),
    "width": ("embedding_length", ("hidden_size", "n_embd")),
    "heads": ("attention.head_count", ("num_attention_heads", "n_head")),
    "kv_heads": ("attention.head_count_kv", ("num_key_value_heads",)),
    "head_size": ("attention.key_length", ("head_dim",)),
    "feed_forward": ("feed_forward_length", ("intermediate_size", "n_inner")),
    "context": ("context_length", ("max_position_embeddings", "n_positions")),
    "vocabulary": ("vocab_size", ("vocab_size",)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm info MODEL [--tensors] [--json]`."""
    parser.add_argument("model", metavar="MODEL", help="name, GGUF file or folder")
    parser.add_argument("--tensors", action="store_true", help="list every tensor: name, shape, type, bytes")
    options.add_json(parser)


def architecture(model: Any) -> tuple[str, dict[str, int | None]]:
    """The architecture's name and the numbers of FIELDS as the file states them (None where it does not)."""
    if hasattr(model, "metadata"):
        name = str(model.metadata.get("general.architecture", "unknown"))
        found = {field: model.metadata.get(f"{name}.{key}") for field, (key, _) in FIELDS.items()}
        if found["vocabulary"] is None and "tokenizer.ggml.tokens" in model.metadata:
            found["vocabulary"] = len(model.metadata["tokenizer.ggml.tokens"])
    else:
        name = str(model.config.get("model_type", "unknown"))
        found = {
            field: next((model.config[key] for key in keys if model.config.get(key) is not None), None)
            for field, (_, keys) in FIELDS.items()
        }
    numbers = {field: int(value) if isinstance(value, (int, float)) else None for field, value in found.items()}
    if numbers["kv_heads"] is None:
        numbers["kv_heads"] = numbers["heads"]
    if numbers["head_size"] is None and numbers["width"] and numbers["heads"]:
        numbers["head_size"] = numbers["width"] // numbers["heads"]
    return name, numbers


def types(model: Any) -> dict[str, dict[str, int]]:
    """Per storage type: how many tensors, parameters, bytes."""
    rows: dict[str, dict[str, int]] = {}
    for tensor in model.tensors.values():
        row = rows.setdefault(tensor.dtype, {"tensors": 0, "parameters": 0, "bytes": 0})
        row["tensors"] += 1
        row["parameters"] += math.prod(tensor.shape)
        row["bytes"] += tensor.nbytes
    return rows


def memory_plan(weights: int, numbers: dict[str, int | None]) -> dict[str, int | bool | None]:
    """Bytes of weights, of keys and values (bf16: 2 x layers x heads x size x 2 bytes a token), and if all fits."""
    sizes = [numbers[field] for field in ("layers", "kv_heads", "head_size")]
    token = None if None in sizes else 4 * math.prod(size or 0 for size in sizes)
    context = numbers["context"]
    full = None if token is None or context is None else token * context
    machine = doctor.memory()
    return {
        "weights": weights,
        "cache_per_1000_tokens": None if token is None else 1000 * token,
        "cache_full_context": full,
        "machine": machine,
        "fits": None if machine is None else weights + (full or 0) < machine,
    }


def describe(name: str, tensors: bool) -> dict[str, Any]:
    """The facts behind `pyllm info`; raises ModelFileError for a file that contradicts itself."""
    from pyllm import formats
    from pyllm.formats import download

    path = download.resolve(name)
    with formats.open_model(path) as model:
        arch, numbers = architecture(model)
        kinds = types(model)
        data: dict[str, Any] = {
            "file": str(path),
            "format": f"GGUF v{model.version}" if hasattr(model, "metadata") else "Hugging Face folder",
            "architecture": arch,
            **numbers,
            "types": kinds,
            "parameters": sum(row["parameters"] for row in kinds.values()),
            "memory": memory_plan(sum(row["bytes"] for row in kinds.values()), numbers),
        }
        if tensors:
            data["tensors"] = [
                {"name": t.name, "shape": list(t.shape), "type": t.dtype, "bytes": t.nbytes}
                for t in model.tensors.values()
            ]
    return data


def shown(value: int | None, unit: str = "") -> str:
    """A number with thousands separators, or `not stated`."""
    return "not stated" if value is None else output.size(value) if unit == "bytes" else f"{value:,}"


def text(data: dict[str, Any]) -> str:
    """The facts as lines."""
    plan = data["memory"]
    fits = {True: "yes", False: "no", None: "unknown"}[plan["fits"]]
    rows = [("file", options.plain(data["file"])), ("format", data["format"])]
    rows += [("architecture", options.plain(data["architecture"]))]
    rows += [(field.replace("_", " "), shown(data[field])) for field in FIELDS]
    rows += [("parameters", shown(data["parameters"]))]
    rows += [
        (f"  {kind}", f"{row['tensors']} tensors, {row['parameters']:,} parameters, {output.size(row['bytes'])}")
        for kind, row in data["types"].items()
    ]
    rows += [
        ("memory: weights", shown(plan["weights"], "bytes")),
        ("  cache, 1,000 tokens", shown(plan["cache_per_1000_tokens"], "bytes")),
        ("  cache, full context", shown(plan["cache_full_context"], "bytes")),
        ("  fits this machine", f"{fits} ({shown(plan['machine'], 'bytes')})"),
    ]
    lines = [output.table(rows)]
    if "tensors" in data:
        cells = [
            (options.plain(t["name"]), " x ".join(map(str, t["shape"])), t["type"], output.size(t["bytes"]))
            for t in data["tensors"]
        ]
        lines += ["", output.table(cells)]
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    """Print the description."""
    data = describe(args.model, args.tensors)
    return output.facts(args, data, text(data))
