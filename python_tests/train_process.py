"""A real training run, small enough to be killed hundreds of times: train_process.py FOLDER [STEPS].

A GPT-2, AdamW, accumulated bf16 batches, evaluations, with another number of threads in every process. Ends with 0;
with 1 and one line on stderr when the disk refuses.
"""

import os
import sys

import numpy as np

from pyllm import _core
from pyllm.auto import new_config, new_model
from pyllm.data import Batch
from pyllm.train import CheckpointError, Trainer, TrainingArguments

LENGTH, VOCABULARY = 12, 61


class Numbers:
    """Ten samples that count up from anywhere."""

    def __len__(self):
        return 10

    def batch(self, position, size):
        """Samples end to end."""
        ids = (np.arange(LENGTH) + 7 * np.arange(position, position + size)[:, None] % 10).reshape(-1) % VOCABULARY
        starts = np.arange(0, (size + 1) * LENGTH, LENGTH)
        return Batch(ids.astype(np.int32), ((ids + 1) % VOCABULARY).astype(np.int32), starts.astype(np.int32))


def main(folder, steps="8"):
    """Train, or go on."""
    _core.set_threads(1 + os.getpid() % 3)
    config = new_config("gpt2", n_embd=16, n_layer=1, n_head=2, n_positions=LENGTH, vocab_size=VOCABULARY)
    told = TrainingArguments(folder, 2, gradient_accumulation_steps=2, max_steps=int(steps), warmup_steps=2, bf16=True,
                             save_steps=2, eval_steps=4)  # fmt: skip
    facts = {"config": {"n_embd": 16}, "data": {"samples": 10}}
    result = Trainer(new_model(config), Numbers(), told, Numbers(), facts=facts).train()
    return 0 if result.complete else 1


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except CheckpointError as error:
        print(f"train_process: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
