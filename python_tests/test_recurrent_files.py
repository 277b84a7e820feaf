"""Recurrent layers from ONNX and Keras: ONNX's own cases, and the cells that PyTorch lacks beside their formulas."""

import json
from pathlib import Path

import numpy as np
import pytest
import test_recurrent as kernels
import torch
from gradient_checks import learn
from kernel_checks import random, same_bits

from pyllm import nn, ops
from pyllm.formats.recurrent import from_keras, from_onnx
from pyllm.tensor import Tensor

ONNX = json.loads((Path(__file__).parent / "onnx_recurrent.json").read_text())
CASES = [name for name in ONNX if name != "source"]
VARIANTS = ("PeepholeLSTM", "ResetFirstGRU")


def of_node(case):
    """The layer of a case's node, with its weights."""
    given = {name: np.asarray(values, np.float32) for name, values in case["inputs"].items()}
    kind = case["op"]
    if "P" in given:
        kind = "PeepholeLSTM"
    if kind == "GRU" and not case["attributes"].get("linear_before_reset", 0):
        kind = "ResetFirstGRU"
    w, r, b = given["W"], given["R"], given.get("B")
    layer = getattr(nn, kind)(w.shape[2], r.shape[2], bias=b is not None, bidirectional=len(w) == 2,
                              batch_first=case["attributes"].get("layout", 0) == 1)  # fmt: skip
    return layer.load_state_dict(from_onnx(w, r, b, given.get("P"))), given


def test_all_twelve_cases_are_there():
    assert [sum(case["op"] == op for case in map(ONNX.get, CASES)) for op in ("LSTM", "GRU", "RNN")] == [4, 4, 4]


@pytest.mark.parametrize("name", CASES)
def test_onnx_cases(name):
    case = ONNX[name]
    layer, given = of_node(case)
    state = tuple(given[key] for key in ("initial_h", "initial_c") if key in given) or None
    lengths = given["sequence_lens"].astype(int) if "sequence_lens" in given else None
    y, last = layer.eval()(given["X"], state, lengths)
    y_h = last[0] if case["op"] == "LSTM" else last
    if case["attributes"].get("layout"):  # Y (batch, length, directions, units), Y_h (batch, directions, units)
        found = {"Y": y[:, :, None], "Y_h": y_h.transpose(1, 0, 2)}
    else:
        found = {"Y": y[:, None], "Y_h": y_h}
    for output, wanted in case["outputs"].items():
        assert found[output].shape == np.shape(wanted)
        np.testing.assert_allclose(found[output], wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ("RNN", "LSTM", "GRU"))
def test_onnx_gates_stand_where_pytorch_wants_them(kind):
    """A node written from PyTorch's module: both directions, with bias, the reset gate after the product."""
    theirs = getattr(torch.nn, kind)(3, 5, bidirectional=True)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    order = {"RNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}[kind]  # i, o, f, c and z, r, h

    def both(name):
        ends = (f"{name}_l0", f"{name}_l0_reverse")
        return np.stack([np.concatenate([np.split(state[end], len(order))[g] for g in order]) for end in ends])

    b = np.concatenate([both("bias_ih"), both("bias_hh")], 1)
    found = from_onnx(both("weight_ih"), both("weight_hh"), b)
    assert found.keys() == state.keys() and all(np.array_equal(found[name], state[name]) for name in state)


KERAS = {  # gates by Keras's order, from the rows of PyTorch's parameters
    "RNN": (0,),
    "LSTM": (0, 1, 2, 3),
    "GRU": (1, 0, 2),
}


@pytest.mark.parametrize("kind", KERAS)
@pytest.mark.parametrize("cudnn", (False, True))
def test_keras_weights(kind, cudnn):
    """Layers written in Keras's form from PyTorch's module; GRU's with reset_after, CuDNN's with transposed gates."""
    theirs = getattr(torch.nn, kind)(3, 5, 2)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}

    def gates(name):
        return [np.split(state[name], len(KERAS[kind]))[g] for g in KERAS[kind]]

    found = {}
    for layer in range(2):
        w, r = (np.hstack([g.reshape(g.shape[::-1]) if cudnn else g.T for g in gates(f"{name}_l{layer}")])
                for name in ("weight_ih", "weight_hh"))  # fmt: skip
        biases = [np.concatenate(gates(f"{name}_l{layer}")) for name in ("bias_ih", "bias_hh")]
        bias = np.concatenate(biases) if cudnn else np.stack(biases)
        if kind != "GRU" and not cudnn:  # one bias; PyTorch's second is 0
            state[f"bias_hh_l{layer}"][:] = 0
            bias = biases[0]
        found |= from_keras(w, r, bias, layer)
    assert list(found) == list(state) and all(np.array_equal(found[name], state[name]) for name in state)
    assert set(from_keras(w, r, reverse=True)) == {"weight_ih_l0_reverse", "weight_hh_l0_reverse"}
    getattr(nn, kind)(3, 5, 2).load_state_dict(found)


