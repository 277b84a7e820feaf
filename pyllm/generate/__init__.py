"""Next tokens: samplers, greedy and beam search, the scheduler of many sequences, streamers, chat."""

from .api import generate, stream
from .async_engine import AsyncEngine
from .cache import PagedCache
from .chat import Chat
from .config import GenerationConfig
from .engine import Engine, EngineStats
from .errors import CacheBudgetError, ContextError, EngineClosedError, GenerationError, LogitsError
from .output import GenerateOutput
from .sampler import Choice, Sampler
from .scheduler import Scheduler
from .sequence import Event, Sequence
from .streamers import TextIteratorStreamer, TextStreamer

__all__ = [
    "AsyncEngine",
    "CacheBudgetError",
    "Chat",
    "Choice",
    "ContextError",
    "Engine",
    "EngineClosedError",
    "EngineStats",
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
