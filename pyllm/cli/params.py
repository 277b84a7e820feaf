"""Count weights and biases, written out: `params mlp 5 4 3 2 1`, `params llama-7b`, `params FILE`."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from itertools import groupby
from typing import Any

from pyllm.cli import options, output
from pyllm.errors import printable
from pyllm.models.counted import Cache, Count, Group, Part
from pyllm.models.counting import FORMATS, bytes_in, count_preset, mlp
from pyllm.models.presets import ALIASES, PAIRS, PRESETS, from_config

CACHE_BYTES = 2  # keys and values are kept as bf16
LARGEST_SIZE = 10**9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm params MODEL [SIZE ...] [--json]`."""
    parser.add_argument("model", help=f"mlp, a file or folder, or one of: {', '.join(PRESETS)}")
    parser.add_argument("sizes", nargs="*", type=options.whole(1, LARGEST_SIZE), help="layer sizes of an mlp")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the count."""
    name = args.model
    if name == "mlp":
        if len(args.sizes) < 2:
            raise options.UsageError("mlp: at least two sizes are wanted, as in `pyllm params mlp 5 4 3 2 1`")
        return show(args, name, mlp(args.sizes), [])
    if args.sizes:
        raise options.UsageError(f"{printable(name)}: sizes are for mlp only")
    if name in PRESETS or name in ALIASES:
        return show(args, name, count_preset(PRESETS[ALIASES.get(name, name)]), [])
    if os.path.exists(name) or os.sep in name or name.endswith((".gguf", ".safetensors")):
        count, stored = count_file(name)
        return show(args, name, count, stored)
    raise options.UsageError(unknown(name))


def unknown(name: str) -> str:
    """What to say about a size that was never released, or a name that nobody knows."""
    shown = printable(name, 80)
    match = re.fullmatch(r"([a-z][a-z0-9.-]*?)-?(\d+(?:\.\d+)?)b", name.lower())
    if match is None:
        near = difflib.get_close_matches(name, [*PRESETS, "mlp"], n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are: mlp, {', '.join(PRESETS)}, a file or a folder"
        return f"{shown}: unknown model; {hint}"
    stem, billions = match.group(1).rstrip("-"), float(match.group(2))
    relatives: dict[str, list[str]] = {}
    for key, preset in PRESETS.items():
        if key.startswith(re.sub(r"[\d.]+$", "", stem)):
            relatives.setdefault(preset.family, []).append(key)
    released = "; ".join(f"{family} was released as {', '.join(keys)}" for family, keys in relatives.items())
    alike = [key for key, preset in PRESETS.items() if 0.9 < count_preset(preset).total / 1e9 / billions < 1.1]
    parts = [f"{shown}: there is no such size"] + ([released] if released else [])
    if alike:
        parts.append(f"{billions:g} billion parameters: {', '.join(alike)}")
    return "; ".join(parts)


def count_file(path: str) -> tuple[Count, list[str]]:
    """(what is in a model file, the storage types of its groups). Layers' tensors of one kind are one row."""
    from pyllm import formats
    from pyllm.formats.gguf_config import ARCHITECTURES

    with formats.open_model(path) as model:
        rows: dict[tuple[str, tuple[int, ...], str], int] = {}
        for info in model.tensors.values():
            name = re.sub(r"(?<=\.)\d+(?=\.)", "*", info.name)
            rows[name, info.shape, info.dtype] = rows.get((name, info.shape, info.dtype), 0) + 1
        architecture = model.metadata.get("general.architecture") if hasattr(model, "metadata") else None
        known = architecture is None or architecture in ARCHITECTURES.values()
        config = formats.read_config(model) if known else None
    groups = [
        Group(printable(name, 100), (Part("", shape, kind="biases" if name.endswith("bias") else "weights"),), times)
        for (name, shape, _), times in rows.items()
    ]
    return Count(groups, file_cache(config)), [dtype for _, _, dtype in rows]


