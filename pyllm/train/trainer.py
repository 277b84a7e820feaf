"""The loop: a step takes samples by position, walks back, changes the weights, writes a line; a kill loses nothing.

What a step computes is a function of (weights, optimizer, position), so a run that was killed and goes on from its
newest checkpoint ends with the same bytes, whatever the number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pyllm import _core, ops
from pyllm.autograd import no_grad
from pyllm.errors import TrainingError
from pyllm.optim import AdamW, schedule
from pyllm.tensor import Array
from pyllm.train.arguments import TrainingArguments
from pyllm.train.callbacks import Callback
from pyllm.train.checkpoint import Checkpoints, check_facts
from pyllm.train.log import Log

IGNORED = -100


class Result(NamedTuple):
    """How a run ended: steps done, the last loss, the validation loss (None without data), whether it is complete.

    answers: where prompts were held out, {"prompt", "wanted", "before", "after"} of each.
    """

    step: int
    loss: float
    valid_loss: float | None
    complete: bool
    answers: tuple[dict[str, str], ...] = ()


class Trainer:
    """Trains `model`, which has loss(ids, targets), on data that has len() and batch(position, size).

    batch gives (ids (rows,), targets (rows,), starts (sequences + 1,)): sequences end to end. facts: what must not
    change while a run goes on ("config", "data", "tokenizer"), refused by name when it has. callbacks see every step.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        arguments: TrainingArguments,
        valid: Any = None,
        callbacks: Sequence[Callback] = (),
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.data, self.valid, self.arguments = model, data, valid, arguments
        self.callbacks = list(callbacks)
        self.facts = {"arguments": arguments.binding()} | (facts or {})
        self.step = self.position = self.tokens = 0
        self.total = arguments.total_steps(len(data))
        self._stopped = False
        model.train()
        self.optimizer = AdamW(_groups(model, arguments.weight_decay), **_adam(arguments))
        self._rate = schedule(arguments.lr_scheduler_type, self.total, arguments.warmup(self.total))
        self._flops = model.training_flops()
        self._peak = 0.0

    def stop(self) -> None:
        """End the run after the step that is under way."""
        self._stopped = True

    def train(self, resume: bool = True) -> Result:
        """All steps that are left. resume: go on from the newest sound checkpoint in output_dir, if there is one.

        Ctrl-C saves a checkpoint after the step and leaves with complete=False. Raises TrainingError for a loss that
        is not finite (the checkpoints stay as they were), for an output_dir in use, or of another run.
        """
        _core.keep_freed()
        a = self.arguments
        with Checkpoints(a.output_dir, keep=a.save_total_limit) as checkpoints:
            found = checkpoints.newest()
            if found is not None and not resume:
                raise TrainingError(f"train: {a.output_dir} holds a run of {found[0]} steps; resume, or name another")
            if found is not None:
                self._restore(*found)
            with Log(a.output_dir, self.step) as log:
                return self._run(checkpoints, log)

    def _run(self, checkpoints: Checkpoints, log: Log) -> Result:
        a, loss, valid, saved = self.arguments, math.nan, None, self.step
        self._tell("on_train_begin")
        try:
            while self.step < self.total and not self._stopped:
                values = self._one_step()
                loss = values["loss"]
                if self.valid is not None and _due(self.step, a.eval_steps, self.total):
                    valid = values["valid_loss"] = self.evaluate()
                self._write(log, values)
                if _due(self.step, a.save_steps, self.total):
                    self._save(checkpoints, log)
                    saved = self.step
        except KeyboardInterrupt:
            self._stopped = True  # the step under way is lost; what came before is saved
        if self.step > saved and self._whole:
            self._save(checkpoints, log)
        self._tell("on_train_end")
        return Result(self.step, loss, valid, self.step >= self.total)

    def _one_step(self) -> dict[str, Any]:
        begin, a = time.perf_counter(), self.arguments
        self._whole = True
        size = a.per_device_train_batch_size
        batches = [self.data.batch(self.position + i * size, size) for i in range(a.gradient_accumulation_steps)]
        counts = [int(np.count_nonzero(targets != IGNORED)) for _, targets, _ in batches]
        total, loss = max(sum(counts), 1), 0.0
        self.optimizer.zero_grad()
        for i, ((ids, targets, starts), count) in enumerate(zip(batches, counts, strict=True)):
            if count:
                with ops.noise(a.seed, self.step * len(batches) + i):
                    mine = self._loss(ids, targets, starts)
                loss += mine.item() * count / total
                mine.backward(np.full(mine.shape, count / total, np.float32))
        norm = self.optimizer.grad_norm()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(f"train: step {self.step + 1}: {self._not_finite(loss)}")
        factor = self._rate(self.step)
        self.optimizer.scale_rates(factor)
        scale = a.max_grad_norm / (norm + 1e-6) if a.max_grad_norm and norm > a.max_grad_norm else 1.0
        self._whole = False  # an interrupt from here to the end leaves weights between two steps
        self.optimizer.step(scale)
        tokens = sum(len(ids) for ids, _, _ in batches)
        self.step, self.position, self.tokens = self.step + 1, self.position + a.samples_per_step, self.tokens + tokens
        self._whole = True
        return {
            "loss": loss,
            "lr": a.learning_rate * factor,
            "grad_norm": norm,
            "seconds": time.perf_counter() - begin,
            "rows": tokens,
        }

    def _loss(self, ids: Array, targets: Array, starts: Array) -> Any:
        with ops.documents(starts), ops.autocast("bf16" if self.arguments.bf16 else "fp32"):
            return self.model.loss(ids, targets)

    def evaluate(self) -> float:
        """Mean loss in nats of a target over all validation data, without learning."""
        total, count, size = 0.0, 0, self.arguments.per_device_eval_batch_size
        with no_grad():
            for position in range(0, len(self.valid), size):
                ids, targets, starts = self.valid.batch(position, min(size, len(self.valid) - position))
                here = int(np.count_nonzero(targets != IGNORED))
                if here:
                    total += self._loss(ids, targets, starts).item() * here
                    count += here
        loss = total / count if count else math.nan
        for callback in self.callbacks:
            callback.on_evaluate(self, self.step, loss)
        return loss

    def _write(self, log: Log, values: dict[str, Any]) -> None:
        seconds, rows = values.pop("seconds"), values.pop("rows")
        log.add(self.step, samples=self.position, tokens=self.tokens, **values)
        if not self._peak:
            self._peak = 1e9 * _core.measure_limits()["bf16_GFLOPs" if self.arguments.bf16 else "fp32_GFLOPs"]
        rate = rows / seconds
        speed = {"seconds": seconds, "tokens_per_second": rate, "share_of_peak": rate * self._flops / self._peak}
        log.time(self.step, **speed)
        for callback in self.callbacks:
            callback.on_step_end(self, values | speed)

    def _save(self, checkpoints: Checkpoints, log: Log) -> None:
        log.sync()
        tensors = {f"model.{name}": array for name, array in self.model.state_dict().items()}
        tensors |= {f"optimizer.{name}": array for name, array in self.optimizer.state_dict().items()}
        counters = {"position": self.position, "tokens": self.tokens}
        checkpoints.save(self.step, tensors, self.facts | {"counters": counters})

    def _restore(self, step: int, tensors: dict[str, Array], facts: dict[str, Any]) -> None:
        check_facts(facts, self.facts, tuple(self.facts))
        for name, parameter in self.model.learned().items():
            parameter.value.data[...] = tensors[f"model.{name}"]
        mine = {name.removeprefix("optimizer."): a for name, a in tensors.items() if name.startswith("optimizer.")}
        self.optimizer.load_state_dict(mine, step)
        self.step, self.position, self.tokens = step, facts["counters"]["position"], facts["counters"]["tokens"]

    def _not_finite(self, loss: float) -> str:
        """Names the first tensor that is not finite."""
        for name, parameter in self.model.learned().items():
            for what, array in (("the weight", parameter.value.data), ("the gradient of", parameter.value.grad)):
                if array is not None and not np.isfinite(array).all():
                    return f"loss {loss}; {what} {name} is not finite; a lower learning rate, or a warm-up, may help"
        return f"loss {loss} is not finite"

    def _tell(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self)


def _groups(model: Any, decay: float) -> list[dict[str, Any]]:
    """Matrices decay, vectors (biases, norms) do not."""
    tensors = model.parameters()
    groups = [
        {"params": [t for t in tensors if t.ndim > 1], "weight_decay": decay},
        {"params": [t for t in tensors if t.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _adam(a: TrainingArguments) -> dict[str, Any]:
    return {"lr": a.learning_rate, "betas": (a.adam_beta1, a.adam_beta2), "eps": a.adam_epsilon}


def _due(step: int, every: int, total: int) -> bool:
    return step == total or (every > 0 and step % every == 0)
