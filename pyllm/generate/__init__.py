"""Next tokens: samplers, greedy and beam search, batches of sequences, streamers, chat."""

from .api import generate, stream
from .batch import Batch
from .chat import Chat
from .config import GenerationConfig
from .errors import ContextError, GenerationError, LogitsError
from .output import GenerateOutput
from .sampler import Choice, Sampler
from .sequence import Event, Sequence
from .streamers import TextIteratorStreamer, TextStreamer

__all__ = [
    "Batch",
    "Chat",
    "Choice",
    "ContextError",
    "Event",
    "GenerateOutput",
    "GenerationConfig",
    "GenerationError",
    "LogitsError",
    "Sampler",
    "Sequence",
    "TextIteratorStreamer",
    "TextStreamer",
    "generate",
    "stream",
]
