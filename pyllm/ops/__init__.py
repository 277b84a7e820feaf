"""Operations: one function each, on numpy arrays, or on symbols while a model's forward is being recorded."""

from pyllm.ops.activation import gelu, silu, softcap, swiglu
from pyllm.ops.attention import attention, rotary, rotary_table, self_attention
from pyllm.ops.embedding import embedding
from pyllm.ops.linear import gated_linear, linear, linear_add, logits, matmul, norm_linear
from pyllm.ops.norm import Norm, add_norm, layer_norm, normalise, rms_norm, softmax
from pyllm.ops.record import Recorder, Symbol

__all__ = [
    "Norm",
    "Recorder",
    "Symbol",
    "add_norm",
    "attention",
    "embedding",
    "gated_linear",
    "gelu",
    "layer_norm",
    "linear",
    "linear_add",
    "logits",
    "matmul",
    "norm_linear",
    "normalise",
    "rms_norm",
    "rotary",
    "rotary_table",
    "self_attention",
    "silu",
    "softcap",
    "softmax",
    "swiglu",
]
