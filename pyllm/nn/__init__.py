"""Parts of models: parameters and shapes, assembled by the families in pyllm.models."""

from pyllm.nn.adapter import Adapter, LoraConfig
from pyllm.nn.attention import SelfAttention
from pyllm.nn.block import Block, ParallelBlock, SandwichBlock
from pyllm.nn.embedding import Embedding
from pyllm.nn.feedforward import FeedForward, GatedFeedForward
from pyllm.nn.linear import Linear
from pyllm.nn.module import Module, Parameter
from pyllm.nn.norm import LayerNorm, RMSNorm
from pyllm.nn.position import rotary_context, rotary_frequencies
from pyllm.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, Recurrent, RNNCell, end_to_end
from pyllm.nn.recurrent_variants import PeepholeLSTM, ResetFirstGRU
from pyllm.nn.state import State
from pyllm.nn.tracing import Trace, trace

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Adapter",
    "Block",
    "Embedding",
    "FeedForward",
    "GRUCell",
    "GatedFeedForward",
    "LSTMCell",
    "LayerNorm",
    "Linear",
    "LoraConfig",
    "Module",
    "ParallelBlock",
    "Parameter",
    "PeepholeLSTM",
    "RMSNorm",
    "RNNCell",
    "Recurrent",
    "ResetFirstGRU",
    "SandwichBlock",
    "SelfAttention",
    "State",
    "Trace",
    "end_to_end",
    "rotary_context",
    "rotary_frequencies",
    "trace",
]