def formula(kind, x, h, c, w, r, b, bh, p):
    """One step of a variant as its papers write it, PyTorch's float64."""
    if kind == "PeepholeLSTM":
        i, f, g, o = (w @ x + b + r @ h + bh).chunk(4)
        pi, pf, po = p.chunk(3)
        after = torch.sigmoid(f + pf * c) * c + torch.sigmoid(i + pi * c) * torch.tanh(g)
        return torch.sigmoid(o + po * after) * torch.tanh(after), after
    (xr, xz, xn), (rr, rz, rn), (br, bz, bn) = (w @ x + b).chunk(3), r.chunk(3), bh.chunk(3)
    reset, update = torch.sigmoid(xr + rr @ h + br), torch.sigmoid(xz + rz @ h + bz)
    new = torch.tanh(xn + rn @ (reset * h) + bn)
    return (1 - update) * new + update * h, c


@pytest.mark.parametrize("kind", VARIANTS)
def test_variants_and_their_gradients_are_their_formulas(kind):
    layer = getattr(nn, kind)(3, 7, 2, bidirectional=True).initialise(1)
    lengths, batch, lstm = [4, 0, 6, 1], 4, kind == "PeepholeLSTM"
    x, states = random((6, batch, 3), 0), [random((4, batch, 7), 1 + i) for i in range(1 + lstm)]
    dy, *ds = random((6, batch, 14), 4), *(random((4, batch, 7), 5 + i) for i in range(1 + lstm))
    ours = learn(x, *states)
    y, last = layer(ours[0], tuple(ours[1:]) if lstm else ours[1], lengths)
    last = last if lstm else (last,)
    sum(((a * d).sum() for a, d in zip(last, ds, strict=True)), (y * dy).sum()).backward()

    exact = {name: torch.tensor(a.astype(np.float64), requires_grad=True) for name, a in layer.state_dict().items()}
    given, *first = (torch.tensor(a.astype(np.float64), requires_grad=True) for a in (x, *states))
    outputs, ends = torch.zeros(6, batch, 14, dtype=torch.float64), [s.clone() for s in first]
    for n, length in enumerate(lengths):
        rows, outs = [given[t, n] for t in range(length)], []
        for at in range(4):
            end = f"_l{at // 2}" + ("", "_reverse")[at % 2]
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ch")
            weights = [exact.get(name + end) for name in names]
            h, c, out = first[0][at, n], first[-1][at, n], {}
            for t in range(length)[:: -1 if at % 2 else 1]:
                h, c = formula(kind, rows[t], h, c, *weights)
                out[t] = h
            for each, state in zip(ends, (h, c), strict=False):
                each[at, n] = state
            outs.append(out)
            if at % 2:
                rows = [torch.cat((outs[-2][t], outs[-1][t])) for t in range(length)]
        for t in range(length):
            outputs[t, n] = rows[t]
    total = (outputs * torch.tensor(dy)).sum() + sum((a * torch.tensor(d)).sum() for a, d in zip(ends, ds, strict=True))
    total.backward()
    pairs = [(y.data, outputs), *((a.data, b) for a, b in zip(last, ends, strict=True))]
    pairs += [(a.grad, b.grad) for a, b in zip(ours, (given, *first), strict=True)]
    pairs += [(p.value.grad, exact[name].grad) for name, p in layer.learned().items()]
    for a, b in pairs:
        b = b.detach().numpy()
        assert a.shape == b.shape and np.linalg.norm(a - b) <= 1e-6 * max(np.linalg.norm(b), 1e-3)


