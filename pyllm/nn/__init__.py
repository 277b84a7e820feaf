"""Parts of models: parameters and shapes, assembled by the families in pyllm.models."""

from pyllm.nn.adapter import Adapter, LoraConfig
from pyllm.nn.attention import SelfAttention
from pyllm.nn.block import Block, ParallelBlock, SandwichBlock
from pyllm.nn.dropout import Dropout, Dropouts, Rates, dropouts
from pyllm.nn.embedding import Embedding, Positions
from pyllm.nn.feedforward import FeedForward, GatedFeedForward
from pyllm.nn.linear import Linear
from pyllm.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss, NLLLoss
from pyllm.nn.masked_attention import MultiheadAttention
from pyllm.nn.memory_attention import MemoryAttention
from pyllm.nn.module import Buffer, Module, Parameter
from pyllm.nn.multihead import MultiHeadAttention, Other, Own, seen
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
from pyllm.nn.relative import RelativeBias
from pyllm.nn.simple import GELU, LogSoftmax, ModuleList, ReLU, Sequential, Sigmoid, SiLU, Softmax, Tanh
from pyllm.nn.slabs import Look, Slabs, Step
from pyllm.nn.state import State
from pyllm.nn.sublayers import (
    DecoderLayer,
    EncoderLayer,
    Order,
    Stack,
    decoder_layer,
    encoder_layer,
    post_norm,
    pre_norm,
)
from pyllm.nn.tracing import Trace, trace
from pyllm.nn.transformer import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)

__all__ = [
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "Adapter",
    "BCEWithLogitsLoss",
    "Block",
    "Buffer",
    "CrossEntropyLoss",
    "DecoderLayer",
    "Dropout",
    "Dropouts",
    "Embedding",
    "EncoderLayer",
    "FeedForward",
    "GRUCell",
    "GatedFeedForward",
    "LSTMCell",
    "LayerNorm",
    "Linear",
    "LogSoftmax",
    "Look",
    "LoraConfig",
    "MSELoss",
    "MemoryAttention",
    "Module",
    "ModuleList",
    "MultiHeadAttention",
    "MultiheadAttention",
    "NLLLoss",
    "Order",
    "Other",
    "Own",
    "ParallelBlock",
    "Parameter",
    "PeepholeLSTM",
    "Positions",
    "RMSNorm",
    "RNNCell",
    "Rates",
    "ReLU",
    "Recurrent",
    "RelativeBias",
    "ResetFirstGRU",
    "SandwichBlock",
    "SelfAttention",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Slabs",
    "Softmax",
    "Stack",
    "State",
    "Step",
    "Tanh",
    "Trace",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "WeightDrop",
    "decoder_layer",
    "dropouts",
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
