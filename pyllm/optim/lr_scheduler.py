"""Learning rates that a loop of one's own moves on, under PyTorch's name."""

from __future__ import annotations

from pyllm.optim.optimizers import Optimizer
from pyllm.optim.schedules import Schedule


class LambdaLR:
    """Every group's first rate times lr_lambda(0), and after n calls of step() times lr_lambda(n).

    lr_lambda: a function of the step, as those of pyllm.optim: LambdaLR(optimizer, optim.cosine(1000, warmup=100)).
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Schedule) -> None:
        self.optimizer, self.lr_lambda, self.last_epoch = optimizer, lr_lambda, -1
        self.step()

    def step(self) -> None:
        """One step further; after the optimizer's."""
        self.last_epoch += 1
        self.optimizer.scale_rates(self.lr_lambda(self.last_epoch))

    def get_last_lr(self) -> list[float]:
        """The rate of each group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]
