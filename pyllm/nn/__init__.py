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
from pyllm.nn.state import State
from pyllm.nn.tracing import Trace, trace

__all__ = [
    "Adapter",
    "Block",
    "Embedding",
    "FeedForward",
    "GatedFeedForward",
    "LayerNorm",
    "Linear",
    "LoraConfig",
    "Module",
    "ParallelBlock",
    "Parameter",
    "RMSNorm",
    "SandwichBlock",
    "SelfAttention",
    "State",
    "Trace",
    "rotary_context",
    "rotary_frequencies",
    "trace",
]
