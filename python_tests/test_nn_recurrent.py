"""nn.RNN, LSTM, GRU and their cells beside PyTorch's of the same weights: outputs, states and all gradients."""

import itertools

import numpy as np
import pytest
import torch
from gradient_checks import learn, leaves
from kernel_checks import random, same_bits

from pyllm import nn, ops
from pyllm.autograd import no_grad

KINDS = ("RNN", "LSTM", "GRU")
STACKS = tuple(itertools.product((1, 3), (False, True)))  # layers, bidirectional
FAR = {"fp32": 1e-5, "bf16": 0.03}  # of the norm


def pair(kind, *sizes, seed=0, **options):
    """PyTorch's module in float64, and ours with its weights."""
    torch.manual_seed(seed)
    theirs = getattr(torch.nn, kind)(*sizes, **options)
    ours = getattr(nn, kind)(*sizes, **options).load_state_dict(theirs.state_dict())
    return theirs.double(), ours


def run_torch(module, x, state, lengths, cotangents, batch_first, length):
    """Outputs, states and gradients of PyTorch's, in its own precision."""
    dtype = next(module.parameters()).dtype
    x, *state = (leaf.detach().to(dtype).requires_grad_() for leaf in leaves(x, *state))
    given = x if lengths is None else _packed(x, lengths, batch_first)
    module.zero_grad()
    y, last = module(given, tuple(state) if len(state) == 2 else state[0])
    if lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first, total_length=length)
    results = [y, *(last if isinstance(last, tuple) else (last,))]
    sum((r * torch.tensor(d).to(dtype)).sum() for r, d in zip(results, cotangents, strict=True)).backward()
    gradients = [x.grad, *(s.grad for s in state), *(p.grad for p in module.parameters())]
    return [np.asarray(each.detach().numpy(), np.float64) for each in (*results, *gradients)]


def _packed(x, lengths, batch_first):
    return torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)


def run_ours(module, x, state, lengths, cotangents):
    """The same of ours."""
    x, *state = learn(x, *state)
    module.zero_grad()
    y, last = module(x, hx=tuple(state) if len(state) == 2 else state[0], lengths=lengths)
    results = [y, *(last if isinstance(last, tuple) else (last,))]
    total = 0
    for result, d in zip(results, cotangents, strict=True):
        total = (result * d).sum() + total
    total.backward()
    gradients = [x.grad, *(s.grad for s in state), *(p.value.grad for p in module.learned().values())]
    return [*(r.data for r in results), *gradients]


