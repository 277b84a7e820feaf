"""The loop: a step takes samples by position, walks back, changes the weights, writes a line; a kill loses nothing.

What a step computes is a function of (weights, optimizer, position), so a run that was killed and goes on from its
newest checkpoint ends with the same bytes, whatever the number of threads.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from pyllm import _core, ops
from pyllm.auto.classifiers import save_classifier
from pyllm.autograd import no_grad
from pyllm.errors import TrainingError
from pyllm.formats.memory import available
from pyllm.models.classifier import TextClassifier
from pyllm.optim import NTASGD, schedule
from pyllm.tensor import Array
from pyllm.train.adapting import save, save_tokenizer
from pyllm.train.arguments import TrainingArguments
from pyllm.train.callbacks import Callback
from pyllm.train.checkpoint import Checkpoints, check_facts, plain
from pyllm.train.examples import Examples
from pyllm.train.groups import optimizer_of
from pyllm.train.log import Log, read

IGNORED = -100
PATIENCE = 5.0  # seconds of training before the machine's peak is measured: short runs do without


class Result(NamedTuple):
    """How a run ended: steps that are saved, the last loss, the validation loss (None without), whether it is done.

    answers: where prompts were held out, {"prompt", "wanted", "before", "after"} of each.
    """

    step: int
    loss: float
    valid_loss: float | None
    complete: bool
    answers: tuple[dict[str, str], ...] = ()


class Trainer:
    """Trains `model`, which has loss(ids, targets), on data that has len() and batch(position, size).

    batch gives (ids (rows,), targets (rows,), starts (sequences + 1,)): sequences end to end; a fourth are options of
    loss. Or rows of dicts as transformers' Trainer takes them, under its names: see Examples; data_collator makes
    arrays of some rows, and must give the same each time for a run to go on to the same bits.
    facts: what must not change while a run goes on ("config", "data", "tokenizer"), refused by name when it has.
    callbacks see every step. Raises ValueError for gradient_checkpointing of a model that has no
    gradient_checkpointing_enable(), TypeError for datasets that are neither.
    """

    def __init__(
        self,
        model: Any,
        data: Any = None,
        arguments: TrainingArguments | None = None,
        valid: Any = None,
        callbacks: Sequence[Callback] | None = (),
        facts: dict[str, Any] | None = None,
        *,
        args: TrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        data_collator: Callable[[Any], Any] | None = None,
        processing_class: Any = None,
    ) -> None:
        if isinstance(data, TrainingArguments):  # transformers' second place
            data, args = None, data
        arguments = args if arguments is None else arguments
        if not isinstance(arguments, TrainingArguments):
            raise TypeError(f"Trainer: args is {type(arguments).__name__}, allowed is pyllm.TrainingArguments")
        self.model, self.arguments = model, arguments
        self.collator, self.tokenizer = data_collator, processing_class
        self.data = data = self._samples(train_dataset if data is None else data)
        self.valid = valid = self._samples(eval_dataset if valid is None else valid)
        self.callbacks = list(callbacks or ())
        for each in self.callbacks:
            if isinstance(each, type) or hasattr(each, "on_init_end"):  # transformers', which are told other things
                found = each.__name__ if isinstance(each, type) else type(each).__name__
                raise TypeError(f"Trainer: a callback is {found}, allowed are objects of a pyllm.train.Callback")
        self.facts = plain({"arguments": arguments.binding()} | (facts or {}), "facts")
        if isinstance(data, Examples):
            self.facts.setdefault("data", {"rows": len(data)})
        self.step = self.position = self.tokens = 0
        samples = 0 if data is None else len(data)
        self.total = arguments.total_steps(samples)
        self._save_every, self._judge_every = (arguments.every(what, samples) for what in ("save", "eval"))
        self.loss = math.nan
        self.valid_loss: float | None = None
        self._stopped = False
        self._whole = True  # weights, optimizer, counters and log belong to self.step
        model.train()
        if arguments.gradient_checkpointing:
            if not hasattr(model, "gradient_checkpointing_enable"):
                found = f"{type(model).__name__} has no gradient_checkpointing_enable()"
                raise ValueError(f"train: gradient_checkpointing: {found}, allowed are models of layers")
            model.gradient_checkpointing_enable()
        self.optimizer = optimizer_of(model, arguments)
        if isinstance(self.optimizer, NTASGD) and (valid is None or not self._judge_every):
            found = "no validation data" if valid is None else "eval_steps 0"
            raise ValueError(f"train: nt_asgd with {found}, allowed are both: it begins by the validation loss")
        self._rate = schedule(arguments.lr_scheduler_type, self.total, arguments.warmup(self.total))
        self._flops = model.training_flops()
        self._peak, self._trained = math.nan, 0.0

    def _samples(self, given: Any) -> Any:
        """What has batch(position, size), of rows too; transformers' datasets have another batch()."""
        if given is None or (hasattr(given, "batch") and not hasattr(given, "column_names")):
            return given
        return Examples(given, self.model, self.collator, self.arguments.seed)

    def stop(self) -> None:
        """End the run after the step that is under way."""
        self._stopped = True

    def train(self, resume: bool = True, resume_from_checkpoint: bool | None = None) -> Result:
        """All steps that are left. resume: go on from the newest sound checkpoint in output_dir, if there is one.

        Ctrl-C ends the run after the step, with a checkpoint and complete=False; a second one ends it at once, and what
        came after the newest checkpoint is computed again if the weights are between two steps. Raises TrainingError
        for a loss or weights that are not finite (the checkpoints stay as they were) or an output_dir of another run,
        CheckpointError for one in use, of other facts, or where the disk refuses. resume_from_checkpoint: another name
        of resume, True or False.
        """
        if resume_from_checkpoint not in (None, True, False):
            given = f"resume_from_checkpoint is {resume_from_checkpoint!r}"
            raise ValueError(f"train: {given}, allowed are True, the newest of output_dir, and False")
        if self.data is None:
            raise ValueError("train: no train_dataset; give one to Trainer")
        resume = resume if resume_from_checkpoint is None else resume_from_checkpoint
        _core.keep_freed()
        a, self._stopped = self.arguments, False
        self.model.train()
        with _first_interrupt(self.stop), Checkpoints(a.output_dir, keep=a.save_total_limit) as checkpoints:
            found = checkpoints.newest()
            if found is not None and not resume:
                raise TrainingError(f"train: {a.output_dir} holds a run of {found[0]} steps; resume, or name another")
            if found is not None:
                self._restore(*found)
            elif checkpoints.steps():
                why = checkpoints.refused[checkpoints.steps()[-1]]
                raise TrainingError(f"train: no checkpoint of {a.output_dir} is sound; {why}")
            elif not self._whole:
                raise TrainingError("train: the weights are between two steps, nothing was saved; make the model anew")
            with Log(a.output_dir, self.step) as log:
                for line in read(a.output_dir)[-1:]:
                    self.loss, self.valid_loss = line.get("loss", math.nan), line.get("valid_loss")
                self._tell("on_train_begin")
                try:
                    saved = self._run(checkpoints, log)
                finally:
                    self._tell("on_train_end")
                if saved >= self.total and isinstance(self.optimizer, NTASGD):
                    self.optimizer.take_average()
                return Result(saved, self.loss, self.valid_loss, saved >= self.total)

    def _run(self, checkpoints: Checkpoints, log: Log) -> int:
        """Steps until the last, or the run is stopped; how many are saved."""
        saved = self.step
        try:
            while self.step < self.total and not self._stopped:
                values = self._one_step()
                if self.valid is not None and _due(self.step, self._judge_every, self.total):
                    values["valid_loss"] = self._judged()
                self._write(log, values)
                if _due(self.step, self._save_every, self.total):
                    self._save(checkpoints, log)
                    saved = self.step
        except KeyboardInterrupt:
            self._stopped = True
        if self.step > saved and self._whole:
            self._save(checkpoints, log)
            saved = self.step
        return saved

    def _one_step(self) -> dict[str, Any]:
        begin, a = time.perf_counter(), self.arguments
        size = a.per_device_train_batch_size
        batches = [self.data.batch(self.position + i * size, size) for i in range(a.gradient_accumulation_steps)]
        counts = [_wanted(batch[1]) for batch in batches]
        total, loss = max(sum(counts), 1), 0.0
        self.optimizer.zero_grad()
        for i, (batch, count) in enumerate(zip(batches, counts, strict=True)):
            if count:
                with ops.noise(a.seed, self.step * len(batches) + i), ops.smoothing(a.label_smoothing_factor):
                    mine = self._loss(*batch)
                loss += mine.item() * count / total
                mine.backward(np.full(mine.shape, count / total, np.float32))
        norm = self.optimizer.grad_norm()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(f"train: step {self.step + 1}: {self._not_finite(loss)}")
        factor = self._rate(self.step)
        self.optimizer.scale_rates(factor)
        scale = a.max_grad_norm / (norm + 1e-6) if a.max_grad_norm and norm > a.max_grad_norm else 1.0
        self._whole = False  # until the log has the step: an interrupt here leaves nothing that could be saved
        self.optimizer.step(scale)
        tokens = sum(len(batch[0]) for batch in batches)
        self.step, self.position, self.tokens = self.step + 1, self.position + a.samples_per_step, self.tokens + tokens
        self.loss = loss
        return {
            "loss": loss,
            "lr": a.learning_rate * factor,
            "grad_norm": norm,
            "seconds": time.perf_counter() - begin,
            "rows": tokens,
        }

    def try_rate(self, factor: float) -> float:
        """A step at `factor` times the learning rate, of which nothing is written; the loss before it."""
        self._rate = lambda step: factor
        return float(self._one_step()["loss"])

    def _loss(self, ids: Array, targets: Array, starts: Array, options: Mapping[str, Any] = {}) -> Any:
        with ops.documents(starts), ops.autocast("bf16" if self.arguments.bf16 else "fp32"):
            return self.model.loss(ids, targets, **options)

    def _judged(self) -> float:
        """The validation loss, of the average where weights are averaged."""
        if not isinstance(self.optimizer, NTASGD):
            return self.evaluate()
        with self.optimizer.averaged():
            loss = self.evaluate()
        self.optimizer.heard(loss)
        return loss

    def evaluate(self, eval_dataset: Any = None) -> float:
        """Mean loss in nats of a target over all validation data, without learning; NaN where nothing is wanted.

        eval_dataset: other data. Raises ValueError without any.
        """
        valid = self.valid if eval_dataset is None else self._samples(eval_dataset)
        if valid is None:
            raise ValueError("evaluate: no eval_dataset; give one to evaluate() or to Trainer")
        total, count, size = 0.0, 0, self.arguments.per_device_eval_batch_size
        with no_grad():
            for position in range(0, len(valid), size):
                batch = valid.batch(position, min(size, len(valid) - position))
                here = _wanted(batch[1])
                if here:
                    total += self._loss(*batch).item() * here
                    count += here
        self.valid_loss = loss = total / count if count else math.nan
        for callback in self.callbacks:
            callback.on_evaluate(self, self.step, loss)
        return loss

    def save_model(self, output_dir: str | None = None) -> None:
        """Write the model, as from_pretrained reads it, and the tokenizer that was given; None: to the run's folder."""
        folder = self.arguments.output_dir if output_dir is None else output_dir
        if isinstance(self.model, TextClassifier):
            save_classifier(self.model, folder)
        else:
            save(self.model, folder)
        if self.tokenizer is not None:
            save_tokenizer(self.model, self.tokenizer, folder)

    def _write(self, log: Log, values: dict[str, Any]) -> None:
        seconds, rows = values.pop("seconds"), values.pop("rows")
        log.add(self.step, samples=self.position, tokens=self.tokens, **values)
        self._whole = True
        self._measure(seconds)
        rate = rows / seconds
        self._peak = max(self._peak, rate * self._flops)  # what was measured beside other programs may be less
        speed = {"seconds": seconds, "tokens_per_second": rate, "share_of_peak": rate * self._flops / self._peak}
        log.time(self.step, **speed)
        for callback in self.callbacks:
            callback.on_step_end(self, values | speed)

    def _measure(self, seconds: float) -> None:
        """Find the machine's peak once training has taken a while, and while there is room for it."""
        self._trained += seconds
        if math.isnan(self._peak) and self._trained > PATIENCE:
            self._trained, free = 0.0, available()
            if free is None or free > 1 << 30:
                limits = _core.measure_limits(0.05)
                self._peak = 1e9 * limits["bf16_GFLOPs" if self.arguments.bf16 else "fp32_GFLOPs"]

    def _save(self, checkpoints: Checkpoints, log: Log) -> None:
        flat = [group.numbers for group in self.optimizer.groups] + list(self.optimizer.state_dict().values())
        if not all(math.isfinite(_core.sum_of_squares(array)) for array in flat):
            raise TrainingError(f"train: after step {self.step}: {self._not_finite(self.loss)}; nothing is saved")
        log.sync()
        tensors = {f"model.{name}": array for name, array in self.model.learned_arrays().items()}
        tensors |= {f"optimizer.{name}": array for name, array in self.optimizer.state_dict().items()}
        counters = {"position": self.position, "tokens": self.tokens}
        checkpoints.save(self.step, tensors, self.facts | {"counters": counters})

    def _restore(self, step: int, tensors: dict[str, Array], facts: dict[str, Any]) -> None:
        counters = facts.get("counters")
        check_facts(facts, self.facts, tuple(name for name in {**self.facts, **facts} if name != "counters"))
        self._check_tensors(step, tensors)
        if not isinstance(counters, dict) or set(counters) != {"position", "tokens"}:
            raise TrainingError(f"train: {self.arguments.output_dir}: checkpoint of step {step} is no trainer's")
        self._whole = False
        for name, parameter in self.model.learned().items():
            parameter.value.data[...] = tensors[f"model.{name}"]
        mine = {name.removeprefix("optimizer."): a for name, a in tensors.items() if name.startswith("optimizer.")}
        self.optimizer.load_state_dict(mine, step)
        self.step, self.position, self.tokens = step, counters["position"], counters["tokens"]
        self._whole = True

    def _check_tensors(self, step: int, tensors: dict[str, Array]) -> None:
        """Raises TrainingError naming the first tensor that is missing, not known, or of another shape."""
        mine = {f"model.{name}": array.shape for name, array in self.model.learned_arrays().items()}
        mine |= {f"optimizer.{name}": array.shape for name, array in self.optimizer.state_dict().items()}
        for name in [*mine, *tensors]:
            found, allowed = tensors[name].shape if name in tensors else "missing", mine.get(name, "no such tensor")
            if found != allowed:
                where = f"train: {self.arguments.output_dir}: checkpoint of step {step}"
                raise TrainingError(f"{where}: tensor {name} is {found}, allowed is {allowed}")

    def _not_finite(self, loss: float) -> str:
        """Names the first tensor that is not finite; weights first, as one spoils the gradients of those before it."""
        parameters = self.model.learned().items()
        named = [("the weight", name, parameter.value.data) for name, parameter in parameters]
        named += [("the gradient of", name, parameter.value.grad) for name, parameter in parameters]
        named += [("the optimizer's", name, array) for name, array in self.optimizer.state_dict().items()]
        for what, name, array in named:
            if array is not None and not np.isfinite(array).all():
                return f"loss {loss}; {what} {name} is not finite; a lower learning rate, or a warm-up, may help"
        return f"loss {loss} is not finite"

    def _tell(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self)


def _wanted(targets: Array) -> int:
    """How many targets count in a loss: of numbers all, -100 is one of them."""
    return targets.size if targets.dtype.kind == "f" else int(np.count_nonzero(targets != IGNORED))


def _due(step: int, every: int, total: int) -> bool:
    return step == total or (every > 0 and step % every == 0)


@contextmanager
def _first_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C within calls `stop`, later ones raise KeyboardInterrupt. Only where Ctrl-C did that before."""
    usual = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield
        return

    def first(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, usual)
        stop()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
