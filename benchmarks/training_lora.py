"""LoRA steps of SmolLM2 135M: pyllm on its Q4_1 file, transformers + PEFT on a bf16 model, paired in one process.

training_lora.py [ROW ...] [--threads 2] [--pairs 9] [--out FILE.json]     (pip install peft)

A step is: loss on random tokens, gradients of the adapters of all matrices but embedding and head, their norm, AdamW.
PEFT's adapters are in bf16 as its model is, or as PEFT makes them, in fp32 under autocast: which is faster depends on
the processor. Its weights are random ones of the same sizes. Memory as training.py measures it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages for PyTorch, which pyllm takes by default

import numpy as np
import training

SIZES = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


class Row(NamedTuple):
    """One comparison; autocast: of the peer. What is asked of the ratio and of the share of the peer's memory."""

    what: str
    rank: int
    batch: int
    context: int
    autocast: bool
    asked: float = 2.0
    memory_asked: float = 0.5


ROWS = {
    "smollm2": Row("SmolLM2 135M, LoRA of rank 16, 4 x 256; PEFT in bf16", 16, 4, 256, False),
    "smollm2-autocast": Row("SmolLM2 135M, LoRA of rank 16, 4 x 256; PEFT in bf16, adapters fp32", 16, 4, 256, True),
}


def tokens(row: Row) -> np.ndarray:
    """Random ids and targets (2, batch, context)."""
    return np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, row.batch, row.context))


def pyllm_step(row: Row) -> Callable[[], float]:
    """A step of pyllm's on the file as it is; gives the loss."""
    from pyllm.auto import AutoModelForCausalLM
    from pyllm.cli.options import DEFAULT_MODEL
    from pyllm.formats.download import pull
    from pyllm.train import LoraConfig, add_adapter

    model = AutoModelForCausalLM.from_pretrained(pull(DEFAULT_MODEL))
    add_adapter(model, LoraConfig(r=row.rank, lora_alpha=row.rank))
    return training.stepping(model.train(), tokens(row), "bf16")


def torch_step(row: Row) -> Callable[[], float]:
    """The same of PEFT's, on transformers' LLaMA."""
    import peft
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.LlamaConfig(**SIZES, attn_implementation="sdpa", dtype=torch.bfloat16)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    lora = peft.LoraConfig(r=row.rank, lora_alpha=row.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, lora, autocast_adapter_dtype=row.autocast).train()
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    ids, targets = map(torch.from_numpy, tokens(row))

    def loss() -> Any:
        logits = model(input_ids=ids).logits
        return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))

    return training.torch_stepping(learned, loss, row.autocast)


STEPS = {"pyllm": pyllm_step, "torch": torch_step}

if __name__ == "__main__":
    sys.exit(training.main("training_lora", __doc__.splitlines()[0], ROWS, STEPS))
