"""Next tokens: samplers, greedy and beam search, the scheduler of many sequences, streamers, chat."""

from .api import generate, stream
from .cache import PagedCache
from .chat import Chat
from .config import GenerationConfig
from .errors import CacheBudgetError, ContextError, GenerationError, LogitsError
from .output import GenerateOutput
from .sampler import Choice, Sampler
from .scheduler import Scheduler
from .sequence import Event, Sequence
from .streamers import TextIteratorStreamer, TextStreamer

__all__ = [
    "CacheBudgetError",
    "Chat",
    "Choice",
    "ContextError",
    "Event",
    "GenerateOutput",
    "GenerationConfig",
    "GenerationError",
    "LogitsError",
    "PagedCache",
    "Sampler",
    "Scheduler",
    "Sequence",
    "TextIteratorStreamer",
    "TextStreamer",
    "generate",
    "stream",
]