def off(actual, wanted):
    """Distance of each result in units of its norm."""
    assert [a.shape for a in actual] == [b.shape for b in wanted]
    return [float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-6)) for a, b in zip(actual, wanted, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("lengths", (None, [20, 3, 20, 1, 7]), ids=("equal", "lengths"))
@pytest.mark.parametrize("dtype", FAR)
def test_everything_is_as_near_to_float64_as_pytorchs(kind, layers, bidirectional, lengths, dtype):
    for hidden, batch_first in ((33, True), (64, False)):
        theirs, ours = pair(kind, 13, hidden, layers, batch_first=batch_first, bidirectional=bidirectional)
        many = layers * (1 + bidirectional)
        shape = (5, 20) if batch_first else (20, 5)
        x = random((*shape, 13), 1)
        state = [random((many, 5, hidden), 2 + i, 0.5) for i in range(2 if kind == "LSTM" else 1)]
        cotangents = [random((*shape, hidden * (1 + bidirectional)), 4)]
        cotangents += [random(s.shape, 5 + i) for i, s in enumerate(state)]
        exact = run_torch(theirs, x, state, lengths, cotangents, batch_first, 20)
        with ops.autocast(dtype):
            mine = off(run_ours(ours, x, state, lengths, cotangents), exact)
        assert max(mine) <= FAR[dtype], mine
        if dtype == "fp32":
            other = off(run_torch(theirs.float(), x, state, lengths, cotangents, batch_first, 20), exact)
            assert all(a <= max(1.5 * b, 5e-7) for a, b in zip(mine, other, strict=True)), (mine, other)


@pytest.mark.parametrize("nonlinearity", ("tanh", "relu"))
@pytest.mark.parametrize("bias", (True, False))
def test_plain_cells_take_their_function_and_their_bias(nonlinearity, bias):
    theirs, ours = pair("RNN", 3, 17, 2, nonlinearity, bias)
    x, state = random((6, 4, 3), 0), [random((2, 4, 17), 1)]
    cotangents = [random((6, 4, 17), 2), random((2, 4, 17), 3)]
    exact = run_torch(theirs, x, state, None, cotangents, False, 6)
    assert max(off(run_ours(ours, x, state, None, cotangents), exact)) <= 1e-6
    assert len(ours.learned()) == (8 if bias else 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("dtype", FAR)
def test_cells_are_as_near_to_float64_as_pytorchs(kind, bias, dtype):
    torch.manual_seed(1)
    theirs = getattr(torch.nn, f"{kind}Cell")(13, 33, bias)
    ours = getattr(nn, f"{kind}Cell")(13, 33, bias).load_state_dict(theirs.state_dict())
    x, *state = random((5, 13), 0), *(random((5, 33), 1 + i) for i in range(2 if kind == "LSTM" else 1))
    cotangents = [random((5, 33), 4 + i) for i in range(len(state))]

    def run(cell, x, state, take):
        results = cell(x, tuple(state) if len(state) == 2 else state[0])
        results = results if isinstance(results, tuple) else (results,)
        sum((r * take(d)).sum() for r, d in zip(results, cotangents, strict=True)).backward()
        return [*results, x.grad, *(each.grad for each in state)]

    def run_twin(dtype):
        cell, given = theirs.to(dtype), [torch.tensor(a, dtype=dtype, requires_grad=True) for a in (x, *state)]
        cell.zero_grad()
        results = run(cell, given[0], given[1:], lambda d: torch.tensor(d, dtype=dtype))
        return [a.detach().double().numpy() for a in (*results, *(p.grad for p in cell.parameters()))]

    given = learn(x, *state)
    with ops.autocast(dtype):
        mine = [np.asarray(a) for a in run(ours, given[0], given[1:], lambda d: d)]
        mine += [p.value.grad for p in ours.learned().values()]
    exact = run_twin(torch.float64)
    mine = off(mine, exact)
    assert max(mine) <= FAR[dtype], mine
    if dtype == "fp32":
        other = off(run_twin(torch.float32), exact)
        assert all(a <= max(1.5 * b, 5e-7) for a, b in zip(mine, other, strict=True)), (mine, other)
    one = ours.eval()(x[0], tuple(each[0] for each in state) if kind == "LSTM" else state[0][0])
    many = ours(x, tuple(state) if kind == "LSTM" else state[0])
    assert same_bits(one[0], many[0][0]) if kind == "LSTM" else same_bits(one, many[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", (True, False))
def test_one_sequence_needs_no_batch(kind, batch_first):
    theirs, ours = pair(kind, 3, 5, 2, batch_first=batch_first, bidirectional=True)
    x, h = random((7, 3), 0), random((4, 5), 1)
    state = (h, h) if kind == "LSTM" else h
    y, last = ours(x, state)
    other, ends = theirs(leaves(x)[0], tuple(leaves(h, h)) if kind == "LSTM" else leaves(h)[0])
    ends = ends if kind == "LSTM" else (ends,)
    for a, b in zip((y, *(last if kind == "LSTM" else (last,))), (other, *ends), strict=True):
        np.testing.assert_allclose(a.data, b.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_is_its_steps_and_its_parts(kind):
    ours = getattr(nn, kind)(3, 17, 2).initialise(1)
    x = random((6, 4, 3), 0)
    with no_grad():
        whole, end = ours(x)
        state, outputs = None, []
        for part in (x[:1], x[1:4], x[4:]):
            y, state = ours(part, state)
            outputs.append(np.asarray(y))
    assert same_bits(np.concatenate(outputs), whole.data)
    ends, states = (end, state) if kind == "LSTM" else ((end,), (state,))
    assert all(same_bits(a.data, b.data) for a, b in zip(ends, states, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_come_in_any_order_and_may_be_zero(kind):
    ours = getattr(nn, kind)(3, 17, 2, bidirectional=True).initialise(1)
    x, lengths = random((5, 4, 3), 0), [2, 0, 5, 1]
    with no_grad():
        y, last = ours(x, lengths=lengths)
        h = last[0] if kind == "LSTM" else last
        for i, n in enumerate(lengths):
            assert not y.data[n:, i].any() and bool(n) == bool(h.data[:, i].any())
            alone, end = ours(x[:n, i : i + 1])
            assert same_bits(y.data[:n, i], alone.data[:, 0])
            assert same_bits(h.data[:, i], (end[0] if kind == "LSTM" else end).data[:, 0])
        nothing, _ = ours(x, lengths=[0, 0, 0, 0])
        assert nothing.shape == (5, 4, 34) and not nothing.data.any()
        assert ours(np.zeros((5, 0, 3), np.float32))[0].shape == (5, 0, 34)
        alone, end = ours(np.zeros((0, 3), np.float32))
        assert alone.shape == (0, 34) and (end[0] if kind == "LSTM" else end).shape == (4, 17)


def test_dropout_lies_between_layers_and_is_drawn_again_on_the_way_back():
    ours = nn.GRU(3, 32, 2, dropout=0.5).initialise(1)
    x = random((4, 2, 3), 0)
    plain = ours(x)[0].data
    with ops.noise(7, 0):
        dropped, again = ours(x)[0].data, ours(x)[0].data
        ours.stream = 5
        other = ours(x)[0].data
    with ops.noise(7, 1):
        later = ours(x)[0].data
    assert same_bits(dropped, again) and same_bits(plain, ours(x)[0].data)
    assert not any(np.array_equal(dropped, each) for each in (plain, other, later))
    alone = nn.GRU(3, 32, 1, dropout=0.5).initialise(1)
    with ops.noise(7, 0):
        assert same_bits(alone(x)[0].data, alone(x)[0].data)
        value = learn(x)[0]
        direction = random(x.shape, 3)
        (ours(value)[0] * plain).sum().backward()
        moved = [(ours(x + s * direction * np.float32(1e-2))[0].data * plain).sum(dtype=float) for s in (1, -1)]
    assert (moved[0] - moved[1]) / 2e-2 == pytest.approx(float((value.grad * direction).sum()), rel=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_between_layers_is_exact_given_its_mask(kind):
    theirs, ours = pair(kind, 13, 33, 2, bidirectional=True, dropout=0.4)
    x, d = random((6, 5, 13), 0), random((6, 5, 66), 1)
    value = learn(x)[0]
    with ops.noise(3, 4):
        y, _ = ours(value)
        mask = ops.dropout(np.ones((30, 66), np.float32), *ops.mask(0.4, ours.stream).draw).reshape(6, 5, 66)
        (y * d).sum().backward()
    assert set(np.unique(mask)) == {0, np.float32(1 / 0.6)} and 0.3 < (mask == 0).mean() < 0.5
    layers = [getattr(torch.nn, kind)(width, 33, bidirectional=True).double() for width in (13, 66)]
    for i, layer in enumerate(layers):
        own = {name: tensor for name, tensor in theirs.state_dict().items() if f"_l{i}" in name}
        layer.load_state_dict({name.replace(f"_l{i}", "_l0"): tensor for name, tensor in own.items()})
    given = leaves(x)[0]
    z = layers[1](layers[0](given)[0] * torch.tensor(mask))[0]
    (z * torch.tensor(d)).sum().backward()
    exact = [z.detach().numpy(), given.grad.numpy(), *(p.grad.numpy() for layer in layers for p in layer.parameters())]
    assert max(off([y.data, value.grad, *(p.value.grad for p in ours.learned().values())], exact)) <= 1e-6


# --- bad input ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FAR)
@pytest.mark.parametrize("value", (np.nan, np.inf))
def test_what_is_not_finite_stays_in_its_sequence(kind, dtype, value):
    """In x or in a first state of one sequence: all rows, states and gradients of the others keep their bits."""
    ours = getattr(nn, kind)(3, 17, 2, bidirectional=True).initialise(1)
    lengths, bad = [4, 6, 0, 2, 6, 5], 1
    x, state = random((6, 6, 3), 0), [random((4, 6, 17), 1 + i) for i in range(2 if kind == "LSTM" else 1)]
    cotangents = [random((6, 6, 34), 4), *(random((4, 6, 17), 5 + i) for i in range(len(state)))]
    with ops.autocast(dtype), np.errstate(invalid="ignore"):
        clean = run_ours(ours, x, state, lengths, cotangents)
        for at in range(1 + len(state)):
            dirty = [a.copy() for a in (x, *state)]
            dirty[at][1, bad, 1] = value
            found = run_ours(ours, dirty[0], dirty[1:], lengths, cotangents)
            assert value == np.inf or np.isnan(found[0][:, bad]).any()
            for a, b in zip(clean[: 2 + 2 * len(state)], found, strict=False):
                assert same_bits(np.delete(a, bad, 1), np.delete(b, bad, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_beyond_the_lengths_is_not_read(kind):
    ours = getattr(nn, kind)(3, 17, 2, bidirectional=True).initialise(1)
    lengths, x, state = [4, 6, 0, 2], random((6, 4, 3), 0), [random((4, 4, 17), 1)] * (2 if kind == "LSTM" else 1)
    cotangents = [random((6, 4, 34), 4), *(random((4, 4, 17), 5 + i) for i in range(len(state)))]
    clean = run_ours(ours, x, state, lengths, cotangents)
    beyond = np.arange(6)[:, None] >= np.array(lengths)
    found = run_ours(ours, np.where(beyond[..., None], np.float32(np.nan), x), state, lengths, cotangents)
    assert all(same_bits(a, b) for a, b in zip(clean, found, strict=True)) and not found[1 + len(state)][beyond].any()


@pytest.mark.parametrize("kind", KINDS)
def test_batches_without_a_step_or_a_sequence_learn_nothing(kind):
    ours = getattr(nn, kind)(3, 17, 2, bidirectional=True).initialise(1)
    for shape, lengths in (((5, 4, 3), [0] * 4), ((0, 4, 3), None), ((0, 4, 3), [0] * 4), ((5, 0, 3), [])):
        state = [random((4, shape[1], 17), 1 + i) for i in range(2 if kind == "LSTM" else 1)]
        cotangents = [random((*shape[:2], 34), 4), *(random(s.shape, 5 + i) for i, s in enumerate(state))]
        y, *rest = run_ours(ours, random(shape, 0), state, lengths, cotangents)
        n = len(state)
        assert y.shape == (*shape[:2], 34) and not y.any() and not any(np.any(each) for each in rest[2 * n + 1 :])
        assert all(same_bits(a, b) for a, b in zip(rest, [*state, np.zeros(shape, np.float32)], strict=False))
        assert all(same_bits(a, b) for a, b in zip(rest[n + 1 :], cotangents[1:], strict=False))


def test_weights_go_there_and_back(tmp_path):
    from safetensors.numpy import load_file
    from safetensors.torch import save_file

    theirs = torch.nn.LSTM(3, 5, 2, bidirectional=True)
    save_file(theirs.state_dict(), tmp_path / "lstm.safetensors")
    ours = nn.LSTM(3, 5, 2, bidirectional=True)
    assert list(ours.learned()) == list(theirs.state_dict())
    ours.load_state_dict(load_file(tmp_path / "lstm.safetensors"))
    for name, array in ours.state_dict().items():
        assert np.array_equal(array, theirs.state_dict()[name].numpy())
    theirs.load_state_dict({name: torch.from_numpy(array * 2) for name, array in ours.state_dict().items()})
    with pytest.raises(ValueError, match=r"missing bias_ih_l0; unknown weight_hr_l0|unknown weight_hr_l0"):
        ours.load_state_dict(torch.nn.LSTM(3, 5, 2, bidirectional=True, proj_size=2).state_dict())
    with pytest.raises(ValueError, match=r"weight_ih_l0 has shape \(20, 4\), allowed is \(20, 3\)"):
        ours.load_state_dict(torch.nn.LSTM(4, 5, 2, bidirectional=True).state_dict())


def test_a_part_says_what_it_holds():
    assert repr(nn.GRUCell(3, 2, bias=False)) == "GRUCell(30 parameters: weight_ih (6, 3), weight_hh (6, 2))"
    assert repr(nn.LSTM(3, 5, 2)).endswith("bias_ih_l0 (20,), bias_hh_l0 (20,), ...)")


class Ours(nn.Module):
    """As one writes it by hand."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 5, batch_first=True, bidirectional=True)
        self.out = nn.Linear(10, 2, bias=True)

    def forward(self, x, lengths):
        return self.out(self.rnn(x, lengths=lengths)[0])


def test_a_module_of_ones_own_is_called_as_pytorchs():
    theirs = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 5, batch_first=True, bidirectional=True),
                                  "out": torch.nn.Linear(10, 2)})  # fmt: skip
    ours = Ours().load_state_dict(theirs.state_dict())
    x = random((2, 4, 3), 0)
    wanted = theirs["out"](theirs["rnn"](torch.tensor(x))[0])
    np.testing.assert_allclose(ours(x, lengths=[4, 4]).data, wanted.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_running_gives_what_learning_gave():
    ours = nn.LSTM(3, 17, 2).initialise(1)
    x = random((4, 2, 3), 0)
    learned = ours(x)[0].data
    run = ours.eval()(x)[0]
    assert isinstance(run, np.ndarray) and same_bits(learned, run)
    assert same_bits(learned, ours.train()(x)[0].data)


@pytest.mark.parametrize(("layers", "bidirectional"), STACKS)
@pytest.mark.parametrize("lengths", (None, [6, 2, 6, 1]), ids=("equal", "lengths"))
@pytest.mark.parametrize("batch_first", (True, False))
def test_a_projected_lstm_is_pytorchs(layers, bidirectional, lengths, batch_first):
    options = {"bias": layers == 3, "batch_first": batch_first, "bidirectional": bidirectional, "proj_size": 5}
    theirs, ours = pair("LSTM", 7, 17, layers, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    many, shape = layers * (1 + bidirectional), (4, 6) if batch_first else (6, 4)
    x, state = random((*shape, 7), 1), [random((many, 4, 5), 2, 0.5), random((many, 4, 17), 3, 0.5)]
    cotangents = [random((*shape, 5 * (1 + bidirectional)), 4), random((many, 4, 5), 5), random((many, 4, 17), 6)]
    exact = run_torch(theirs, x, state, lengths, cotangents, batch_first, 6)
    assert max(off(run_ours(ours, x, state, lengths, cotangents), exact)) <= 1e-5
    y, _ = ours.eval()(x, tuple(state), lengths)
    assert max(off([y], exact[:1])) <= 1e-5


def test_a_projected_lstm_needs_no_batch_and_no_step():
    ours = nn.LSTM(7, 17, 2, proj_size=5).initialise()
    x, h, c = random((6, 7), 1), random((2, 5), 2), random((2, 17), 3)
    y, last = ours(x, (h, c))
    batched, both = ours(x[:, None], (h[:, None], c[:, None]))
    assert same_bits(y.data, batched.data[:, 0]) and last[0].shape == (2, 5) and last[1].shape == (2, 17)
    assert all(same_bits(a.data, b.data[:, 0]) for a, b in zip(last, both, strict=True))
    for steps, lengths in ((0, None), (3, [0, 0])):
        y, last = ours(np.zeros((steps, 2, 7), np.float32), lengths=lengths)
        assert y.shape == (steps, 2, 5) and last[0].shape == (2, 2, 5) and last[1].shape == (2, 2, 17)


WRONG = {
    "width": (lambda m: m(np.zeros((4, 2, 5))), r"lstm: x \(4, 2, 5\), allowed is \(length, batch, 3\)"),
    "dimensions": (lambda m: m(np.zeros((1, 4, 2, 3))), r"lstm: x \(1, 4, 2, 3\)"),
    "no pair": (lambda m: m(np.zeros((4, 2, 3)), np.zeros((2, 2, 5))), r"not a pair, allowed is \(h, c\)"),
    "state": (
        lambda m: m(np.zeros((4, 2, 3)), (np.zeros((1, 2, 5)),) * 2),
        r"state \(1, 2, 5\), allowed is \(2, 2, 5\)",
    ),
    "lengths": (lambda m: m(np.zeros((4, 2, 3)), lengths=[1]), r"lengths \(1,\) of int64, allowed are \(2,\)"),
    "long": (lambda m: m(np.zeros((4, 2, 3)), lengths=[1, 5]), "lengths from 1 to 5, allowed are 0 to 4"),
    "real": (lambda m: m(np.zeros((4, 2, 3)), lengths=[1.5, 2.0]), "of float64, allowed are"),
    "negative": (lambda m: m(np.zeros((4, 2, 3)), lengths=[-1, 2]), "lengths from -1 to 2, allowed are 0 to 4"),
    "many": (lambda m: m(np.zeros((4, 2, 3)), lengths=[[1, 2]]), r"lengths \(1, 2\) of int64, allowed are \(2,\)"),
    "true": (lambda m: m(np.zeros((4, 2, 3)), lengths=[True, True]), "of bool, allowed are"),
    "one": (lambda m: m(np.zeros((4, 3)), lengths=[5]), "lengths from 5 to 5, allowed are 0 to 4"),
    "three": (lambda m: m(np.zeros((4, 2, 3)), (np.zeros((2, 2, 5)),) * 3), r"not a pair, allowed is \(h, c\)"),
    "batch": (
        lambda m: m(np.zeros((4, 2, 3)), (np.zeros((2, 2, 5)), np.zeros((2, 3, 5)))),
        r"state \(2, 3, 5\), allowed is \(2, 2, 5\)",
    ),
    "pair": (lambda m: nn.GRU(3, 5)(np.zeros((4, 2, 3)), (np.zeros((1, 2, 5)),) * 2), "gru: state is a pair"),
    "one state": (lambda m: m(np.zeros((4, 3)), (np.zeros((2, 7)),) * 2), r"state \(2, 7\), allowed is \(2, 5\)"),
    "turned state": (lambda m: m(np.zeros((4, 3)), (np.zeros((5, 2)),) * 2), r"state \(5, 2\), allowed is \(2, 5\)"),
    "text": (lambda m: m("x"), r"lstm: x \(\), allowed is"),
    "sizes": (lambda m: nn.LSTM(3, 0), "lstm: sizes 3, 0 in 1 layers, allowed are 1 or more"),
    "projection": (lambda m: nn.LSTM(3, 5, proj_size=5), "lstm: proj_size 5, allowed are 0, and of lstm"),
    "projected": (lambda m: nn.GRU(3, 5, proj_size=2), "gru: proj_size 2, allowed are 0, and of lstm"),
    "dropout": (lambda m: nn.GRU(3, 2, 1, dropout=1.0), "gru: dropout 1.0, allowed are 0 up to"),
    "function": (lambda m: nn.RNN(3, 2, 1, "sine"), "rnn: nonlinearity 'sine', allowed are 'tanh' and 'relu'"),
    "values": (lambda m: nn.GRU(3, 2)(np.zeros((1, 1, 3))), r"gru: it has no weights yet, call initialise\(\)"),
    "cell x": (lambda m: nn.GRUCell(3, 2).initialise()(np.zeros((1, 4))), r"gru: x \(1, 4\), allowed is \(batch, 3\)"),
    "cell state": (
        lambda m: nn.GRUCell(3, 2).initialise()(np.zeros((1, 3)), np.zeros((2, 2))),
        r"gru: state \(2, 2\), allowed is \(1, 2\)",
    ),
    "cell pair": (lambda m: nn.LSTMCell(3, 2).initialise()(np.zeros((1, 3)), np.zeros((1, 2))), "not a pair"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused(what):
    with pytest.raises(ValueError, match=WRONG[what][1]):
        WRONG[what][0](nn.LSTM(3, 5, 2).initialise())
