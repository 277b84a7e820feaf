"""AdamW and SGD over flat arrays: one pass over memory a step, whatever the number of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from pyllm import _core
from pyllm.tensor import Array, Tensor

Groups = Iterable[Tensor] | Iterable[dict[str, Any]]


def _zeros(size: int) -> Array:
    zeros = _core.empty((size,))
    zeros.fill(0)
    return zeros


def _listed(tensors: Any) -> list[Any]:
    """A tensor alone is one, not its rows."""
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


class Group:
    """Tensors that share options. Their numbers and gradients become parts of two flat arrays."""

    def __init__(self, tensors: Sequence[Tensor], options: dict[str, Any]) -> None:
        self.tensors = list(tensors)
        self.options: dict[str, Any] = {"params": self.tensors, **options}
        self.numbers = _core.empty((sum(t.size for t in self.tensors),))
        self.gradients = _zeros(self.numbers.size)
        self.places = []
        end = 0
        for tensor in self.tensors:
            here, end = slice(end, end + tensor.size), end + tensor.size
            place = self.numbers[here].reshape(tensor.shape)
            place[...] = tensor.data
            tensor.data = place
            self.places.append(self.gradients[here].reshape(tensor.shape))
            tensor.keep_grad_in(self.places[-1])

    def ready(self) -> None:
        """Have all gradients in the flat array; zero where a tensor got none in this step."""
        for tensor, place in zip(self.tensors, self.places, strict=True):
            if tensor.grad is None:
                place.fill(0)
            elif not np.may_share_memory(tensor.grad, place):  # the caller has put another array there
                place[...] = tensor.grad


class Optimizer:
    """What optimizers share: groups of tensors, their options, a state that is saved.

    params: tensors, or dicts {"params": tensors or one, options that differ}; lr: of those that say none. Raises
    ValueError for none, for one twice, or for an option that is not known.
    """

    defaults: ClassVar[dict[str, Any]] = {}
    state_names: tuple[str, ...] = ()

    def __init__(self, params: Groups, lr: float | None = None, **options: Any) -> None:
        options |= {} if lr is None else {"lr": lr}
        given = [{**p, "params": _listed(p["params"])} if isinstance(p, dict) else {"params": [p]}
                 for p in _listed(params)]  # fmt: skip
        if all(set(each) == {"params"} for each in given):
            given = [{"params": [t for each in given for t in each["params"]]}] if given else []
        tensors = [t for each in given for t in each["params"]]
        if not tensors or len({id(t) for t in tensors}) != len(tensors):
            raise ValueError(f"{type(self).__name__}: {len(tensors)} tensors, allowed are one or more, each once")
        self.groups: list[Group] = []
        for each in given:
            mine = self.defaults | options | {name: value for name, value in each.items() if name != "params"}
            if set(mine) != set(self.defaults):
                unknown = ", ".join(sorted(set(mine) - set(self.defaults)))
                raise ValueError(f"{type(self).__name__}: option {unknown}, known are {', '.join(self.defaults)}")
            self.check(mine)
            self.groups.append(Group(each["params"], mine))
        self.steps = 0
        self.state = [{name: _zeros(self.state_size(g)) for name in self.state_names} for g in self.groups]
        self._rates = [group.options["lr"] for group in self.groups]

    def check(self, options: dict[str, Any]) -> None:
        """Raises ValueError for a rate or a decay below 0, or not finite."""
        for name in ("lr", "weight_decay"):
            if not 0 <= options[name] < float("inf"):
                raise ValueError(f"{type(self).__name__}: {name} is {options[name]}, allowed is 0 or more")

    def state_size(self, group: Group) -> int:
        """Numbers of each of state_names: as many as the group has."""
        return int(group.numbers.size)

    def zero_grad(self) -> None:
        """Forget all gradients; their memory stays."""
        for group in self.groups:
            for tensor in group.tensors:
                tensor.zero_grad()

    def scale_rates(self, factor: float) -> None:
        """Set every group's rate to `factor` of the one it began with: what a schedule says for this step."""
        for group, rate in zip(self.groups, self._rates, strict=True):
            group.options["lr"] = rate * factor

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Each group's tensors ("params") and options; what is set there, as "lr", counts from the next step on."""
        return [group.options for group in self.groups]

    @property
    def rate(self) -> float:
        """The first group's learning rate."""
        return float(self.groups[0].options["lr"])

    def grad_norm(self) -> float:
        """Square root of the sum of the squares of all gradients; the same bits for any number of threads."""
        for group in self.groups:
            group.ready()
        return float(np.sqrt(sum(_core.sum_of_squares(group.gradients) for group in self.groups)))

    def step(self, scale: float = 1.0) -> None:
        """Change the tensors by their gradients times `scale`; tensors without a gradient count as zero."""
        self.steps += 1
        for group, state in zip(self.groups, self.state, strict=True):
            group.ready()
            self.update(group, state, scale)

    def update(self, group: Group, state: dict[str, Array], scale: float) -> None:
        """One group's step."""
        raise TypeError(f"{type(self).__name__}: an optimizer says how it updates")

    def state_dict(self) -> dict[str, Array]:
        """Flat arrays of the state: what a run that goes on needs beside the weights and `steps`."""
        return {f"{i}.{name}": array for i, state in enumerate(self.state) for name, array in state.items()}

    def load_state_dict(self, saved: dict[str, Array], steps: int) -> None:
        """Take a saved state. Raises ValueError where names or sizes differ."""
        mine = self.state_dict()
        if {n: a.shape for n, a in mine.items()} != {n: a.shape for n, a in saved.items()}:
            raise ValueError(f"{type(self).__name__}: the saved state is of other tensors")
        for name, array in mine.items():
            array[...] = saved[name]
        self.steps = steps


