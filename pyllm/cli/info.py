"""Describe a model file without loading it: architecture, shapes, tensor types, parameters, memory plan."""

from __future__ import annotations

import argparse
import math
import os
from typing import Any

from pyllm.cli import doctor, options, output
from pyllm.errors import printable

# What a row is called, and the names of its field in a configuration: LLaMA's, GPT-2's, of pairs, DistilBERT's.
FIELDS = {
    "layers": ("num_hidden_layers", "n_layer", "num_decoder_layers", "num_layers", "n_layers", "decoder_layers"),
    "width": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": ("num_attention_heads", "n_head", "nhead", "n_heads", "decoder_attention_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "n_head", "nhead", "decoder_attention_heads", "num_heads"),
    "feed_forward": ("intermediate_size", "n_inner", "dim_feedforward", "hidden_dim", "decoder_ffn_dim", "d_ff"),
    "context": ("max_position_embeddings", "n_positions"),
    "vocabulary": ("vocab_size",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm info MODEL [--tensors] [--json]`."""
    parser.add_argument("model", metavar="MODEL", help="name, GGUF file or folder")
    parser.add_argument("--tensors", action="store_true", help="list every tensor: name, shape, type, bytes")
    options.add_json(parser)


def shape(config: dict[str, Any]) -> dict[str, int]:
    """The numbers of FIELDS that there are, and the size of a head, from a checked configuration."""
    named = {field: [config[key] for key in keys if config.get(key) is not None] for field, keys in FIELDS.items()}
    found = {field: numbers[0] for field, numbers in named.items() if numbers}
    if "heads" in found:
        found["head_size"] = config.get("head_dim") or config.get("d_kv") or found["width"] // found["heads"]
    return found


def types(model: Any) -> dict[str, dict[str, int]]:
    """Per storage type: how many tensors, parameters, bytes."""
    rows: dict[str, dict[str, int]] = {}
    for tensor in model.tensors.values():
        row = rows.setdefault(tensor.dtype, {"tensors": 0, "parameters": 0, "bytes": 0})
        row["tensors"] += 1
        row["parameters"] += math.prod(tensor.shape)
        row["bytes"] += tensor.nbytes
    return rows


def memory_plan(weights: int, numbers: dict[str, int]) -> dict[str, int | bool | None]:
    """Bytes of weights, of keys and values (bf16: 2 x layers x heads x size x 2 bytes a token), and if all fits.

    None of what has no keys: a recurrent model's states take far less.
    """
    token = 4 * numbers["layers"] * numbers.get("kv_heads", 0) * numbers.get("head_size", 0)
    full = token * numbers.get("context", 1000)  # T5's has no end
    machine = doctor.memory()
    return {
        "weights": weights,
        "cache_per_1000_tokens": 1000 * token or None,
        "cache_full_context": full or None,
        "machine": machine,
        "fits": None if machine is None else weights + full < machine,
    }


def adapter(folder: str) -> dict[str, Any]:
    """The facts of a PEFT folder itself. Raises ModelFileError."""
    from pyllm.auto.adapter_config import WEIGHTS, read_adapter
    from pyllm.formats.safetensors import SafeTensors

    config = read_adapter(folder).lora
    with SafeTensors(os.path.join(folder, WEIGHTS)) as file:
        numbers = sum(math.prod(each.shape) for each in file.tensors.values())
        size = sum(each.nbytes for each in file.tensors.values())
    facts = {"folder": folder, "r": config.r, "lora_alpha": config.lora_alpha, "task_type": config.task_type}
    return facts | {"parameters": numbers, "bytes": size}


def describe(name: str, tensors: bool) -> dict[str, Any]:
    """The facts behind `pyllm info`; raises ModelFileError for a file that contradicts itself."""
    from pyllm import formats
    from pyllm.formats import download

    path = download.resolve(name)
    if os.path.isdir(path) and not os.path.exists(os.path.join(path, "config.json")):
        from pyllm.auto.adapter_config import base_of

        base = base_of(path)
        if base is not None:
            return describe(str(base), tensors) | {"adapter": adapter(str(path))}
    with formats.open_model(path) as model:
        config = formats.read_config(model)
        numbers = shape(config)
        kinds = types(model)
        data: dict[str, Any] = {
            "file": str(path),
            "format": f"GGUF v{model.version}" if isinstance(model, formats.GGUF) else "Hugging Face folder",
            "architecture": config["model_type"],
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


def text(data: dict[str, Any]) -> str:
    """The facts as lines."""
    plan = data["memory"]
    machine = "unknown" if plan["machine"] is None else output.size(plan["machine"])
    fits = {True: "yes", False: "no", None: "unknown"}[plan["fits"]]
    rows = [("file", printable(data["file"])), ("format", data["format"])]
    rows += [("architecture", data["architecture"])]
    rows += [(field.replace("_", " "), f"{data[field]:,}") for field in [*FIELDS, "head_size"] if field in data]
    rows += [("parameters", f"{data['parameters']:,}")]
    rows += [
        (f"  {kind}", f"{row['tensors']} tensors, {row['parameters']:,} parameters, {output.size(row['bytes'])}")
        for kind, row in data["types"].items()
    ]
    rows.append(("memory: weights", output.size(plan["weights"])))
    if plan["cache_per_1000_tokens"]:
        rows.append(("  cache, 1,000 tokens", output.size(plan["cache_per_1000_tokens"])))
        rows += [("  cache, full context", output.size(plan["cache_full_context"]))] if "context" in data else []
    rows.append(("  fits this machine", f"{fits} ({machine})"))
    if "adapter" in data:
        each = data["adapter"]
        of = f"rank {each['r']}, alpha {each['lora_alpha']:g}, {each['parameters']:,} parameters"
        rows.append(("adapter", f"{printable(each['folder'])}: {of}, {output.size(each['bytes'])}"))
    lines = [output.table(rows)]
    if "tensors" in data:
        cells = [
            (printable(t["name"]), " x ".join(map(str, t["shape"])), t["type"], output.size(t["bytes"]))
            for t in data["tensors"]
        ]
        lines += ["", output.table(cells)]
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    """Print the description."""
    data = describe(args.model, args.tensors)
    return output.facts(args, data, text(data))
