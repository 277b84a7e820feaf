"""What training and running a model cost, from its sizes alone: operations, memory part by part, time.

    plan = Plan("llama-7b", sizes(PRESETS["llama-7b"]))
    training_flop(plan, tokens_in(50e12))     # 4.6e23
    memory(plan).total                        # bytes

The rules, each written out in the rows that the functions give:
a number of a weight costs 2 operations forward, 2 for the gradient of the inputs and 2 for its own; attention costs
4 x width x positions seen forward and twice that backward; windows of attention are not deducted. Training keeps what
every matrix reads and what it gives: an input that several matrices read is counted for each, which stands for the
inputs of norms and activations; with gradient checkpointing it keeps what every layer reads, and one layer's of these,
for another pass forward through the layers. Optimizers other than AdamW need less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from pyllm.models.counted import Count, Group, Part
from pyllm.models.counting import FORMATS, bytes_in, count_preset, mlp
from pyllm.models.presets import Preset

BYTES_PER_TOKEN = 4.5  # of text; 50 TB are 1.1e13 tokens
TOKENS_PER_PARAMETER = 20  # where no amount of data is given: Hoffmann et al. 2022, arXiv:2203.15556
CACHES = {"F32": 4.0, "BF16": 2.0, "Q8_0": 1.125}  # type of cached keys and values -> bytes of a number
PROCESS = 64 << 20  # Python's modules, a tokenizer
DTYPES = {"fp32": 4, "bf16": 2}  # of the arithmetic in training -> bytes of an activation
_TABLES = {"positions", "segments", "relative positions", "source embedding"}  # a token reads one row of them
_EMBEDDINGS = {"embedding", "tokens"}  # so too, unless they are the output matrix


class Attention(NamedTuple):
    """Layers of one kind of attention: width = heads x head size, seen = share of the context that a position sees."""

    name: str
    layers: int
    width: int
    seen: float


class Sizes(NamedTuple):
    """A model as the arithmetic sees it. sides: 2 where a step takes a token of the source and one of the target."""

    counted: Count
    attention: tuple[Attention, ...] = ()
    sides: int = 1

    @property
    def parameters(self) -> int:
        """All numbers."""
        return self.counted.total

    @property
    def looked_up(self) -> int:
        """Numbers in tables that are only read by row: they cost no multiplication."""
        return sum(
            group.repeat * part.size for group in self.counted.groups for part in group.parts if self._table(part)
        )

    @property
    def multiplied(self) -> int:
        """N: the numbers that take part in the work for every token, as often as they do."""
        return sum(group.runs * group.size for group in self.counted.groups) - self.looked_up

    @property
    def vocabulary(self) -> int:
        """Rows of the output matrix; 0 without one."""
        parts = [part for group in self.counted.groups for part in group.parts]
        return next((part.shape[0] for part in parts if self._output(part)), 0)

    @property
    def _untied(self) -> bool:
        return self.counted.groups[-1].name == "output"

    def _output(self, part: Part) -> bool:
        return part.name == "output" if self._untied else part.name in _EMBEDDINGS

    def _table(self, part: Part) -> bool:
        return part.name in _TABLES or (part.name in _EMBEDDINGS and self._untied)

    @property
    def layers(self) -> tuple[Group, ...]:
        """Layers that are run again with gradient checkpointing, by kind; an MLP has none."""
        return tuple(group for group in self.counted.groups if group.name.endswith("layers"))

    @property
    def width(self) -> int:
        """Per position: what one layer reads."""
        return self.layers[0].parts[0].shape[-1]

    def inputs_and_outputs(self) -> int:
        """Per position: what all matrices but the output matrix read and give, added up."""
        return self._matrices(self.counted.groups)

    def of_one_layer(self) -> int:
        """The same with the largest layer alone, and what is in no layer."""
        largest = max(self._matrices([group._replace(repeat=1, runs=1)]) for group in self.layers)
        return self.inputs_and_outputs() - self._matrices(self.layers) + largest

    def adapters(self, rank: int) -> int:
        """Numbers that LoRA of a rank adds to all matrices but embedding and output: rank x (inputs + outputs)."""
        return rank * self._matrices(group._replace(runs=1) for group in self.counted.groups)

    def _matrices(self, groups: Iterable[Group]) -> int:
        return sum(
            group.runs * group.repeat * part.times * sum(part.shape)
            for group in groups
            for part in group.parts
            if len(part.shape) == 2 and part.kind == "weights" and not (self._table(part) or self._output(part))
        )


class Plan(NamedTuple):
    """What is to be done: train or run `sizes` on `batch` sequences of `context` tokens at a time.

    dtype: of training, fp32 or bf16; of running, one of counting.FORMATS. lora: the rank, 0 for none. trainable: the
    share of the parameters that are trained. weights: bytes of the weights as a file stores them, for running
    and LoRA. checkpointing: layers are run again on the way back, and keep what they read alone. cache: type of keys
    and values, one of CACHES. rows: of a prompt that run at a time, 0 where what that takes beside weights and cache
    does not matter. whole: numbers that learn beside adapters, a classifier's head.
    """

    name: str
    sizes: Sizes
    batch: int = 1
    context: int = 2048
    dtype: str = "fp32"
    lora: int = 0
    trainable: float = 1.0
    running: bool = False
    weights: int | None = None
    checkpointing: bool = False
    cache: str = "BF16"
    rows: int = 0
    whole: int = 0


class Row(NamedTuple):
    """One line of a sum: what it is, how it is computed, and how much: bytes or operations."""

    name: str
    how: str
    amount: int


class Sum(NamedTuple):
    """Rows and their total."""

    rows: tuple[Row, ...]

    @property
    def total(self) -> int:
        """All rows added up."""
        return sum(row.amount for row in self.rows)


def sizes(what: Preset | list[int]) -> Sizes:
    """Of a published size, a configuration (presets.from_config) or an MLP's layers."""
    if not isinstance(what, Preset):
        return Sizes(mlp(what))
    n, count = what.numbers, count_preset(what)
    if what.shape == "transformer":
        here, there, wide = n["encoder"], n["decoder"], n["hidden"]
        sides = Attention("encoder", here, wide, 1.0), Attention("decoder", there, wide, 0.5)
        return Sizes(count, (*sides, Attention("cross attention", there, wide, 1.0)), sides=2)
    layers, width = n["layers"], n["hidden"]
    if what.shape == "seq2seq":
        return Sizes(count, () if n["attention"] == "none" else (Attention("attention", 1, width, 1.0),), sides=2)
    if what.shape == "recurrent":
        return Sizes(count)
    if what.shape in ("llama", "gpt2", "neox"):
        return Sizes(count, (Attention("attention", layers, n["heads"] * n.get("size", 0) or width, 0.5),))
    if what.shape == "bert":
        return Sizes(count, (Attention("attention", layers, width, 1.0),))
    there, width = n.get("decoder") or layers, n.get("heads", 0) * n.get("size", 0) or width
    sides = Attention("encoder", layers, width, 1.0), Attention("decoder", there, width, 0.5)
    return Sizes(count, (*sides, Attention("cross attention", there, width, 1.0)), sides=2)


