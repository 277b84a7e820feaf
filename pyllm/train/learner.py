"""fastai's ways to train on top of Trainer: frozen layers, one cycle, a search for the rate, ULMFiT's recipe.

    learn = pyllm.Learner(model, data, pyllm.TrainingArguments("runs/c", num_train_epochs=4), valid)
    learn.lr_find().plot("lr.svg")
    learn.fit(recipe="ulmfit", lr=1e-2)

Each stage is a Trainer's run in a folder of its own, `stage-1`, `stage-2`, ... So a program that was killed goes on
when it is run again: complete stages take their weights from their last checkpoint, and it ends with the same bits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from pyllm.errors import TrainingError
from pyllm.train.arguments import TrainingArguments
from pyllm.train.callbacks import Callback
from pyllm.train.groups import freeze_to, layer_groups
from pyllm.train.trainer import Result, Trainer


@dataclass(frozen=True)
class Recipe:
    """How a pretrained model learns something new, of any family. Howard, Ruder 2018, arXiv:1801.06146.

    layer_divisor: discriminative rates, see TrainingArguments. schedule: a name, "" the arguments' own. gradual: first
    the last group of layers learns for thaw_epochs, then the last two, ...; all of them for the epochs asked for.
    """

    layer_divisor: float = 2.6
    schedule: str = "slanted_triangular"
    gradual: bool = True
    thaw_epochs: float = 1.0


Rate = float | slice | None
RECIPES = {
    "plain": Recipe(1.0, "", False),
    "one_cycle": Recipe(1.0, "one_cycle", False),
    "ulmfit": Recipe(),
}


class LrFind(NamedTuple):
    """Rates that were tried and the smoothed loss at each; steep: where it falls most, minimum: a tenth of the rate
    where it is least. fastai's names."""

    lrs: list[float]
    losses: list[float]
    steep: float
    minimum: float

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw loss over rate as an SVG file."""
        from pyllm.evaluate.rates import draw  # upwards: fastai has the plot on what lr_find gives

        draw(self.lrs, self.losses, self.steep, path)


class Learner:
    """A model, its data, and what is done with them, stage after stage; arguments as Trainer takes them.

    data, valid, callbacks, facts: see Trainer. A stage writes to a folder `stage-N` below arguments.output_dir.
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
        self.callbacks, self.facts = list(callbacks), dict(facts or {})
        self.stage = 0
        self._first = 0  # of the groups of layers that learns
        freeze_to(model, 0)

    @property
    def groups(self) -> int:
        """How many groups of layers freeze_to counts."""
        return len(layer_groups(self.model))

    def freeze_to(self, n: int) -> None:
        """Groups of layers from n on alone learn; below 0 counted from the end. Raises ValueError."""
        freeze_to(self.model, n)
        self._first = n % self.groups

    def freeze(self) -> None:
        """The last group alone learns: a classifier's head."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Everything learns."""
        self.freeze_to(0)

    def fit(self, n_epoch: float | None = None, lr: Rate = None, recipe: str | Recipe = "plain") -> Result:
        """Train for so many epochs, at most at this rate; None: as the arguments say. lr: a number, or as fastai's
        slice(lowest, highest): the first and the last group of layers have these, those between by equal factors.
        recipe: "plain", "one_cycle", "ulmfit" or a Recipe.

        Raises as Trainer.train does, ValueError for a recipe that is not known and rates that do not rise.

        A result that is not complete was interrupted: the same calls in a new process go on.
        """
        if isinstance(recipe, str) and recipe not in RECIPES:
            raise ValueError(f"fit: recipe {recipe!r}, allowed are {', '.join(RECIPES)}, or a Recipe")
        found = RECIPES[recipe] if isinstance(recipe, str) else recipe
        for n in range(1, self.groups) if found.gradual else ():
            self.freeze_to(-n)
            result = self._run(found, found.thaw_epochs, lr)
            if not result.complete:
                return result
        if found.gradual:
            self.unfreeze()
        return self._run(found, n_epoch, lr)

    def fit_one_cycle(self, n_epoch: float, lr_max: Rate = None) -> Result:
        """Train with a rate that rises and falls once, lr_max as fit's lr at its highest. Smith 2018, arXiv:1803.09820;
        momentum stays as it is."""
        return self.fit(n_epoch, lr_max, "one_cycle")

    def _run(self, recipe: Recipe, n_epoch: float | None, lr: Rate) -> Result:
        """One stage. One that was refused or failed is none: its number is the next call's."""
        a, number = self.arguments, self.stage + 1
        divisor = max(recipe.layer_divisor, a.layer_divisor)
        if isinstance(lr, slice):
            lr, divisor = _spread(lr, self.groups)
        a = replace(
            a,
            output_dir=os.path.join(a.output_dir, f"stage-{number}"),
            learning_rate=a.learning_rate if lr is None else lr,
            lr_scheduler_type=recipe.schedule or a.lr_scheduler_type,
            layer_divisor=divisor,
            max_steps=a.max_steps if n_epoch is None else 0,
            num_train_epochs=a.num_train_epochs if n_epoch is None else n_epoch,
        )
        facts = self.facts | {"stage": {"number": number, "frozen": self._first}}
        result = Trainer(self.model, self.data, a, self.valid, self.callbacks, facts).train()
        self.stage = number
        return result

    def lr_find(self, start_lr: float = 1e-7, end_lr: float = 10.0, num_it: int = 100) -> LrFind:
        """Try rates that rise from start_lr to end_lr, a step each, and put the weights back. Smith 2017,
        arXiv:1506.01186. Ends early where the loss is four times its least, or no number any more.

        Raises ValueError for fewer than ten steps, and where not even those went well.
        """
        if num_it < 10 or not 0 < start_lr < end_lr < math.inf:
            found = f"{num_it} steps from {start_lr:g} to {end_lr:g}"
            raise ValueError(f"lr_find: {found}, allowed are 10 or more, from above 0 to a higher rate")
        held = {name: array.copy() for name, array in self.model.learned_arrays().items()}
        a = replace(self.arguments, learning_rate=start_lr, lr_scheduler_type="constant", max_steps=num_it)
        trainer = Trainer(self.model, self.data, a)
        lrs, losses, mean = list[float](), list[float](), 0.0
        try:
            for i in range(num_it):
                factor = (end_lr / start_lr) ** (i / (num_it - 1))
                loss = trainer.try_rate(factor)
                mean = 0.98 * mean + 0.02 * loss
                lrs.append(start_lr * factor)
                losses.append(mean / (1 - 0.98 ** (i + 1)))
                if losses[-1] > 4 * min(losses):
                    break
        except TrainingError:
            pass  # the loss is no number any more: what there is says enough
        finally:
            for name, parameter in self.model.learned().items():
                parameter.value.data[...] = held[name]
        if len(lrs) < 10:
            raise ValueError(f"lr_find: the loss fails after {len(lrs)} steps, allowed are 10 or more; start lower")
        least = losses.index(min(losses))
        falls = [losses[i + 1] - losses[i - 1] for i in range(1, max(least, 2))]
        return LrFind(lrs, losses, lrs[1 + falls.index(min(falls))], lrs[least] / 10)


def _spread(rates: slice, groups: int) -> tuple[float, float]:
    """(the highest rate, by what each group's is divided for the one below). Raises ValueError."""
    low, high = rates.start, rates.stop
    numbers = all(isinstance(each, int | float) for each in (low, high))
    if rates.step is not None or not numbers or not 0 < low <= high < math.inf:
        raise ValueError(f"fit: lr {rates}, allowed are a number and slice(lowest, highest), above 0")
    return high, (high / low) ** (1 / max(groups - 1, 1))
