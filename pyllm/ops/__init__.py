"""Operations: one function each, with its derivative: on numpy arrays, on tensors that learn, and on symbols while a
model's forward is being recorded."""

from pyllm.ops.activation import activate, gelu, relu, sigmoid, silu, softcap, swiglu, tanh
from pyllm.ops.adapted import Adapted
from pyllm.ops.additive import additive_attention
from pyllm.ops.arithmetic import (
    _operators,
    add,
    concatenate,
    divide,
    exp,
    index,
    log,
    mean,
    multiply,
    power,
    reshape,
    subtract,
    sum,
    transpose,
)
from pyllm.ops.attention import attention, rotary, rotary_table, row_attention, self_attention, step_attention
from pyllm.ops.attention_weights import attended, attention_weights, spread_bias
from pyllm.ops.dropout import dropout, mask, noise, noise_now, shared_dropout
from pyllm.ops.embedding import embedding
from pyllm.ops.linear import gated_linear, linear, linear_add, linears, logits, matmul, norm_linear
from pyllm.ops.loss import (
    binary_cross_entropy,
    cross_entropy,
    linear_cross_entropy,
    mse,
    smoothing,
    smoothing_now,
)
from pyllm.ops.norm import Norm, add_norm, layer_norm, log_softmax, normalise, rms_norm, softmax
from pyllm.ops.panels import forget_panels
from pyllm.ops.pool import last_rows, max_rows, mean_rows
from pyllm.ops.precision import autocast, halves, type_beside
from pyllm.ops.record import Recorder, Symbol
from pyllm.ops.recurrent import GATES, Steps, Weights, recurrent
from pyllm.ops.recurrent_steps import recurrent_steps
from pyllm.ops.sequences import documents, places_of, put_rows, starts_of, take_rows
from pyllm.ops.watch import Watch, unwatched

_operators()

__all__ = [
    "GATES",
    "Adapted",
    "Norm",
    "Recorder",
    "Steps",
    "Symbol",
    "Watch",
    "Weights",
    "activate",
    "add",
    "add_norm",
    "additive_attention",
    "attended",
    "attention",
    "attention_weights",
    "autocast",
    "binary_cross_entropy",
    "concatenate",
    "cross_entropy",
    "divide",
    "documents",
    "dropout",
    "embedding",
    "exp",
    "forget_panels",
    "gated_linear",
    "gelu",
    "halves",
    "index",
    "last_rows",
    "layer_norm",
    "linear",
    "linear_add",
    "linear_cross_entropy",
    "linears",
    "log",
    "log_softmax",
    "logits",
    "mask",
    "matmul",
    "max_rows",
    "mean",
    "mean_rows",
    "mse",
    "multiply",
    "noise",
    "noise_now",
    "norm_linear",
    "normalise",
    "places_of",
    "power",
    "put_rows",
    "recurrent",
    "recurrent_steps",
    "relu",
    "reshape",
    "rms_norm",
    "rotary",
    "rotary_table",
    "row_attention",
    "self_attention",
    "shared_dropout",
    "sigmoid",
    "silu",
    "smoothing",
    "smoothing_now",
    "softcap",
    "softmax",
    "spread_bias",
    "starts_of",
    "step_attention",
    "subtract",
    "sum",
    "swiglu",
    "take_rows",
    "tanh",
    "transpose",
    "type_beside",
    "unwatched",
]
