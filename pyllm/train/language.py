"""Language models through the whole procedure: pretraining on shards, fine-tuning on conversations."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pyllm import _core
from pyllm.auto import AutoModelForCausalLM, AutoTokenizer
from pyllm.auto.new import config_for
from pyllm.data import Conversations, fingerprint, has_messages, manifest
from pyllm.data.tasks import NEXT
from pyllm.formats.memory import available
from pyllm.formats.writing import Staging, make_folder
from pyllm.models.fitting import refuse_unless_fits
from pyllm.models.planning import Plan, sizes
from pyllm.models.presets import from_config
from pyllm.nn import LoraConfig
from pyllm.text.template import PLAIN_CHAT
from pyllm.train.adapting import adapt, refuse_adapted, save, save_tokenizer, stored_bytes
from pyllm.train.answers import Prompt, answer, compared, prompts_of
from pyllm.train.arguments import TrainingArguments
from pyllm.train.callbacks import Callback, Samples
from pyllm.train.objectives import USUAL_LENGTH, Segmented, chosen, kind_of, new_for, samples_of
from pyllm.train.shown import shown
from pyllm.train.trainer import Result, Trainer

ANSWERS = 5  # held-out prompts that are answered before and after


def pretrain(
    family: str,
    fields: dict[str, Any],
    shards: str,
    arguments: TrainingArguments,
    context: int | None = None,
    tokenizer_path: str | None = None,
    callbacks: Sequence[Callback] = (),
    command: str = "",
    objective: str | None = None,
    rate: float | None = None,
) -> Result:
    """A new model of a family learns from shards; the run folder then loads like any model.

    fields: of the configuration, in Hugging Face's names; the vocabulary is the shards' tokenizer's. context: tokens of
    a sample, the model's whole context unless given, of encoders and encoder-decoders at most 512. objective: one of
    pyllm.data.tasks.NAMES that the family can learn; decoders predict the next token, encoders masked ones, and
    encoder-decoders cut spans unless told otherwise. rate: the share of tokens that is hidden. Raises DataError,
    DoesNotFitError, TrainingError, ValueError.
    """
    name, kind = chosen(family, objective), kind_of(family)
    manifest.read(shards)  # a folder that is none is refused as such, not for its tokenizer
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path or os.path.join(shards, manifest.TOKENIZER))
    config = config_for(family, tokenizer, fields)
    longest = getattr(config, "context_length", getattr(config, "max_position_embeddings", USUAL_LENGTH))
    length = context or (int(longest) if kind == "decoder" else min(int(longest), USUAL_LENGTH))
    refuse_unless_trains(family, config, arguments, length)
    model = new_for(family, name, config, arguments.seed)
    length = length if kind == "decoder" else min(length, model.context_length)
    data, valid = samples_of(family, name, model, tokenizer, shards, length, arguments.seed, rate)
    model.open_tokenizer = lambda: tokenizer
    facts = {"config": written(config), "data": data.shards.identity, "tokenizer": fingerprint(tokenizer)}
    facts |= {"context": length} | ({} if name == NEXT else {"objective": data.objective.facts})
    samples = None if kind == "decoder" else shown(kind, valid or data)
    learner = Segmented(model, int(data.objective.lexicon.after[0])) if name == "mlm+nsp" else model
    return carry_out(learner, tokenizer, data, valid, arguments, callbacks, facts, command, None, samples)


def finetune(
    name: str,
    records: str,
    arguments: TrainingArguments,
    context: int = 512,
    held_out: int = 64,
    callbacks: Sequence[Callback] = (),
    command: str = "",
    lora: LoraConfig | None = None,
) -> Result:
    """A pretrained model learns the answers of conversations, of which some are held out to be judged by.

    name: of a model, a file or folder. records: jsonl as pyllm.data.Conversations reads; a model without a chat
    template gets a plain one of words where they are messages. lora: the model stays as it is
    stored, an adapter learns, and the run folder holds it as PEFT does. The result has five held-out prompts with the
    answers before and after. Raises as pretrain does.
    """
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name)
    refuse_adapted(name, model)
    length = min(context, model.context_length)
    refuse_unless_trains(name, model.config, arguments, length, None if lora is None else (lora.r, stored_bytes(model)))
    if tokenizer.chat_template is None and has_messages(records):
        tokenizer.chat_template = PLAIN_CHAT  # which the run's folder keeps, for `pyllm chat`
    rows = Conversations(records, tokenizer, length, arguments.seed)
    data, valid = rows.held_out(min(held_out, max(1, len(rows) // 10)))
    about = data.report | {"sha256": data.identity}
    facts: dict[str, Any] = {"config": asdict(model.config), "data": about, "tokenizer": fingerprint(tokenizer)}
    facts |= {"from": name, "context": length}
    prompts = prompts_of(valid, min(ANSWERS, len(valid)))
    before = answer(model, prompts)
    if lora is not None:
        facts |= adapt(model, lora, arguments.seed)
    return carry_out(model, tokenizer, data, valid, arguments, callbacks, facts, command, (prompts, before))


def written(config: Any) -> dict[str, Any]:
    """A configuration as JSON has it: the keys of mappings are texts."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return found