def file_cache(config: dict[str, Any] | None) -> Cache | None:
    """The cache that a configuration asks for."""
    if config is None or config["model_type"] in ("rnn", "ulmfit", "seq2seq"):
        return None
    if config["model_type"] in PAIRS:
        return count_preset(from_config(config)).cache
    if config["model_type"] == "gpt2":
        return Cache(config["n_layer"], config["n_head"], config["n_embd"] // config["n_head"])
    if "num_key_value_heads" not in config:
        return None  # an encoder
    return Cache(config["num_hidden_layers"], config["num_key_value_heads"], config["head_dim"])


def show(args: argparse.Namespace, name: str, count: Count, stored: list[str]) -> int:
    """Print a count with its memory, as text or JSON."""
    from pyllm.formats import memory

    available = memory.available()
    cache = None if count.cache is None else 1000 * CACHE_BYTES * count.cache.per_token
    sizes = {form: bytes_in(count, form) for form in FORMATS}
    fits = {form: None if available is None else size + (cache or 0) <= available for form, size in sizes.items()}
    data: dict[str, Any] = {
        "name": name,
        "total": count.total,
        "groups": [group_facts(group) for group in count.groups],
        "bytes": sizes,
        "cache_bytes_per_1000_tokens": cache,
        "available_bytes": available,
        "fits": fits,
    }
    for facts, dtype in zip(data["groups"], stored, strict=False):
        facts["type"] = dtype
    lines = [*table(count, stored), *addition(count)]
    if name != "mlp":
        lines += memory_lines(sizes, fits, cache, available)
    return output.facts(args, data, "\n".join(lines))


def group_facts(group: Group) -> dict[str, Any]:
    """One group for --json."""
    parts = [part._asdict() | {"shape": list(part.shape), "size": part.size} for part in group.parts]
    return {"name": group.name, "repeat": group.repeat, "runs": group.runs, "parts": parts, "total": group.size}


def product(part: Part, repeat: int = 1) -> str:
    """A part as a person multiplies it: `5 x 4 = 20 weights`, inputs first."""
    factors = [n for n in (repeat, part.times) if n > 1] + list(reversed(part.shape))
    total = repeat * part.size
    word = {"weights": "weight", "biases": "bias"}[part.kind] if total == 1 else part.kind
    written = " x ".join(f"{n:,}" for n in factors) + " = " if len(factors) > 1 else ""
    return f"{written}{total:,} {word}"


def written_sum(parts: tuple[Part, ...]) -> str:
    """Parts added up: `5 x 4 = 20 weights + 4 biases = 24`."""
    total = f" = {sum(part.size for part in parts):,}" if len(parts) > 1 else ""
    return " + ".join(product(part) for part in parts) + total


def table(count: Count, stored: list[str]) -> list[str]:
    """One line a group; layers that repeat list their parts first."""
    lines: list[str] = []
    for index, group in enumerate(count.groups):
        if stored:
            lines.append(f"{group.name}: {product(group.parts[0], group.repeat)}, {stored[index]}")
        elif group.repeat == 1:
            often = f", run {group.runs} times" if group.runs > 1 else ""
            lines.append(f"{group.name}{often}: {written_sum(group.parts)}")
        else:
            lines.append(f"{group.name}, each{f' run {group.runs} times' if group.runs > 1 else ''}:")
            same_name = groupby(group.parts, key=lambda part: part.name)
            lines += [f"  {name}: {written_sum(tuple(parts))}" for name, parts in same_name]
            each = group.size // group.repeat
            lines.append(f"  {group.repeat} layers x {each:,} = {group.size:,}")
    return lines


def addition(count: Count) -> list[str]:
    """The sum over groups, written out unless it is too long, and the total."""
    if 1 < len(count.groups) <= 12:
        return [" + ".join(f"{group.size:,}" for group in count.groups) + f" = {count.total:,}"]
    return [f"total = {count.total:,}"]


def memory_lines(sizes: dict[str, int], fits: dict[str, bool | None], cache: int | None, room: int | None) -> list[str]:
    """Bytes per format, of the cache, and whether both fit."""
    words = {True: "fits", False: "does not fit", None: ""}
    rows = [(form, output.size(size), words[fits[form]]) for form, size in sizes.items()]
    if cache is not None:
        rows.append(("cache", output.size(cache), "keys and values of 1,000 tokens, bf16"))
    if room is not None:
        rows.append(("memory", output.size(room), "available to this process"))
    return ["", output.table(rows)]
