"""Training: the loop, and what it leaves on the disk: killed at any time, it goes on to the same bits."""

from __future__ import annotations

from pyllm.errors import CheckpointError, LaterVersionError, TrainingError
from pyllm.models.adapters import add_adapter
from pyllm.nn import LoraConfig
from pyllm.train.arguments import TrainingArguments
from pyllm.train.callbacks import Callback, ProgressBar
from pyllm.train.checkpoint import Checkpoints, check_facts, read_checkpoint
from pyllm.train.groups import layer_groups
from pyllm.train.learner import Learner, Recipe
from pyllm.train.log import LOG, TIMINGS, Log, read
from pyllm.train.trainer import Result, Trainer

__all__ = [
    "LOG",
    "TIMINGS",
    "Callback",
    "CheckpointError",
    "Checkpoints",
    "LaterVersionError",
    "Learner",
    "Log",
    "LoraConfig",
    "ProgressBar",
    "Recipe",
    "Result",
    "Trainer",
    "TrainingArguments",
    "TrainingError",
    "add_adapter",
    "check_facts",
    "layer_groups",
    "read",
    "read_checkpoint",
]
