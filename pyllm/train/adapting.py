"""What all kinds of fine-tuning share where an adapter learns and the model stays as it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pyllm.data.labelled import beginning
from pyllm.data.lexicon import mask_of, surroundings
from pyllm.formats.memory import available
from pyllm.models.classifier import TextClassifier
from pyllm.models.counted import Group
from pyllm.models.encoder import Encoder
from pyllm.models.fitting import refuse_unless_fits
from pyllm.models.planning import Plan, Sizes, sizes
from pyllm.models.presets import from_config
from pyllm.nn import LoraConfig
from pyllm.tensor import Tensor
from pyllm.text.framing import framed
from pyllm.train.arguments import TrainingArguments


def refuse_adapted(name: str, model: Any) -> None:
    """Raise ValueError for a model that has come with an adapter: neither of them could be said to learn."""
    if model.adapters:
        raise ValueError(f"finetune: {name} is an adapter; merge it first: pyllm convert {name} -o FOLDER")


def adapt(model: Any, lora: LoraConfig, seed: int) -> dict[str, Any]:
    """Let an adapter learn; gives what must not change while a run goes on."""
    model.add_adapter(lora, seed=seed)
    config = asdict(model.adapters[model.active_adapter].config)
    return {"lora": config | {"target_modules": sorted(model.learned())}}


def refuse_unless_adapts(name: str, model: Any, a: TrainingArguments, length: int) -> None:
    """Raise DoesNotFitError where memory cannot hold a run of an adapter and of a head that scores no vocabulary."""
    attached = model.adapters[model.active_adapter]
    whole = sum(each.size for each in attached.whole.values())
    values = asdict(model.config) | {"model_type": type(model).__module__.rpartition(".")[2]}
    counted = sizes(from_config(values)).counted
    size = Sizes(counted._replace(groups=[*counted.groups, Group("output", ())]))  # not the table: nothing scores words
    plan = Plan(name, size, a.per_device_train_batch_size, length, "bf16" if a.bf16 else "fp32")
    plan = plan._replace(lora=attached.config.r, weights=stored_bytes(model), whole=whole)
    refuse_unless_fits(plan._replace(checkpointing=a.gradient_checkpointing), available())


def longest_of(texts: Sequence[Any], a: TrainingArguments) -> int:
    """Tokens of a text in a batch of the longest ones."""
    longest = sorted(map(len, texts))[-a.per_device_train_batch_size :]
    return -(-sum(longest) // len(longest))


def stored_bytes(model: Any) -> int:
    """What the model's numbers take as they are stored; of what learns in float32."""
    values = [parameter.value for parameter in model.own_parameters().values()]
    return sum(each.data.nbytes if isinstance(each, Tensor) else each.nbytes for each in values)


def save(model: Any, folder: str) -> None:
    """Write a run's folder: an adapter as PEFT does, else the model in float32."""
    model.save_pretrained(folder, **({} if getattr(model, "adapters", None) else {"dtype": "float32"}))


def save_tokenizer(model: Any, tokenizer: Any, folder: str) -> None:
    """Write the tokenizer of a model that has learned: of encoders, classifiers and sources of encoder-decoders with
    the tokens that stood around their texts."""
    if isinstance(model, Encoder):
        tokenizer = framed(tokenizer, *surroundings(tokenizer), mask_of(tokenizer))
    elif isinstance(model, TextClassifier) and not model.config.framed:
        tokenizer = framed(tokenizer, beginning(tokenizer), [])
    elif hasattr(model, "start_id"):
        tokenizer = framed(tokenizer, tokenizer.coder.before, tokenizer.ending, mask_of(tokenizer))
    tokenizer.save_pretrained(folder)