class AdamW(Optimizer):
    """p -= lr (m^ / (sqrt(v^) + eps) + weight_decay p). Loshchilov, Hutter 2019, arXiv:1711.05101.

    m and v are running means of g and g^2 with betas (b1, b2); m^ = m / (1 - b1^t), v^ = v / (1 - b2^t).
    """

    defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    state_names = ("m", "v")

    def check(self, options: dict[str, Any]) -> None:
        """Also betas within [0, 1)."""
        super().check(options)
        if not all(0 <= beta < 1 for beta in options["betas"]):
            raise ValueError(f"AdamW: betas are {options['betas']}, allowed is from 0 to below 1")

    def update(self, group: Group, state: dict[str, Array], scale: float) -> None:
        """One pass over weights, gradients and both means."""
        o = group.options
        beta1, beta2 = o["betas"]
        _core.adamw(
            group.numbers, group.gradients, state["m"], state["v"], o["lr"], beta1, beta2, o["eps"],
            o["weight_decay"], self.steps, scale,
        )  # fmt: skip


class SGD(Optimizer):
    """g += weight_decay p; m = momentum m + g; p -= lr m (nesterov: lr (g + momentum m)). Sutskever et al. 2013."""

    defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0, "nesterov": False}
    state_names = ("m",)

    def update(self, group: Group, state: dict[str, Array], scale: float) -> None:
        """One pass over weights, gradients and the momentum."""
        o = group.options
        moving = state["m"] if o["momentum"] else None
        _core.sgd(
            group.numbers, group.gradients, moving, o["lr"], o["momentum"], o["weight_decay"], o["nesterov"], scale,
            self.steps == 1,
        )  # fmt: skip


class NTASGD(Optimizer):
    """SGD that takes the mean of its weights from the moment when the validation loss stops to fall: NT-ASGD.

    p -= lr (g + weight_decay p). Averaging begins after heard() a loss that is above the least of those before the
    last n: T; from then on average += (p - average) / max(1, t - T - 1). torch.optim.ASGD's with lambd 0 and t0 = T.
    Merity et al. 2017, arXiv:1708.02182, algorithm 1; Polyak, Juditsky 1992, SIAM J. Control Optim. 30.
    """

    defaults: ClassVar[dict[str, Any]] = {"lr": 30.0, "weight_decay": 0.0}
    state_names = ("average",)

    def __init__(self, params: Groups, lr: float | None = None, n: int = 5, **options: Any) -> None:
        super().__init__(params, lr, **options)
        if n < 1:
            raise ValueError(f"NTASGD: n is {n}, allowed is 1 or more")
        # T, how many losses were heard, the least but for the last n, and those: finite, as checkpoints want numbers
        self.clock = np.zeros(3 + n, np.float32)

    @property
    def averaging(self) -> bool:
        """Whether it has begun."""
        return self.clock[0] > 0

    def heard(self, loss: Any) -> None:
        """A validation loss of the weights of now."""
        loss, least, last = np.float32(loss), self.clock[2], self.clock[3:]
        count = int(self.clock[1])
        if not self.averaging and count > len(last) and loss > least:
            self.clock[0] = self.steps
        if count >= len(last):
            self.clock[2] = last[0] if count == len(last) else min(least, last[0])
        last[:-1] = last[1:].copy()
        last[-1] = loss
        self.clock[1] = count + 1

    def update(self, group: Group, state: dict[str, Array], scale: float) -> None:
        """One pass over weights and gradients, and one over the average once it is kept."""
        o = group.options
        _core.sgd(group.numbers, group.gradients, None, o["lr"], 0.0, o["weight_decay"], False, scale, False)
        if self.averaging:
            share = np.float32(1 / max(1, self.steps - int(self.clock[0]) - 1))
            state["average"] += (group.numbers - state["average"]) * share

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the tensors hold the average, where there is one."""
        if not self.averaging or self.steps <= self.clock[0]:
            yield
            return
        held = [group.numbers.copy() for group in self.groups]
        self.take_average()
        try:
            yield
        finally:
            for group, numbers in zip(self.groups, held, strict=True):
                group.numbers[...] = numbers

    def take_average(self) -> None:
        """Have the tensors be the average, where there is one."""
        if self.averaging and self.steps > self.clock[0]:
            for group, state in zip(self.groups, self.state, strict=True):
                group.numbers[...] = state["average"]

    def state_dict(self) -> dict[str, Array]:
        """Also the clock."""
        return super().state_dict() | {"clock": self.clock}


def clip_grad_norm_(tensors: Tensor | Iterable[Tensor], max_norm: float) -> float:
    """Scale gradients so that their norm together is at most max_norm; gives the norm before. arXiv:1211.5063."""
    gradients = [t.grad for t in _listed(tensors) if t.grad is not None]
    norm = float(np.sqrt(sum(_core.sum_of_squares(np.ascontiguousarray(g)) for g in gradients)))
    if norm > max_norm:
        for gradient in gradients:
            gradient *= np.float32(max_norm / (norm + 1e-6))
    return norm
