"""Taggers on the command line: what finetune, predict and eval do with them."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from pyllm.cli import options, output, running, training
from pyllm.cli.classify import texts_of
from pyllm.errors import printable

USUAL = {"lr": 1e-4, "batch": 16, "epochs": 4.0, "context": 128, "recipe": "plain"}  # of finetune --task tag


def finetune(args: argparse.Namespace, lora: Any = None) -> int:
    """Learn tags of words, score sentences held out; the same command goes on where it was interrupted."""
    from pyllm.auto import AutoTokenizer
    from pyllm.data.tagged import read_tagged
    from pyllm.evaluate.tagging import measure, told
    from pyllm.train import ProgressBar
    from pyllm.train.tagging import finetune_tags, write_facts

    sentences = read_tagged(args.data[0])
    arguments = training.arguments(args)
    learned = finetune_tags(
        args.model, sentences, arguments, args.context, args.recipe, args.valid_share, [ProgressBar()], lora
    )
    if not learned.result.complete:
        return training.tell(args, learned.result)
    tokenizer, held = AutoTokenizer.from_pretrained(args.out), learned.held_out
    scores = measure(learned.model, tokenizer, held) if held else {}
    write_facts(learned, arguments, training.command(), scores)
    result = learned.result
    facts = {"out": args.out, "scores": scores, "loss": result.loss, "valid_loss": result.valid_loss}
    lines = [f"evaluate  {told(scores) if scores else 'no sentence was held out'}", f"written   {printable(args.out)}"]
    return output.facts(args, facts, "\n".join(lines))


def opened(run: str, args: argparse.Namespace) -> tuple[Any, Any]:
    """The tagger and its tokenizer."""
    from pyllm.auto import AutoTokenizer
    from pyllm.auto.encoders import AutoModelForTokenClassification

    model = AutoModelForTokenClassification.from_pretrained(run, threads=args.threads)
    return model, AutoTokenizer.from_pretrained(run)


def predict(args: argparse.Namespace) -> int:
    """Print each word and its tag, an empty line between texts; words are what spaces part."""
    from pyllm.evaluate.tagging import tag
    from pyllm.formats.writing import Staging, check_target

    model, tokenizer = opened(args.run, args)
    words = [text.split() for text in texts_of(args)]
    found = tag(model, tokenizer, words)
    if args.json:
        rows = [{"words": row, "tags": tags} for row, tags in zip(words, found, strict=True)]
        print(json.dumps({"sentences": rows}, ensure_ascii=False))
        return 0
    columns = [zip(row, tags, strict=True) for row, tags in zip(words, found, strict=True)]
    parts = ["".join(f"{word}\t{each or ''}\n" for word, each in column) for column in columns]
    if args.output is None:
        running.write("\n".join(parts))
        return 0
    target = check_target(args.output, args.overwrite)
    with Staging(target) as staging, staging.create(os.path.basename(args.output)) as file:
        file.write("\n".join(parts).encode("utf-8", "surrogatepass"))
    output.note(f"{printable(args.output)}: {sum(map(len, words)):,} words")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Print the scores of tagged sentences."""
    from pyllm.data.tagged import read_tagged, tag_numbers
    from pyllm.evaluate.tagging import measure, told

    if len(args.data) > 1:
        raise options.UsageError(f"--data: {len(args.data)} places; a tagger is measured on one file")
    model, tokenizer = opened(args.model, args)
    sentences = read_tagged(args.data[0])[: args.samples]
    tag_numbers(sentences, [model.config.id2label[i] for i in range(model.config.num_labels)])
    found = measure(model, tokenizer, sentences)
    return output.facts(args, found, told(found))
