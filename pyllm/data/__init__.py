"""Text to tokens to samples: read, clean, split, shard; windows and conversations by position. Knows no model."""

from __future__ import annotations

from pyllm.data.conversations import Conversations, has_messages
from pyllm.data.fingerprint import fingerprint
from pyllm.data.labelled import Labelled, Pieces, read_texts
from pyllm.data.packed import IGNORED, Batch, Packed
from pyllm.data.pairs import Pair, Pairs, read_pairs
from pyllm.data.prepare import prepare
from pyllm.data.shards import Shards
from pyllm.data.tasks import Tasks

__all__ = [
    "IGNORED",
    "Batch",
    "Conversations",
    "Labelled",
    "Packed",
    "Pair",
    "Pairs",
    "Pieces",
    "Shards",
    "Tasks",
    "fingerprint",
    "has_messages",
    "prepare",
    "read_pairs",
    "read_texts",
]
