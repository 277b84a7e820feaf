"""Weights of recurrent layers as ONNX and Keras store them, under PyTorch's names: what nn's load_state_dict takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = dict[str, NDArray[np.float32]]
# By their number: which of its gates stands where PyTorch has LSTM's i, f, g, o, GRU's r, z, n.
_ONNX = {1: (0,), 3: (1, 0, 2), 4: (0, 2, 3, 1)}  # of z, r, h and of i, o, f, c
_KERAS = {1: (0,), 3: (1, 0, 2), 4: (0, 1, 2, 3)}  # of z, r, h and of i, f, c, o


def from_onnx(w: Any, r: Any, b: Any = None, p: Any = None, layer: int = 0) -> Weights:
    """The tensors W, R, B and P of an ONNX LSTM, GRU or RNN node, whose first dimension is the direction.

    w (directions, gates * units, in), r (directions, gates * units, units), b (directions, 2 * gates * units), p
    (directions, 3 * units) for nn.PeepholeLSTM. nn.GRU computes linear_before_reset = 1, nn.ResetFirstGRU 0, which is
    ONNX's default. A node of direction "reverse" is one forward over the sequence turned round. Raises ValueError.
    """
    w, r = np.asarray(w, np.float32), np.asarray(r, np.float32)
    if w.ndim != 3 or r.ndim != 3 or len(w) != len(r) or len(w) not in (1, 2) or w.shape[1] != r.shape[1]:
        raise ValueError(f"from_onnx: W {w.shape} and R {r.shape}, allowed are (1 or 2, gates * units, in or units)")
    order, units = _order("from_onnx", _ONNX, w.shape[1], r.shape[2]), r.shape[2]
    gates = len(order) * units
    found: Weights = {}
    for i, end in enumerate((f"_l{layer}", f"_l{layer}_reverse")[: len(w)]):
        parts = {"weight_ih": w[i], "weight_hh": r[i]}
        if b is not None:
            parts |= zip(("bias_ih", "bias_hh"), _shaped("from_onnx: B", b, (len(w), 2, gates))[i], strict=True)
        found |= {name + end: _ordered(part, order) for name, part in parts.items()}
        if p is not None:
            of_gates = _shaped("from_onnx: P", p, (len(w), 3, units))[i]
            found["weight_ch" + end] = of_gates[[0, 2, 1]].reshape(-1)
    return found


def from_keras(kernel: Any, recurrent_kernel: Any, bias: Any = None, layer: int = 0, reverse: bool = False) -> Weights:
    """The weights of a Keras LSTM, GRU or SimpleRNN layer, and of CuDNNLSTM and CuDNNGRU, which bias tells apart.

    kernel (in, gates * units), recurrent_kernel (units, gates * units), bias (gates * units,), in two halves of
    (2 * gates * units,) CuDNN's, (2, gates * units) of GRU with reset_after=True; without that use nn.ResetFirstGRU.
    layer, reverse: of a stack and a Bidirectional, whose dicts are joined with |. Raises ValueError.
    """
    w, r = np.asarray(kernel, np.float32), np.asarray(recurrent_kernel, np.float32)
    if w.ndim != 2 or r.ndim != 2 or w.shape[1] != r.shape[1]:
        raise ValueError(f"from_keras: kernels {w.shape} and {r.shape}, allowed are (in or units, gates * units)")
    order, end = _order("from_keras", _KERAS, w.shape[1], len(r)), f"_l{layer}" + "_reverse" * reverse
    cudnn = bias is not None and np.shape(bias) == (2 * w.shape[1],)
    parts = {"weight_ih": _transposed(w, len(order), cudnn), "weight_hh": _transposed(r, len(order), cudnn)}
    if bias is not None:
        two = np.ndim(bias) == 2 or cudnn
        given = _shaped("from_keras: bias", bias, (1 + two, w.shape[1]))
        parts |= {"bias_ih": given[0], "bias_hh": given[1] if two else np.zeros_like(given[0])}
    return {name + end: _ordered(part, order) for name, part in parts.items()}


def _transposed(kernel: NDArray[np.float32], gates: int, cudnn: bool) -> NDArray[np.float32]:
    """(gates * units, in) of (in, gates * units); CuDNN's gates are transposed already, only called by that shape."""
    parts = np.split(kernel, gates, axis=1)
    return np.concatenate([np.ascontiguousarray(k).reshape(k.shape[::-1]) if cudnn else k.T for k in parts])


def _order(what: str, orders: dict[int, tuple[int, ...]], outputs: int, units: int) -> tuple[int, ...]:
    gates = outputs // max(units, 1)
    if gates not in orders or gates * units != outputs:
        raise ValueError(f"{what}: {outputs} outputs for {units} units, allowed are 1, 3 (GRU) or 4 (LSTM) for each")
    return orders[gates]


def _ordered(part: NDArray[np.float32], order: tuple[int, ...]) -> NDArray[np.float32]:
    return np.concatenate([np.split(part, len(order))[i] for i in order])


def _shaped(what: str, array: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    found = np.asarray(array, np.float32)
    if found.size != np.prod(shape):
        raise ValueError(f"{what} {found.shape}, allowed is {shape}")
    return found.reshape(shape)
