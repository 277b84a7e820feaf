"""The words of `pyllm plan`: each line with its arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyllm.cli import output
from pyllm.models.planning import Plan

DAYS = 30


def lines(plan: Plan, data: dict[str, Any], counted: str) -> list[str]:
    """The plan with its figures as `pyllm plan --json` gives them; counted: where the number of tokens comes from."""
    unit = "token" if plan.sizes.attention else "example"
    found = [f"{plan.name}: {plan.sizes.parameters:,} parameters"]
    if plan.sizes.looked_up:
        found.append(
            f"  {plan.sizes.looked_up:,} of them are only looked up; N = {plan.sizes.multiplied:,} are multiplied"
        )
    found += ["", f"{unit}s: {counted}", "", work_title(plan, unit)]
    work = data["flop_per_token"]
    found += rows(work, operations)
    pairs = f" / {plan.sizes.sides} sides" if plan.sizes.sides > 1 else ""
    found += [
        f"training: {data['tokens']:.3g} {unit}s{pairs} x {operations(work['total'])}"
        f" = {data['training_flop']:.2e} FLOP",
        "",
        *times(data),
    ]
    for name, each in data["memory"].items():
        if not name.startswith("running "):
            found += ["", *needed(plan, name, each, data)]
    found += running(plan, data)
    if data["advice"]:
        found += ["", "training would fit with:", *(f"  {each}" for each in data["advice"])]
    return found


def work_title(plan: Plan, unit: str) -> str:
    """What the rows of the work count."""
    if plan.sizes.sides > 1:
        return f"work for a pair, one {unit} of the source and one of the target, forward and backward:"
    return f"work for each {unit}, forward (2 operations a number) and backward (4):"


def operations(value: float) -> str:
    """Operations as a person reads them: `39.6 GFLOP`."""
    for unit in ("", "k", "M", "G"):
        if value < 1000:
            return f"{value:.4g} {unit}FLOP"
        value /= 1000
    return f"{value:.4g} TFLOP"


def rows(found: dict[str, Any], shown: Callable[[float], str]) -> list[str]:
    """The rows of a sum, and the sum."""
    cells = [(f"  {row['name']}", f"{row['how']} =", shown(row["amount"])) for row in found["rows"]]
    if len(cells) > 1:
        cells.append(("  sum", "", shown(found["total"])))
    return output.table(cells).splitlines()


def times(data: dict[str, Any]) -> list[str]:
    """Seconds on this machine and machines for 30 days."""
    peak, threads, share = (data["machine"][name] for name in ("peak", "threads", "share"))
    seconds = data["seconds"]
    rate = f"{peak / 1e9:,.1f} GFLOP/s in {data['dtype']} measured with {threads} threads x {share:g} assumed share"
    lines = [
        f"this machine: {rate} = {peak * share / 1e9:,.1f} GFLOP/s",
        f"time: {data['training_flop']:.2e} / {peak * share:.2e} = {seconds:.3g} seconds{duration(seconds)}",
    ]
    if data["machines_for_30_days"] > 1:
        month = f"{DAYS} days x 86,400 seconds"
        lines.append(f"machines like this one for {month}, nothing lost by sharing: {data['machines_for_30_days']:,}")
    return lines


def duration(seconds: float) -> str:
    """Long times in units that say something: ` = 3.2 days`."""
    for unit, length in (("years", 365.25 * 86_400), ("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            value = seconds / length
            return f" = {value:,.0f} {unit}" if value >= 100 else f" = {value:.3g} {unit}"
    return ""


def needed(plan: Plan, name: str, found: dict[str, Any], data: dict[str, Any]) -> list[str]:
    """The memory of one way to use the model."""
    many = (
        f"{plan.batch:,} x {plan.context:,} tokens at a time" if plan.sizes.attention else f"{plan.batch:,} at a time"
    )
    titles = {
        "training": f"memory for training in {plan.dtype}, {many}:",
        "lora": f"memory for LoRA of rank {data['lora_rank']} in {plan.dtype}, {many}:",
        "running": f"memory for running, {many}:",
    }
    return [titles[name], *rows(found, output.size), verdict(found["fits"], data["available_bytes"])]


def verdict(fits: bool | None, free: int | None) -> str:
    """Whether it fits this machine."""
    if free is None or fits is None:
        return "  how much memory is available is unknown"
    return f"  {output.size(free)} are available: {'fits' if fits else 'does not fit'}"


def running(plan: Plan, data: dict[str, Any]) -> list[str]:
    """Memory for running in each format, one line each."""
    found = {name: each for name, each in data["memory"].items() if name.startswith("running ")}
    if not found:
        return []
    words = {True: "fits", False: "does not fit", None: ""}
    cells = []
    for name, each in found.items():
        parts = " + ".join(f"{row['name']} {output.size(row['amount'])}" for row in each["rows"])
        cells.append((f"  {name.split()[1]}", f"{parts} =", output.size(each["total"]), words[each["fits"]]))
    title = f"memory for running, {plan.batch:,} x {plan.context:,} tokens:"
    return ["", title, *output.table(cells).splitlines()]