def check(plan: Plan) -> None:
    """Raise ValueError for a plan that no run could have."""
    allowed = tuple(FORMATS) if plan.running else tuple(DTYPES)
    if plan.dtype not in allowed:
        raise ValueError(f"plan: dtype is {plan.dtype!r}, allowed are {', '.join(allowed)}")
    for name in ("batch", "context"):
        if getattr(plan, name) < 1:
            raise ValueError(f"plan: {name} is {getattr(plan, name)}, at least 1 is needed")
    if plan.lora < 0 or not 0 <= plan.trainable <= 1:
        raise ValueError(f"plan: lora {plan.lora} and trainable {plan.trainable}; a rank from 0, a share from 0 to 1")
    if plan.checkpointing and not plan.sizes.layers:
        raise ValueError(f"plan: gradient checkpointing of {plan.name}, which has no layers to run again")


def tokens_in(nbytes: float, ratio: float = BYTES_PER_TOKEN) -> int:
    """Tokens in so many bytes of text."""
    return round(nbytes / ratio)


def work(plan: Plan) -> Sum:
    """Operations of training for one position: of the weights, of adapters, of attention."""
    check(plan)
    n = plan.sizes.multiplied
    if plan.lora:
        adapters = plan.sizes.adapters(plan.lora)
        rows = [
            Row("frozen weights", f"4 x N = 4 x {n:,}", 4 * n),
            Row("adapters", f"6 x {adapters:,}", 6 * adapters),
        ]
    elif plan.trainable < 1:
        trained = round(n * plan.trainable)
        rows = [Row("weights", f"4 x N + 2 x trained = 4 x {n:,} + 2 x {trained:,}", 4 * n + 2 * trained)]
    else:
        rows = [Row("weights", f"6 x N = 6 x {n:,}", 6 * n)]
    if plan.checkpointing:
        again = sum(group.runs * group.size for group in plan.sizes.layers)
        rows.append(Row("layers again", f"2 x {again:,}", 2 * again))
    each_seen = 16 if plan.checkpointing else 12
    for each in plan.sizes.attention:
        seen = plan.context * each.seen
        how = f"{each_seen} x {each.layers} layers x {each.width:,} x {seen:,.10g} positions seen"
        rows.append(Row(each.name, how, round(each_seen * each.layers * each.width * seen)))
    return Sum(tuple(rows))


