"""Training runs of a second: a tiny GPT-2, data of every kind, what a run ends with, ways to disturb it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import data_corpora
import numpy as np
import tiny_tokenizers

from pyllm.auto import AutoTokenizer, new_config, new_model
from pyllm.data import Batch, Conversations, Packed, Shards, prepare
from pyllm.train import Trainer, TrainingArguments

VOCABULARY, POSITIONS = 400, 24


class Random:
    """Samples of random tokens, each a function of its position, without any file."""

    def __init__(self, samples: int = 12, length: int = POSITIONS, vocabulary: int = VOCABULARY) -> None:
        self.samples, self.length, self.vocabulary = samples, length, vocabulary

    def __len__(self) -> int:
        return self.samples

    def batch(self, position: int, size: int) -> Batch:
        """Samples end to end."""
        rows = [np.random.default_rng(p % self.samples).integers(0, self.vocabulary, self.length + 1) for p in
                range(position, position + size)]  # fmt: skip
        ids, targets = (np.concatenate([row[part] for row in rows]).astype(np.int32) for part in
                        (slice(None, -1), slice(1, None)))  # fmt: skip
        return Batch(ids, targets, np.arange(0, (size + 1) * self.length, self.length, dtype=np.int32))


def model(seed: int = 0, **fields: Any) -> Any:
    """A new GPT-2 with 20,000 numbers."""
    usual = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": POSITIONS, "vocab_size": VOCABULARY}
    return new_model(new_config("gpt2", **(usual | fields)), seed)


def tokenizer(folder: Path) -> Path:
    """A folder with the tiny tokenizer."""
    folder.mkdir()
    tiny_tokenizers.write_json(folder, VOCABULARY)
    return folder


def shards(folder: Path, documents: int = 30, valid: float = 0.2) -> Path:
    """A folder of shards of small documents."""
    folder.mkdir()
    source = data_corpora.jsonl(folder / "in.jsonl", [{"text": data_corpora.document(i)} for i in range(documents)])
    prepare([source], tokenizer(folder / "tok"), folder / "shards", valid=valid)
    return folder / "shards"


def chats(records: int = 14) -> list[dict[str, Any]]:
    """Records to fine-tune on."""
    return [{"prompt": f"number {i}", "completion": data_corpora.document(i, 6)} for i in range(records)]


def data_of(kind: str, folder: Path) -> Any:
    """Data to learn from: "packed" or "conversations" with a real tokenizer, below `folder`, or "random"."""
    if kind == "packed":
        return Packed(Shards(shards(folder / "p")), POSITIONS)
    if kind == "conversations":
        return Conversations(chats(), AutoTokenizer.from_pretrained(tokenizer(folder / "t")), POSITIONS)
    return Random()


def trainer(folder: Path | str, data: Any, callbacks: Any = (), seed: int = 0, **arguments: Any) -> Trainer:
    """A new trainer on a new model; six steps of two samples, a checkpoint every second one, unless told otherwise."""
    facts, valid = (arguments.pop(name, None) for name in ("facts", "valid"))
    usual = {"per_device_train_batch_size": 2, "max_steps": 6, "save_steps": 2, "learning_rate": 1e-2}
    told = TrainingArguments(output_dir=str(folder), **(usual | arguments))
    return Trainer(model(seed), data, told, valid, callbacks, facts)


def end_of(folder: Path) -> dict[str, bytes]:
    """The newest checkpoint's files and the log."""
    last = max(Path(folder).glob("checkpoint-*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in [*last.iterdir(), Path(folder) / "log.jsonl"]}
