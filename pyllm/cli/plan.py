"""Say what training and running a model cost, written out: operations, memory, time on this machine.

`plan llama-7b --data 50TB`, `plan mlp 5 4 3 2 1 --tokens 1e6`, `plan FILE`, and a family with its configuration:
`plan gpt2 --config n_layer=4,n_embd=128,n_head=4,n_positions=256,vocab_size=4096`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from importlib import import_module
from typing import Any, NamedTuple

from pyllm.cli import options, output, params, plan_text
from pyllm.errors import printable
from pyllm.models import fitting, planning
from pyllm.models.counting import FORMATS
from pyllm.models.planning import Plan, Sum
from pyllm.models.presets import ALIASES, PRESETS, from_config

SHARE = 0.5  # of the measured peak, where the user gives no better figure
CONTEXT = 2048  # unless the model knows fewer positions
UNITS = "_KMGTP"
MOST = 1e24  # bytes or tokens; no one has more


class Known(NamedTuple):
    """A model to plan for: positions that it knows, None where that is open; bytes of its weights if it is a file."""

    sizes: planning.Sizes
    positions: int | None
    weights: int | None = None


def amount(text: str) -> float:
    """Bytes: `50TB`, `300MB`, `10GiB`, `1e9`."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d{1,2})?)\s*(?:([kKMGTP])(i?))?B?", text.strip())
    value = 0.0
    if match is not None:
        number, unit, binary = match.groups()
        value = float(number) * (1024 if binary else 1000) ** (UNITS.index(unit.upper()) if unit else 0)
    if not 1 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"{printable(text)!r}: an amount such as 50TB, 300MB or 10GiB is wanted")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm plan MODEL [SIZE ...] [--data 50TB | --tokens N] [--batch B] [--context T] [--dtype T] [--lora R]
    [--gradient-checkpointing]`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a size of `pyllm params`, mlp, a family with --config, a file or folder")
    add("sizes", nargs="*", type=options.whole(1, params.LARGEST_SIZE), help="layer sizes of an mlp")
    add("--config", metavar="K=V,...", help="fields of the family's configuration, under Hugging Face's names")
    add("--data", type=amount, metavar="BYTES", help="text to train on: 50TB, 300MB, 10GiB")
    add("--tokens", type=options.real(1, MOST), metavar="N", help="tokens to train on (20 for each parameter)")
    add("--bytes-per-token", type=options.real(0.1, 1000), default=planning.BYTES_PER_TOKEN, metavar="X",
        help="bytes of text in a token (4.5)")  # fmt: skip
    add("--batch", type=options.whole(1), default=1, metavar="N", help="sequences at a time (1)")
    add("--context", type=options.whole(1), metavar="N", help=f"tokens of a sequence ({CONTEXT}, or what it knows)")
    add("--dtype", choices=tuple(planning.DTYPES), default="fp32", help="arithmetic of training (fp32)")
    add("--lora", type=options.whole(1, 65536), default=fitting.LORA, metavar="R", help="rank of adapters (8)")
    add("--share", type=options.real(1e-3, 1.0), default=SHARE, metavar="X", help="of the measured peak (0.5)")
    options.add_checkpointing(parser)
    options.add_threads(parser)
    options.add_json(parser)


def known(args: argparse.Namespace) -> Known:
    """The sizes behind MODEL. Raises UsageError, ModelFileError."""
    name = args.model
    if name == "mlp":
        if len(args.sizes) < 2:
            raise options.UsageError("mlp: at least two sizes are wanted, as in `pyllm plan mlp 5 4 3 2 1`")
        if args.data is not None or args.context is not None or args.config is not None:
            raise options.UsageError(
                "mlp: it reads examples, not text: --tokens says how many, --batch how many at once"
            )
        if args.gradient_checkpointing:
            raise options.UsageError("mlp: --gradient-checkpointing is for models of larger layers")
        return Known(planning.sizes(args.sizes), 1)
    if args.sizes:
        raise options.UsageError(f"{printable(name)}: sizes are for mlp only")
    if args.config is not None:
        return configured(name, args.config)
    if name in PRESETS or name in ALIASES:
        preset = PRESETS[ALIASES.get(name, name)]
        positions = 512 if preset.shape == "bert" else preset.numbers.get("positions")
        return Known(planning.sizes(preset), positions)
    if os.path.exists(name) or os.sep in name or name.endswith((".gguf", ".safetensors")):
        return stored(name)
    raise options.UsageError(params.unknown(name))


def configured(family: str, text: str) -> Known:
    """A family with the fields of --config."""
    from pyllm.formats.config import check_config
    from pyllm.formats.families import FAMILIES

    if family not in FAMILIES:
        raise options.UsageError(f"{printable(family)}: --config wants a family: {', '.join(FAMILIES)}")
    values: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not (key.strip() and equals):
            raise options.UsageError(f"--config: {printable(part)!r}: K=V,K=V is wanted, as in n_layer=4,n_embd=128")
        try:
            values[key.strip()] = json.loads(value)
        except (ValueError, RecursionError):
            values[key.strip()] = value
    return of_config(check_config(values | {"model_type": family}, family))


def of_config(values: dict[str, Any], weights: int | None = None) -> Known:
    """The sizes of a checked configuration."""
    positions = values.get("n_positions") or values.get("max_position_embeddings")  # T5 has no end
    if values["model_type"] in ("roberta", "mpnet"):
        positions -= values["pad_token_id"] + 1  # the table's first rows belong to no place
    return Known(planning.sizes(from_config(values)), positions, weights)


def stored(path: str) -> Known:
    """The sizes of a file or folder, with the bytes of its tensors."""
    from pyllm import formats

    with formats.open_model(path) as model:
        values = formats.read_config(model)
        family = import_module(f"pyllm.models.{values['model_type']}")
        if hasattr(family, "settled"):
            values = family.settled(values, model.tensors)
        return of_config(values, sum(tensor.nbytes for tensor in model.tensors.values()))


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    if args.data is not None and args.tokens is not None:
        raise options.UsageError("--data and --tokens: one of them is wanted")
    model = known(args)
    context = args.context or min(CONTEXT, model.positions or CONTEXT)
    if args.context and model.positions is not None and context > model.positions:
        raise options.UsageError(f"--context {context}: {printable(args.model)} knows {model.positions:,} positions")
    plan = Plan(printable(args.model, 80), model.sizes, args.batch, context, args.dtype)
    plan = plan._replace(checkpointing=args.gradient_checkpointing)
    data = facts(args, plan, model)
    return output.facts(args, data, "\n".join(plan_text.lines(plan, data, counted(args, data["tokens"]))))


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """This machine: its peak in the arithmetic asked for, GFLOP/s, and its threads."""
    from pyllm import _core

    if args.threads:
        _core.set_threads(args.threads)
    return {"peak": float(_core.measure_limits()[f"{args.dtype}_GFLOPs"]) * 1e9, "threads": _core.threads()}


def tokens(args: argparse.Namespace, plan: Plan) -> int:
    """How many tokens are trained on."""
    if args.data is not None:
        return planning.tokens_in(args.data, args.bytes_per_token)
    return round(args.tokens or planning.TOKENS_PER_PARAMETER * plan.sizes.parameters)


def facts(args: argparse.Namespace, plan: Plan, model: Known) -> dict[str, Any]:
    """What --json prints; plan_text.py says the same in lines."""
    from pyllm.formats import memory

    free = memory.available()
    count = tokens(args, plan)
    flop = planning.training_flop(plan, count)
    machine = measured(args)
    seconds = flop / (machine["peak"] * args.share)
    plans = {"training": plan}
    if plan.sizes.attention:
        plans["lora"] = plan._replace(lora=args.lora)
        forms = {f"running {form}": plan._replace(running=True, dtype=form) for form in FORMATS}
        if model.weights is not None:
            forms = {"running": plan._replace(running=True, weights=model.weights)}
        plans |= forms
    return {
        "name": plan.name,
        "parameters": plan.sizes.parameters,
        "multiplied": plan.sizes.multiplied,
        "batch": plan.batch,
        "context": plan.context,
        "dtype": plan.dtype,
        "gradient_checkpointing": plan.checkpointing,
        "lora_rank": args.lora,
        "tokens": count,
        "flop_per_token": sum_facts(planning.work(plan)) | {"sides": plan.sizes.sides},
        "training_flop": flop,
        "lora_flop": planning.training_flop(plans["lora"], count) if "lora" in plans else None,
        "memory": {
            name: sum_facts(planning.memory(each)) | {"fits": fitting.fits(each, free)} for name, each in plans.items()
        },
        "available_bytes": free,
        "advice": [] if free is None or fitting.fits(plan, free) else fitting.advice(plan, free),
        "machine": machine | {"share": args.share},
        "seconds": seconds,
        "machines_for_30_days": planning.machines(seconds, plan_text.DAYS),
    }


def sum_facts(found: Sum) -> dict[str, Any]:
    """A sum for --json."""
    return {"rows": [row._asdict() for row in found.rows], "total": found.total}


def counted(args: argparse.Namespace, count: int) -> str:
    """Where the number of tokens comes from."""
    if args.data is not None:
        return f"{output.size(args.data)} / {args.bytes_per_token:g} bytes a token = {count:.3g}"
    if args.tokens is not None:
        return f"{count:,}" if count < 1e12 else f"{count:.6g}"
    return f"{planning.TOKENS_PER_PARAMETER} for each parameter = {count:.3g}"