def training_flop(plan: Plan, tokens: float) -> float:
    """Operations of training on so many tokens."""
    return tokens / plan.sizes.sides * work(plan).total


def memory(plan: Plan) -> Sum:
    """Bytes that a plan needs, part by part."""
    check(plan)
    return _running(plan) if plan.running else _training(plan)


def _training(plan: Plan) -> Sum:
    """Weights, gradients, AdamW's two moments, activations, logits."""
    size, found, wide = plan.sizes, DTYPES[plan.dtype], plan.dtype == "fp32"
    n = size.parameters
    if plan.lora:
        a = size.adapters(plan.lora)
        rows = [
            Row("weights", f"{n:,} x {found} bytes, frozen", n * found)
            if plan.weights is None
            else Row("weights", f"{n:,} as stored, frozen", plan.weights),
            Row("adapters", f"{a:,} x (4 weight + 4 gradient + 8 moments) bytes", 16 * a),
        ]
        if plan.whole:
            how = f"{plan.whole:,} x (4 weight + 4 gradient + 8 moments) bytes"
            rows.append(Row("modules learned whole", how, 16 * plan.whole))
    else:
        trained = n if plan.trainable == 1 else round(n * plan.trainable)
        rows = [Row("weights", f"{n:,} x 4 bytes", 4 * n)]
        rows += [] if wide else [Row("bf16 copies", f"{n:,} x 2 bytes", 2 * n)]
        rows += [
            Row("gradients", f"{trained:,} x 4 bytes", 4 * trained),
            Row("moments", f"{trained:,} x 2 x 4 bytes", 8 * trained),
        ]
    places, written = plan.batch * plan.context, f"{plan.batch:,} x {plan.context:,}"
    each, what = size.inputs_and_outputs(), "inputs and outputs"
    if plan.checkpointing:
        layers = sum(group.runs * group.repeat for group in size.layers)
        how = f"{written} x {layers} layers x {size.width:,} x 4 bytes"
        rows.append(Row("layer inputs", how, 4 * places * layers * size.width))
        each, what = size.of_one_layer(), "inputs and outputs of one layer"
    rows.append(Row("activations", f"{written} x {each:,} {what} x {found} bytes", places * each * found))
    if size.vocabulary:
        words = size.vocabulary
        rows.append(Row("logits", f"{written} x {words:,} x 2, with gradients, x 4 bytes", 8 * places * words))
    return Sum(tuple(rows))


def _running(plan: Plan) -> Sum:
    """Weights, cache, and what is computed with."""
    stored = bytes_in(plan.sizes.counted, plan.dtype) if plan.weights is None else plan.weights
    how = f"{plan.sizes.parameters:,} as {'stored' if plan.weights is not None else plan.dtype}"
    rows = [Row("weights", how, stored)]
    cache = plan.sizes.counted.cache
    if cache is not None:
        how = (
            f"{plan.batch:,} x {plan.context:,} x 2 x {cache.layers} layers x {cache.heads * cache.size:,} "
            f"x {CACHES[plan.cache]:g} bytes"
        )
        rows.append(Row("cache", how, round(plan.batch * plan.context * cache.per_token * CACHES[plan.cache])))
        if plan.rows:  # layers share buffers, of which half are in use at a time
            width = plan.sizes.inputs_and_outputs() // cache.layers
            how = f"{PROCESS:,} + {plan.rows:,} rows x {width:,} inputs and outputs of a layer x 4 / 2 bytes"
            rows.append(Row("at work", how, PROCESS + 2 * plan.rows * width))
    return Sum(tuple(rows))


def machines(seconds: float, days: float = 30.0) -> int:
    """Machines that finish within `days` what one does in `seconds`, if nothing is lost by sharing."""
    return max(1, math.ceil(seconds / (86_400 * days)))
