"""What a Linear learns beside a frozen weight: a change of low rank. Hu et al. 2021, arXiv:2106.09685."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyllm import ops
from pyllm.nn.module import Parameter

TASKS = ("CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION")
KINDS = {"task_type": (None, *TASKS), "bias": ("none",)}  # the values that are known here


@dataclass(frozen=True)
class LoraConfig:
    """y = W x + (lora_alpha / r) B A drop(x): PEFT's names and meanings.

    target_modules: names of the matrices, as q, k, v, o, gate, up, down or as Hugging Face calls them; None or
    "all-linear": all but the embedding and the head. task_type: None for the model's own. modules_to_save: modules that
    learn whole beside the matrices, of which Hugging Face's names end so; a classifier's head does in any case.
    use_rslora: lora_alpha / sqrt(r). Raises ValueError.
    """

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: Sequence[str] | str | None = None
    bias: str = "none"
    task_type: str | None = None
    use_rslora: bool = False
    base_model_name_or_path: str | None = None
    modules_to_save: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.r < 1 or not 0 < self.lora_alpha < float("inf") or not 0 <= self.lora_dropout < 1:
            found = f"r {self.r}, lora_alpha {self.lora_alpha}, lora_dropout {self.lora_dropout}"
            raise ValueError(f"LoraConfig: {found}; allowed are 1 or more, above 0, from 0 to below 1")
        for field, allowed in KINDS.items():
            if getattr(self, field) not in allowed:
                listed = ", ".join(map(repr, allowed))
                raise ValueError(f"LoraConfig: {field} is {getattr(self, field)!r}, allowed: {listed}")

    @property
    def scaling(self) -> float:
        """What B A is multiplied with."""
        return float(self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r))


class Adapter:
    """A (rank, inputs) and B (outputs, rank) of one Linear; not a module, so that the model's own parameters stay."""

    def __init__(
        self, inputs: int, outputs: int, rank: int, scale: float, dropout: float = 0.0, stream: int = 0
    ) -> None:
        self.a = Parameter(rank, inputs)
        self.b = Parameter(outputs, rank)
        self.scale, self.dropout, self.stream = scale, dropout, stream

    @staticmethod
    def stream_of(path: str) -> int:
        """The stream of draws of the Linear at a path."""
        return zlib.crc32(path.encode())

    def initialise(self, random: np.random.Generator) -> None:
        """A uniform within +-1 / sqrt(inputs), B zero: nothing changes at first."""
        bound = np.float32(self.a.shape[1] ** -0.5)
        self.a.learn((random.random(self.a.shape, np.float32) * 2 - 1) * bound)
        self.b.learn(np.zeros(self.b.shape, np.float32))

    def over(self, weight: Any) -> ops.Adapted:
        """The weight as the operations take it."""
        return ops.Adapted(weight, self.a.value, self.b.value, self.scale, self.dropout, self.stream)
