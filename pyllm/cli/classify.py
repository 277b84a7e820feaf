"""Text classifiers on the command line: what finetune, predict and eval do with them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from pyllm.cli import options, output, training
from pyllm.errors import printable

USUAL = {"batch": 32, "epochs": 4.0, "context": 128}  # of finetune --task classify
RECIPE = "ulmfit"  # but for an adapter
_SHOWN = 70  # characters of a text


def add_finetune(parser: argparse.ArgumentParser) -> None:
    """What `finetune --task classify` asks for besides."""
    group = parser.add_argument_group("--task classify", "texts with labels: csv, tsv or jsonl")
    add = group.add_argument
    recipes = "layer after layer, or (ulmfit; of --task tag and --lora plain)"
    add("--recipe", choices=("ulmfit", "plain", "one_cycle"), help=recipes)
    add("--lm-epochs", type=options.real(0.0), metavar="X", help="of the texts' language before (1; with --lora 0)")
    add("--lm-lr", type=options.real(0.0), metavar="X", help="its highest learning rate (--lr)")
    add("--drop-mult", type=options.real(0.0), default=1.0, metavar="X", help="times an AWD-LSTM's dropouts (1)")
    add("--dropout", type=options.real(0.0, 0.99), default=0.1, metavar="X", help="of a language model's head (0.1)")
    add("--pooling", choices=("concat", "last", "max", "mean"), help="of a text (concat; decoders: last)")
    problems = "what labels are (single_label; where labels are lists multi_label, with fractions regression)"
    add("--problem", choices=("single_label", "multi_label", "regression"), help=problems)
    add("--valid-share", type=options.real(0.0, 0.99), default=0.1, metavar="X", help="share of texts held out (0.1)")
    add_columns(group)


def add_columns(parser: Any) -> None:
    """--text and --label."""
    parser.add_argument("--text", metavar="NAME", help="column or field of the text (text, sentence, review, ...)")
    parser.add_argument("--label", metavar="NAME", help="column or field of the label (label, class, target, ...)")


def finetune(args: argparse.Namespace, lora: Any = None) -> int:
    """Learn texts, score those held out beside the baseline; the same command goes on where it was interrupted."""
    from pyllm.data import read_texts
    from pyllm.evaluate.texts import compared
    from pyllm.train import ProgressBar
    from pyllm.train.texts import RATES, TextSettings, finetune_texts, is_recurrent, usual_epochs, write_facts

    if lora is not None and args.lm_epochs:
        raise options.UsageError("--lm-epochs changes the model, which --lora leaves as it is stored")
    rows = read_texts(args.data[0], args.text, args.label)
    recurrent = is_recurrent(args.model)
    args.lr = RATES[recurrent] if args.lr is None else args.lr
    settings = TextSettings(
        recipe=args.recipe or (RECIPE if lora is None else "plain"),
        lm_epochs=usual_epochs(args.model, lora) if args.lm_epochs is None else args.lm_epochs,
        lm_lr=args.lr if args.lm_lr is None else args.lm_lr,
        lm_context=args.context,
        drop_mult=args.drop_mult,
        dropout=args.dropout,
        valid=args.valid_share,
        problem=args.problem,
        pooling=args.pooling or ("concat" if recurrent else "last"),
    )
    told: dict[str, str] = {}

    def tell(stage: str, text: str) -> None:
        told[stage] = text
        if not args.json:
            print(f"{stage:<8}  {text}", flush=True)

    arguments = training.arguments(args)
    learned = finetune_texts(args.model, rows, arguments, settings, [ProgressBar()], tell, lora)
    if not learned.result.complete:
        return training.tell(args, learned.result)
    scores, lines = compared(learned, args.out)
    write_facts(learned, arguments, settings, training.command(), scores)
    tell("evaluate", "\n          ".join(lines))
    result = learned.result
    facts = {"out": args.out, "told": told, "scores": scores, "loss": result.loss, "valid_loss": result.valid_loss}
    return output.facts(args, facts, f"written   {printable(args.out)}")


def opened(run: str, args: argparse.Namespace) -> tuple[Any, Any]:
    """The classifier and its tokenizer."""
    from pyllm.auto import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(run, threads=args.threads)
    return model, AutoTokenizer.from_pretrained(run)


def texts_of(args: argparse.Namespace) -> list[str]:
    """The texts of `pyllm predict`: those of files that are there, else the words themselves. Raises DataError."""
    from pyllm.data import read_texts

    found = (read_texts(each, args.text).texts if os.path.exists(each) else [each] for each in args.data)
    return [text for texts in found for text in texts]


def predictions(found: Any, classes: Sequence[str], problem: str) -> list[Any]:
    """Of each text its likeliest class, a list of those above a half, or its number."""
    if problem == "regression":
        return [round(float(row[0]), 6) for row in found]
    if problem == "multi_label_classification":
        return [[name for name, p in zip(classes, row, strict=True) if p > 0.5] for row in found]
    return [classes[row.argmax()] for row in found]


def rows_of(found: Any, classes: Sequence[str], problem: str) -> list[tuple[Any, ...]]:
    """Rows (class, its probability); of several classes both joined by `;`, of regression (number,)."""
    said = predictions(found, classes, problem)
    if problem == "regression":
        return [(number,) for number in said]
    if problem == "multi_label_classification":
        chances = (";".join(f"{p:.6f}" for p in row if p > 0.5) for row in found)
        return [(";".join(names), each) for names, each in zip(said, chances, strict=True)]
    return [(name, round(float(row.max()), 6)) for name, row in zip(said, found, strict=True)]


def predict(args: argparse.Namespace) -> int:
    """Print or write the likeliest class of each text, and its probability; see `rows_of` for other labels."""
    from pyllm.cli.predict import written
    from pyllm.evaluate.texts import classes_of, probabilities, problem_of
    from pyllm.formats.writing import Staging, check_target

    model, tokenizer = opened(args.run, args)
    texts = texts_of(args)
    found = probabilities(model, tokenizer, texts)
    classes = classes_of(model)
    problem = problem_of(model)
    rows = rows_of(found, classes, problem)
    header = ("prediction", "probability")[: 1 if problem == "regression" else 2]
    if args.output is not None:
        target = check_target(args.output, args.overwrite)
        with Staging(target) as staging, staging.create(os.path.basename(args.output)) as file:
            file.write(written([header, *rows]).encode())
        facts = {"path": args.output, "texts": len(texts), "classes": list(classes)}
        return output.facts(args, facts, f"{printable(args.output)}: {len(texts):,} predictions")
    if args.json:
        facts = {"classes": list(classes), "predictions": predictions(found, classes, problem)}
        return output.facts(args, facts if problem == "regression" else facts | {"probabilities": found.tolist()}, "")
    if sys.stdout.isatty():
        pairs = zip(rows, texts, strict=True)
        shown = [(*(printable(str(each), 20) for each in row), printable(text, _SHOWN)) for row, text in pairs]
        print(output.table(shown))
    else:
        sys.stdout.write(written([header, *rows]))
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Print the scores of labelled texts, beside the baseline's."""
    from pyllm.data import read_texts
    from pyllm.data.labelled import known_rows
    from pyllm.evaluate.baseline import open_baseline
    from pyllm.evaluate.texts import classes_of, judge, targets_beside, told

    names = None if args.metric is None else tuple(each.strip() for each in args.metric.split(","))
    model, tokenizer = opened(args.model, args)
    if len(args.data) > 1:
        raise options.UsageError(f"--data: {len(args.data)} places; a text classifier is measured on one file")
    rows = read_texts(args.data[0], args.text, args.label)
    targets, unmet = targets_beside(model, rows.labels)
    known = known_rows(targets)[: args.samples]
    if not len(known):
        raise ValueError(f"{args.data[0]}: labels: none is there, allowed are {', '.join(classes_of(model))}")
    texts = [rows.texts[i] for i in known]
    found = judge(model, tokenizer, texts, targets[known], open_baseline(args.model), names, unmet)
    return output.facts(args, found, "\n".join(told(found)))