def refuse_unless_trains(
    name: str, config: Any, a: TrainingArguments, length: int, frozen: tuple[int, int] | None = None
) -> None:
    """Raise DoesNotFitError for a run that memory cannot hold.

    frozen: (rank, bytes of the weights) where an adapter learns and not the model.
    """
    values = asdict(config) | {"model_type": type(config).__module__.rpartition(".")[2]}
    dtype = "bf16" if a.bf16 else "fp32"
    rank, weights = frozen or (0, None)
    plan = Plan(name, sizes(from_config(values)), a.per_device_train_batch_size, length, dtype, rank, weights=weights)
    refuse_unless_fits(plan._replace(checkpointing=a.gradient_checkpointing), available())


def carry_out(
    model: Any,
    tokenizer: Any,
    data: Any,
    valid: Any,
    arguments: TrainingArguments,
    callbacks: Sequence[Callback],
    facts: dict[str, Any],
    command: str,
    asked: tuple[list[Prompt], list[list[int]]] | None = None,
    samples: Samples | None = None,
) -> Result:
    """Train, then write the model, its tokenizer and run.json beside the checkpoints.

    asked: prompts, and what the model answered before.
    """
    out = make_folder(arguments.output_dir)
    samples = samples or Samples()
    samples.texts = _earlier(os.path.join(out, "run.json"))
    trainer = Trainer(model, data, arguments, valid, [*callbacks, samples], facts)
    result = trainer.train()
    model.eval()
    save(model, out)
    if asked is not None and result.complete:
        result = result._replace(answers=compared(tokenizer, *asked, answer(model, asked[0])))
    save_tokenizer(getattr(model, "wrapped", model), tokenizer, out)
    about = {
        "model": type(getattr(model, "wrapped", model)).__name__,
        "config": asdict(model.config),
        "parameters": model.num_parameters(),
        "trained": model.num_parameters(only_trainable=True),
        "arguments": asdict(arguments),
        **({"objective": facts["objective"] | {"context": facts["context"]}} if "objective" in facts else {}),
        "command": command,
        "machine": {"threads": _core.threads(), "isa": _core.isa()},
        "samples": samples.texts,
        "answers": list(result.answers),
    }
    with Staging(out, 1 << 20) as staging, staging.create("run.json") as file:
        file.write((json.dumps(about, indent=1, default=str) + "\n").encode())
    return result


def _earlier(path: str) -> list[dict[str, Any]]:
    """The samples that an earlier part of the run left; none where the file is not there or not understood."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)["samples"]
        return [text for text in found if isinstance(text["step"], int)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
