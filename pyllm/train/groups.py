"""Which weights a run changes, how fast: layers from the input to the output, frozen ones, an optimizer of the rest."""

from __future__ import annotations

import re
from typing import Any

from pyllm.nn import Parameter
from pyllm.optim import NTASGD, SGD, Adafactor, AdamW, Optimizer
from pyllm.tensor import Tensor
from pyllm.train.arguments import TrainingArguments

_LAYER = re.compile(r"(?:^|\.)(?:layers|rnns)\.(\d+)\.|_l(\d+)(?:_reverse)?$")


def layer_groups(model: Any) -> list[list[Parameter]]:
    """The parameters that may learn, in groups from the input to the output: the embedding, each layer, what follows.

    What comes before the first layer is the embedding's. A tied matrix belongs where it comes last: of a language model
    to the head. What lies between a classifier's layers and its head, a norm, belongs to the layer before. fastai's
    splits of AWD-LSTM are these.
    """
    mine = {id(parameter): parameter for parameter in model.learned().values()}
    places: dict[int, int] = {}
    named = [(path, parameter) for path, parameter in model.named_parameters() if id(parameter) in mine]
    inside = {id(parameter) for _, parameter in named}
    adapters = [(path, parameter) for path, parameter in model.learned().items() if id(parameter) not in inside]
    named = adapters + named  # what an adapter has beside the layers; modules that learn whole come after them
    layers = [int(found.group(1) or found.group(2)) for path, _ in named if (found := _LAYER.search(path))]
    top = max(layers, default=-1) + 1
    begun = not layers
    for path, parameter in named:
        found, inner = _LAYER.search(path), path.removeprefix("trunk.")
        if found:
            place, begun = int(found.group(1) or found.group(2)) + 1, True
        elif not begun or inner.startswith("embedding."):
            place = 0
        else:
            place = top + (inner == path)
        if not (path.startswith("trunk.head.") and id(parameter) in places):
            places[id(parameter)] = place
    groups: dict[int, list[Parameter]] = {}
    for key, parameter in mine.items():
        groups.setdefault(places[key], []).append(parameter)
    return [groups[place] for place in sorted(groups)]


def freeze_to(model: Any, n: int) -> None:
    """From now on groups n, n + 1, ... alone learn; n below 0 counts from the end, so that -1 is the head: fastai's.

    Raises ValueError for a group that is not there.
    """
    groups = layer_groups(model.train())
    if not -len(groups) <= n < len(groups):
        raise ValueError(f"freeze_to: group {n}, allowed are {-len(groups)} to {len(groups) - 1}")
    for i, group in enumerate(groups):
        for parameter in group:
            parameter.value.requires_grad = i >= n % len(groups)
            parameter.value.zero_grad()


def optimizer_of(model: Any, a: TrainingArguments) -> Optimizer:
    """The optimizer that the arguments ask for, over the tensors that learn.

    Matrices decay, vectors (biases, norms) do not. With a layer_divisor above 1 the group of layers i of n has the rate
    learning_rate / divisor^(n - 1 - i): discriminative fine-tuning, Howard and Ruder 2018.
    """
    groups: list[dict[str, Any]] = []
    parts = [model.parameters()]
    if a.layer_divisor != 1:
        parts = [[p.value for p in group if p.value.requires_grad] for group in layer_groups(model)]
    for i, tensors in enumerate(parts):
        rate = a.learning_rate / a.layer_divisor ** (len(parts) - 1 - i)
        groups += _decaying(tensors, a.weight_decay, rate)
    options: dict[str, Any] = {"lr": a.learning_rate}
    if a.optim == "adamw":
        return AdamW(groups, **options, betas=(a.adam_beta1, a.adam_beta2), eps=a.adam_epsilon)
    if a.optim == "sgd":
        return SGD(groups, **options, momentum=0.9)
    return Adafactor(groups, **options) if a.optim == "adafactor" else NTASGD(groups, **options)


def _decaying(tensors: list[Tensor], decay: float, rate: float) -> list[dict[str, Any]]:
    groups = [
        {"params": [t for t in tensors if t.ndim > 1], "weight_decay": decay, "lr": rate},
        {"params": [t for t in tensors if t.ndim < 2], "weight_decay": 0.0, "lr": rate},
    ]
    return [group for group in groups if group["params"]]
