"""Parts of models: parameters and shapes, assembled by the families in pyllm.models."""

from pyllm.nn.adapter import Adapter, LoraConfig
from pyllm.nn.attention import SelfAttention
from pyllm.nn.block import Block, ParallelBlock, SandwichBlock
from pyllm.nn.embedding import Embedding
from pyllm.nn.feedforward import FeedForward, GatedFeedForward
from pyllm.nn.linear import Linear
from pyllm.nn.memory_attention import MemoryAttention
from pyllm.nn.module import Module, Parameter
from pyllm.nn.multihead import Grown, MultiHeadAttention, Other, Own, seen
from pyllm.nn.norm import LayerNorm, RMSNorm
from pyllm.nn.position import rotary_context, rotary_frequencies, sinusoids
from pyllm.nn.recurrent import (
    GRU,
    LSTM,
    RNN,
    GRUCell,
    LSTMCell,
    Recurrent,
    RNNCell,
    WeightDrop,
    end_to_end,
    in_steps,
)
from pyllm.nn.recurrent_variants import PeepholeLSTM, ResetFirstGRU
from pyllm.nn.state import State
from pyllm.nn.sublayers import (
    DecoderLayer,
    Dropout,
    EncoderLayer,
    Stack,
    decoder_layer,
    encoder_layer,
    post_norm,
    pre_norm,
)
from pyllm.nn.tracing import Trace, trace

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Adapter",
    "Block",
    "DecoderLayer",
    "Dropout",
    "Embedding",
    "EncoderLayer",
    "FeedForward",
    "GRUCell",
    "GatedFeedForward",
    "Grown",
    "LSTMCell",
    "LayerNorm",
    "Linear",
    "LoraConfig",
    "MemoryAttention",
    "Module",
    "MultiHeadAttention",
    "Other",
    "Own",
    "ParallelBlock",
    "Parameter",
    "PeepholeLSTM",
    "RMSNorm",
    "RNNCell",
    "Recurrent",
    "ResetFirstGRU",
    "SandwichBlock",
    "SelfAttention",
    "Stack",
    "State",
    "Trace",
    "WeightDrop",
    "decoder_layer",
    "encoder_layer",
    "end_to_end",
    "in_steps",
    "post_norm",
    "pre_norm",
    "rotary_context",
    "rotary_frequencies",
    "seen",
    "sinusoids",
    "trace",
]
