"""Recurrent layers that PyTorch lacks and files of ONNX and Keras have: computed step by step, without a kernel."""

from __future__ import annotations

from typing import Any

from pyllm import ops
from pyllm.nn.module import Parameter
from pyllm.nn.recurrent import Recurrent, parameters_of


class PeepholeLSTM(Recurrent):
    """LSTM whose gates see the memory: i and f have p c_(t-1) in their sums, o has p c_t. Gers et al. 2002, JMLR 3.

    Beside LSTM's parameters weight_ch_l0 (3 * hidden_size,) of i, f, o, and so for each layer and direction.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, *args: Any, **options: Any) -> None:
        super().__init__("lstm", input_size, hidden_size, num_layers, *args, **options)
        if self.proj_size:
            raise ValueError(f"peephole lstm: proj_size {self.proj_size}, allowed is 0")
        for layer in range(num_layers):
            for suffix in self.suffixes:
                setattr(self, f"weight_ch_l{layer}{suffix}", Parameter(3 * hidden_size))

    def direction(self, name: str, rows: Any, steps: ops.Steps, h: Any, c: Any, reverse: bool) -> tuple[Any, Any, Any]:
        """As LSTM's, with peepholes. Raises ValueError."""
        weights = parameters_of(self, name)
        peepholes = getattr(self, f"weight_ch{name}").value
        return ops.recurrent_steps("lstm", rows, weights, steps, h, c, reverse, peepholes)


class ResetFirstGRU(Recurrent):
    """GRU whose reset gate stands before the product: n = tanh(W x + b + R (r h) + b'). Cho et al. 2014, 1406.1078v3.

    ONNX's linear_before_reset = 0 and Keras's reset_after=False; parameters are GRU's.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, *args: Any, **options: Any) -> None:
        super().__init__("gru", input_size, hidden_size, num_layers, *args, **options)

    def direction(self, name: str, rows: Any, steps: ops.Steps, h: Any, c: Any, reverse: bool) -> tuple[Any, Any, Any]:
        """As GRU's, the reset before the product. Raises ValueError."""
        return ops.recurrent_steps("gru", rows, parameters_of(self, name), steps, h, c, reverse, reset_first=True)
