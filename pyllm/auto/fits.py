"""What running a model takes, from its file's first pages alone, and its refusal before anything is loaded."""

from __future__ import annotations

import math
import os
from importlib import import_module
from typing import Any

from pyllm.auto import config_of, opened, refuse_pairs
from pyllm.auto.weights import bytes_loaded
from pyllm.formats import memory
from pyllm.models.causal import CausalLM
from pyllm.models.counting import FORMATS
from pyllm.models.fitting import refuse_unless_fits
from pyllm.models.planning import Plan, sizes
from pyllm.models.presets import from_config

CONTEXT = 2048  # positions that are counted where none are asked for, or what the model knows; keys come as text does


def running_plan(
    path: str | os.PathLike[str],
    context_length: int | None = None,
    precision: str = "default",
    cache_type: str | None = None,
    rows: int = CausalLM.batch_rows,
) -> Plan:
    """A Plan to run one sequence of a model, with from_pretrained's settings. Raises as that does, but for memory.

    planning.memory(plan) has the weights as they are stored and packed, keys and values of context_length positions,
    and what computing `rows` rows at a time takes.
    """
    with opened(path) as source:
        config, values = config_of(source, context_length)
        refuse_pairs(path, values)
        family = import_module(f"pyllm.models.{values['model_type']}")
        model: CausalLM = family.Model(config)
        weights, exact = bytes_loaded(model, family, source, values)
        stored = sum(info.nbytes for info in source.tensors.values())
    if cache_type is not None:
        model.cache_type = cache_type
    cache = model.cache_type if cache_type is not None else "F32" if exact or precision == "high" else "BF16"
    positions = min(context_length or CONTEXT, model.context_length)
    counted = sizes(from_config(values))
    name = os.path.basename(os.path.normpath(path))
    form = _nearest(stored / counted.parameters)
    return Plan(name, counted, 1, positions, form, running=True, weights=weights, cache=cache, rows=rows)


def refuse_unless_runs(path: str | os.PathLike[str], **settings: Any) -> None:
    """Raise DoesNotFitError, with the sum and what would fit, if running_plan(path, ...) needs more memory than there
    is: free memory, the control group's, or ulimit's.
    """
    refuse_unless_fits(running_plan(path, **settings), memory.available())


def _nearest(size: float) -> str:
    """The format whose bytes for a number come nearest."""
    return min(FORMATS, key=lambda form: abs(math.log(size * FORMATS[form][0] / FORMATS[form][1])))
