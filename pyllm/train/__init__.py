"""Training: what a run leaves on the disk, so that it can be killed at any time and go on to the same bits."""

from __future__ import annotations

from pyllm.errors import CheckpointError, LaterVersionError
from pyllm.train.checkpoint import Checkpoints, check_facts, read_checkpoint
from pyllm.train.log import LOG, TIMINGS, Log, read

__all__ = [
    "LOG",
    "TIMINGS",
    "CheckpointError",
    "Checkpoints",
    "LaterVersionError",
    "Log",
    "check_facts",
    "read",
    "read_checkpoint",
]