@pytest.mark.parametrize("kind", VARIANTS)
def test_variants_give_a_sequence_the_same_bytes_in_any_company(kind):
    layer = getattr(nn, kind)(3, 33, 2).initialise(1).eval()
    x, lengths = random((9, 20, 3), 0), [*range(9), 9, *[5] * 10]
    y, _ = layer(x, lengths=lengths)
    for i in (0, 3, 9, 15):
        assert same_bits(y[: lengths[i], i], layer(x[: lengths[i], i])[0])


@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize("reverse", (False, True))
def test_the_definition_is_what_the_kernels_compute(cell, reverse):
    for lengths in ((5, 5), (4, 2, 1, 0), (0, 0)):
        arrays = kernels.inputs(cell, lengths, 17)
        *given, dout, dh, dc = arrays
        tensors = [Tensor(a.copy(), requires_grad=True) for a in given]
        x, w, r, b, bh, h0, c0 = tensors
        weights, c0 = ops.Weights(w, r, b, bh), c0 if cell == "lstm" else None
        rows, h, c = ops.recurrent_steps(cell, x, weights, ops.Steps(lengths), h0, c0, reverse)
        total = (rows * dout).sum() + (h * dh).sum()
        (total if c is None else total + (c * dc).sum()).backward()
        mine = [rows.data, h.data, None if c is None else c.data, *(t.grad for t in tensors)]
        kernels.near(mine, kernels.found(cell, lengths, reverse, arrays), 2e-6, f"{cell} {lengths}")


w, r = np.zeros((1, 12, 2)), np.zeros((1, 12, 3))
WRONG = {
    "onnx dimensions": (lambda: from_onnx(w[0], r), r"from_onnx: W \(12, 2\) and R \(1, 12, 3\), allowed are"),
    "onnx gates": (lambda: from_onnx(w, np.zeros((1, 12, 5))), "12 outputs for 5 units, allowed are 1, 3"),
    "onnx bias": (lambda: from_onnx(w, r, np.zeros((1, 12))), r"from_onnx: B \(1, 12\), allowed is \(1, 2, 12\)"),
    "onnx peepholes": (lambda: from_onnx(w, r, None, np.zeros(3)), r"from_onnx: P \(3,\), allowed is \(1, 3, 3\)"),
    "keras kernels": (lambda: from_keras(w[0], r[0]), r"from_keras: kernels \(12, 2\) and \(12, 3\), allowed are"),
    "keras gates": (lambda: from_keras(np.zeros((4, 6)), np.zeros((3, 6))), "6 outputs for 3 units, allowed are 1, 3"),
    "keras bias": (lambda: from_keras(w[0].T, r[0].T, np.zeros(5)), r"from_keras: bias \(5,\), allowed is \(1, 12\)"),
    "peepholes": (
        lambda: ops.recurrent_steps("gru", np.zeros((1, 2)), ops.Weights(np.zeros((9, 2)), np.zeros((9, 3))),
                                    ops.Steps([1]), peepholes=np.zeros(9)),
        r"gru: peepholes \(9,\), allowed are \(9,\) for lstm",
    ),
    "reset": (
        lambda: ops.recurrent_steps("tanh", np.zeros((1, 2)), ops.Weights(np.zeros((3, 2)), np.zeros((3, 3))),
                                    ops.Steps([1]), reset_first=True),
        "tanh: reset_first is allowed for gru",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused(what):
    with pytest.raises(ValueError, match=WRONG[what][1]):
        WRONG[what][0]()
