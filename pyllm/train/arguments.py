"""What a training run is told. Hugging Face's names and meanings."""

from __future__ import annotations

import os
from dataclasses import InitVar, asdict, dataclass, fields
from typing import Any

# Fields that do not change what is computed: a run may go on with other values of these.
FREE = (
    "output_dir",
    "save_steps",
    "save_total_limit",
    "save_strategy",
    "eval_steps",
    "eval_strategy",
    "per_device_eval_batch_size",
    "gradient_checkpointing",
)

# Which checkpoints of older versions do not name: they mean the default.
LATER = ("optim", "layer_divisor", "label_smoothing_factor", "eval_strategy")
OPTIMIZERS = ("adamw", "adafactor", "sgd", "nt_asgd")
STRATEGIES = ("steps", "epoch", "no")

_KINDS: dict[str, Any] = {"str": (str, os.PathLike), "bool": bool, "int": int, "float": (int, float)}
_NAMES = {"str": "text", "bool": "True or False", "int": "a whole number", "float": "a number"}


@dataclass(frozen=True)
class TrainingArguments:
    """One step takes per_device_train_batch_size x gradient_accumulation_steps samples.

    max_steps: how many steps, or 0 or -1 for num_train_epochs over the data. learning_rate is the peak,
    lr_scheduler_type "constant", "linear", "cosine", "one_cycle", "inverse_sqrt" or "slanted_triangular" after
    warmup_steps (or warmup_ratio of all steps).
    max_grad_norm: gradients are scaled down to it, 0 for never. bf16: products of numbers rounded to bfloat16, weights
    and sums in float32. gradient_checkpointing: keep the inputs of layers alone and run each layer again on the way
    back, which takes less memory and more time for the same bits; a model that does so keeps on where it is False.
    optim: "adamw", "adafactor" (T5's: the rate is a share of each tensor, 1e-2), "sgd" (momentum 0.9) or "nt_asgd",
    which evaluates every eval_steps to know when averaging begins.
    layer_divisor: each layer's rate is that of the one above divided by it (discriminative fine-tuning: 2.6).
    label_smoothing_factor: of what cross-entropies learn, e of the mean over classes; 0: as the model's configuration
    has it. Validation losses are without.
    save_steps, eval_steps: how often, 0 for at the end alone; save_strategy, eval_strategy: "steps", "epoch" for after
    each pass over the data, "no" for at the end alone.
    report_to: "none", as output_dir's log.jsonl holds every step whatever logging_steps is. use_cpu is True; fp16,
    load_best_model_at_end and push_to_hub are False.
    A run goes on with the same values alone (max_steps and num_train_epochs, too: the schedule depends on them); FREE
    are the exceptions. Raises ValueError.
    """

    output_dir: str
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    max_steps: int = 0
    num_train_epochs: float = 1.0
    learning_rate: float = 5e-4
    lr_scheduler_type: str = "cosine"
    warmup_steps: int = 0
    warmup_ratio: float = 0.0
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    bf16: bool = False
    gradient_checkpointing: bool = False
    save_steps: int = 500
    save_total_limit: int = 2
    eval_steps: int = 0
    seed: int = 0
    optim: str = "adamw"
    layer_divisor: float = 1.0
    label_smoothing_factor: float = 0.0
    save_strategy: str = "steps"
    eval_strategy: str = "steps"
    logging_steps: InitVar[float] = 1
    report_to: InitVar[Any] = "none"
    use_cpu: InitVar[bool] = True
    fp16: InitVar[bool] = False
    load_best_model_at_end: InitVar[bool] = False
    push_to_hub: InitVar[bool] = False

    def __post_init__(
        self, logging_steps: float, report_to: Any, use_cpu: bool, fp16: bool, best: bool, push_to_hub: bool
    ) -> None:
        fixed = {"fp16": fp16, "load_best_model_at_end": best, "push_to_hub": push_to_hub, "use_cpu": not use_cpu}
        for name, other in fixed.items():
            if other:
                raise ValueError(f"TrainingArguments: {name} is {name != 'use_cpu'}, allowed is {name == 'use_cpu'}")
        if report_to not in (None, "none", [], ["none"]):
            raise ValueError(f"TrainingArguments: report_to is {report_to!r}, allowed is 'none'")
        if self.max_steps == -1:
            object.__setattr__(self, "max_steps", 0)
        ones = {"per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"}
        for field in fields(self):
            value, least = getattr(self, field.name), int(field.name in ones | {"save_total_limit"})
            kind = field.type if isinstance(field.type, str) else field.type.__name__
            if isinstance(value, bool) != (kind == "bool") or not isinstance(value, _KINDS[kind]):
                raise ValueError(f"TrainingArguments: {field.name} is {value!r}, allowed is {_NAMES[kind]}")
            if isinstance(value, (int, float)) and not least <= value < float("inf"):
                raise ValueError(f"TrainingArguments: {field.name} is {value}, allowed is {least} or more")
        for name in ("save_strategy", "eval_strategy"):
            if getattr(self, name) not in STRATEGIES:
                found = f"{name} is {getattr(self, name)!r}"
                raise ValueError(f"TrainingArguments: {found}, allowed are {', '.join(STRATEGIES)}")
        if self.optim not in OPTIMIZERS:
            raise ValueError(f"TrainingArguments: optim is {self.optim!r}, allowed are {', '.join(OPTIMIZERS)}")
        if self.layer_divisor < 1:
            raise ValueError(f"TrainingArguments: layer_divisor is {self.layer_divisor}, allowed is 1 or more")
        if self.label_smoothing_factor >= 1:
            found = f"label_smoothing_factor is {self.label_smoothing_factor}"
            raise ValueError(f"TrainingArguments: {found}, allowed is 0 up to, but not with, 1")
        if not self.output_dir or not (self.max_steps or self.num_train_epochs):
            found = "no output_dir" if not self.output_dir else "max_steps and num_train_epochs are both 0"
            raise ValueError(f"TrainingArguments: {found}; a folder, and one of them above 0")

    @property
    def samples_per_step(self) -> int:
        """Samples that one change of the weights has seen."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    def binding(self) -> dict[str, Any]:
        """What must be the same for a run to go on to the same result."""
        free = [name for name in FREE if name[:5] != "eval_" or self.optim != "nt_asgd"]  # which learns of losses
        usual = {field.name: field.default for field in fields(self) if field.name in LATER}
        values = {name: value for name, value in asdict(self).items() if name not in free}
        return {name: value for name, value in values.items() if usual.get(name, value) != value or name not in usual}

    def total_steps(self, samples: int) -> int:
        """Steps of the whole run over data of so many samples."""
        if self.max_steps:
            return self.max_steps
        return max(1, int(samples * self.num_train_epochs / self.samples_per_step))

    def every(self, what: str, samples: int) -> int:
        """Steps from one "save" or "eval" to the next over data of so many samples; 0: at the end alone."""
        found = {"no": 0, "steps": getattr(self, f"{what}_steps"), "epoch": max(1, samples // self.samples_per_step)}
        return int(found[getattr(self, f"{what}_strategy")])

    def warmup(self, steps: int) -> int:
        """Steps of a rising rate."""
        return self.warmup_steps or int(self.warmup_ratio * steps)
