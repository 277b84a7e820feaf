"""Measure speed beside this machine's limits: `llm MODEL` a language model, `encode MODEL` an encoder, `translate` an
encoder-decoder, `train` a training step, `limits` the machine."""

from __future__ import annotations

import argparse
from typing import Any

from pyllm.cli import options, output, running, training

_SIZES = {
    "emb": "embedding_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "vocab": "vocab_size",
}
# The name of a type here -> where weights are loaded.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8", "q8_0": "q8_0", "q4_0": "q4_0"}
_RECURRENT = ("rnn", "lstm", "gru")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm bench llm MODEL [--prompt N] [--new N] [--parallel N,N] [--runs N] [--threads N] [--json]`,
    `pyllm bench train --model gpt2 [--config FIELDS] [--batch N] [--context N] [--dtype fp32|bf16]
    [--gradient-checkpointing]`, where --emb, --hidden, --layers and --vocab are fields of a recurrent model,
    `pyllm bench encode MODEL [--batch N] [--length N] [--ragged] [--dtype int8|q8_0|q4_0|bf16|fp32]`,
    `pyllm bench translate --model bart-base [--batch N] [--source N] [--new N] [--beam N] [--dtype ...]`."""
    parser.add_argument("what", choices=("llm", "encode", "translate", "train", "limits"), help="what to measure")
    parser.add_argument(
        "name", nargs="?", metavar="MODEL", default=None, help="name, file or folder; encode: folder, or a shape's name"
    )
    add = parser.add_argument
    add("--prompt", type=options.whole(1, 65536), default=512, metavar="N", help="tokens of the prompt (512)")
    add("--new", type=options.whole(2, 65536), metavar="N", help="tokens written (128; translate: 32)")
    add("--parallel", type=options.counts, default=[1, 16], metavar="N,N", help="sequences side by side (1,16)")
    add("--runs", type=options.whole(1, 1000), default=3, metavar="N", help="timings, of which the median counts (3)")
    add = parser.add_argument_group("encode").add_argument
    add("--length", type=options.whole(1), default=128, metavar="N", help="tokens of a sequence (128)")
    add("--ragged", action="store_true", help="sequences of 8 tokens up to --length")
    more = parser.add_argument_group("train, translate, encode")
    add = more.add_argument
    add("--model", default="gpt2", metavar="FAMILY", help="with random weights (gpt2: 124 M)")
    add("--config", metavar="FIELDS", help="fields of its configuration: n_layer=4,n_head=4,n_embd=128")
    for flag, field in _SIZES.items():
        add(f"--{flag}", type=options.whole(1), metavar="N", help=f"{field} of a recurrent model")
    add("--batch", type=options.whole(1), metavar="N", help="sequences in a step (4), sources (8), to encode (32)")
    add("--source", type=options.whole(1, 65536), default=32, metavar="N", help="tokens of each source (32)")
    add("--beam", type=options.whole(1, 1024), default=4, metavar="N", help="beams of each source (4)")
    add("--context", type=options.whole(1), default=256, metavar="N", help="tokens of each (256)")
    add("--dtype", choices=DTYPES, help="of products (fp32); of weights (encode: int8, translate: fp32)")
    options.add_checkpointing(more)
    options.add_threads(parser)
    options.add_json(parser)


def limits_rows(limits: dict[str, float]) -> list[tuple[str, ...]]:
    """The machine's limits as lines."""
    return [(f"limit {name}", f"{value:10.1f}") for name, value in limits.items()]


def limits(args: argparse.Namespace) -> dict[str, float]:
    """This machine's measured limits with the threads in force."""
    from pyllm import _core

    if args.threads:
        _core.set_threads(args.threads)
    return {name: round(float(value), 2) for name, value in _core.measure_limits().items()}


def llm(args: argparse.Namespace) -> dict[str, Any]:
    """A model's speed and the limits, measured in the same minute."""
    from pyllm import _core, formats
    from pyllm.evaluate import speed
    from pyllm.formats import download

    path = download.resolve(args.name or options.DEFAULT_MODEL)
    model, _ = running.load(path, args)
    output.note("measuring ...")
    with formats.open_model(path) as file:
        data = speed.measure(model, file.tensors, args.prompt, args.new or 128, args.parallel, args.runs)
    found = limits(args)
    data.update(
        model=str(path),
        threads=_core.threads(),
        isa=_core.isa(),
        limits=found,
        decode_share_of_read=round(data["decode_GBs"] / found["read_GBs"], 3),
        prompt_share_of_int8=round(data["prompt_GOPs"] / found["int8_GOPs"], 3),
    )
    return data


def rate(value: float) -> str:
    """Tokens per second as a cell."""
    return f"{value:10.1f} tokens/s"


def text(data: dict[str, Any]) -> str:
    """The figures as lines, each beside its limit."""
    of = data["limits"]
    rows: list[tuple[str, ...]] = [
        ("prompt", rate(data["prompt_tok_s"]), f"{data['prompt_GOPs']:.0f} of {of['int8_GOPs']:.0f} GOP/s"),
        ("decode", rate(data["decode_tok_s"]), f"{data['decode_GBs']:.1f} of {of['read_GBs']:.1f} GB/s"),
    ]
    rows += [(f"{n} side by side", rate(speed), "") for n, speed in data["parallel_tok_s"].items()]
    rows += limits_rows(of)
    rows += [("threads", f"{data['threads']:10d}"), ("instruction set", data["isa"].rjust(10))]
    return output.table(rows)


def train(args: argparse.Namespace) -> int:
    """A training step's speed, its share of the peak measured in the same minute, and the memory it took."""
    from pyllm import _core
    from pyllm.evaluate.training_speed import measure

    args.batch, args.dtype = args.batch or 4, args.dtype or "fp32"
    if args.dtype not in ("fp32", "bf16"):
        raise options.UsageError(f"--dtype {args.dtype}: a training step is of fp32 or bf16")
    sizes = {field: getattr(args, flag) for flag, field in _SIZES.items() if getattr(args, flag) is not None}
    if sizes and args.model not in _RECURRENT:
        raise options.UsageError(f"--{next(iter(_SIZES))} and its like are for {', '.join(_RECURRENT)}; use --config")
    fields, again = training.fields(args.config) | sizes, args.gradient_checkpointing
    if args.threads:
        _core.set_threads(args.threads)
    output.note("measuring ...")

    def peak() -> float:
        return limits(args)[f"{args.dtype}_GFLOPs"] * 1e9

    data = measure(args.model, fields, args.batch or 4, args.context, args.dtype, args.runs, peak, again)
    line = (
        f"{data['tok_s']:,.0f} tokens/s, {data['seconds'] * 1e3:,.1f} ms per step, {data['share_of_peak']:.0%} of "
        f"{args.dtype}'s peak"
    )
    if data["peak_memory_MB"] is not None:
        line += f", {data['peak_memory_MB']:,.0f} MB at most"
    return output.facts(args, data, line)


def encode(args: argparse.Namespace) -> int:
    """An encoder's speed."""
    from pyllm.evaluate.encoding_speed import measure

    if args.name is None:
        raise options.UsageError("bench encode: MODEL is needed, a folder or a shape by name")
    dtype = args.dtype or "int8"
    output.note("measuring ...")
    kind = DTYPES[dtype]
    data = measure(args.name, args.batch or 32, args.length, kind, args.runs, args.ragged, args.threads or None)
    line = f"{data['tok_s']:,.0f} tokens/s, {data['seconds'] * 1e3:,.2f} ms for {data['tokens']:,} tokens in {dtype}"
    return output.facts(args, data, line)


def translate(args: argparse.Namespace) -> int:
    """How many target tokens an encoder-decoder of random weights says in a second."""
    from pyllm import _core
    from pyllm.evaluate.pair_speed import measure

    if args.threads:
        _core.set_threads(args.threads)
    output.note("measuring ...")
    sizes = args.batch or 8, args.source, args.new or 32, args.beam
    data = measure(args.model, *sizes, DTYPES[args.dtype or "fp32"], args.runs)
    each = data["seconds"] / data["new"] * 1e3
    line = f"{data['tok_s']:,.0f} target tokens/s, {each:,.1f} ms per step with the encoder"
    return output.facts(args, data, line)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    if args.what in ("encode", "translate", "train"):
        return {"encode": encode, "translate": translate, "train": train}[args.what](args)
    if args.what == "limits":
        found = limits(args)
        return output.facts(args, {"limits": found}, output.table(limits_rows(found)))
    data = llm(args)
    return output.facts(args, data, text(data))
