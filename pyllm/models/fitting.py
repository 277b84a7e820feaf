"""Refuse before it starts what memory cannot hold, and say what would fit.

refuse_unless_fits(plan, formats.memory.available())
"""

from __future__ import annotations

from collections.abc import Callable

from pyllm.errors import DoesNotFitError
from pyllm.models.counting import FORMATS, count_preset
from pyllm.models.planning import Plan, memory, sizes
from pyllm.models.presets import PRESETS

LORA = 8  # the rank that is proposed


def fits(plan: Plan, free: int | None) -> bool | None:
    """Whether a plan's memory is at most `free` bytes; None where that is unknown."""
    return None if free is None else memory(plan).total <= free


def refuse_unless_fits(plan: Plan, free: int | None) -> None:
    """Raise DoesNotFitError if a plan needs more than `free` bytes (None: unknown).

    The error has the table and what would fit.
    """
    if fits(plan, free) is False and free is not None:
        kind = "running" if plan.running else "training"
        rows = [(row.name, row.how, row.amount) for row in memory(plan).rows]
        raise DoesNotFitError(f"{kind} {plan.name}", rows, free, advice(plan, free))


def largest(good: Callable[[int], bool], high: int) -> int:
    """The largest of 1..high for which `good` holds, 0 if none; good holds up to some number and not beyond."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if good(middle) else (low, middle - 1)
    return low


def advice(plan: Plan, free: int) -> list[str]:
    """What would fit into `free` bytes instead, a line each: layers run again, a smaller batch, a shorter context,
    other weights, a smaller model."""
    batch = largest(lambda n: memory(plan._replace(batch=n)).total <= free, plan.batch - 1)
    found = _run_again(plan, free, batch)
    if batch:
        found.append(f"a batch of {batch:,}")
    alone = plan._replace(batch=1)
    context = largest(lambda n: memory(alone._replace(context=n)).total <= free, plan.context - 1)
    if context and not batch:
        found.append(f"a context of {context:,} tokens" + (" with a batch of 1" if plan.batch > 1 else ""))
    if _other_cache(plan, free):
        found.append("keys and values of type q8_0")
    found += _other_weights(plan, free)
    name = smaller(plan, free)
    if name is not None:
        found.append(f"{name}{f' as {plan.dtype}' if plan.running else ''} with the same batch and context")
    return found


def _run_again(plan: Plan, free: int, batch: int) -> list[str]:
    """Gradient checkpointing, if the plan fits with it, or a larger batch than without."""
    if plan.running or plan.checkpointing or not plan.sizes.layers:
        return []
    again = plan._replace(checkpointing=True)
    more = largest(lambda n: memory(again._replace(batch=n)).total <= free, plan.batch)
    if more == plan.batch:
        return ["gradient checkpointing with the same batch and context"]
    return [f"gradient checkpointing with a batch of {more:,}"] if more > batch else []


def _other_cache(plan: Plan, free: int) -> bool:
    """Whether a model to be run would fit if its keys and values took the fewest bytes that there are for them."""
    cache = plan.sizes.counted.cache
    if not plan.running or cache is None or cache.size % 16 or plan.cache == "Q8_0":
        return False
    return memory(plan._replace(cache="Q8_0")).total <= free


def _other_weights(plan: Plan, free: int) -> list[str]:
    """Formats in which a model to be run would fit; LoRA for one to be trained."""
    if plan.running:
        forms = [form for form in FORMATS if memory(plan._replace(dtype=form, weights=None)).total <= free]
        return [f"weights as {' or '.join(forms)}"] if forms else []
    if plan.lora:
        options = [plan._replace(dtype="bf16")]
    else:
        options = [plan._replace(lora=LORA, dtype=dtype) for dtype in (plan.dtype, "bf16")]
    for batch in (plan.batch, 1):
        for each in options:
            if each != plan and memory(each._replace(batch=batch)).total <= free:
                return [f"LoRA of rank {each.lora} on {each.dtype} weights with a batch of {batch:,}"]
    one = options[-1]._replace(batch=1)
    context = largest(lambda n: memory(one._replace(context=n)).total <= free, plan.context - 1)
    return [f"LoRA of rank {one.lora} on {one.dtype} weights with a context of {context:,}"] if context else []


def smaller(plan: Plan, free: int) -> str | None:
    """The largest published decoder, smaller than the plan's model, for which the same plan fits."""
    best = (0, "")
    for name, preset in PRESETS.items():
        total = count_preset(preset).total
        if preset.shape in ("llama", "gpt2", "neox") and best[0] < total < plan.sizes.parameters:
            known = preset.numbers.get("positions", plan.context)
            other = plan._replace(name=name, sizes=sizes(preset), weights=None)
            if known >= plan.context and memory(other).total <= free:
                best = (total, name)
    return best[1] or None
