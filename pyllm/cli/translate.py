"""Say the target of a source with a run of `pyllm pretrain` on pairs: `translate RUN TEXT`, or a file line by line."""

from __future__ import annotations

import argparse
import json
from typing import Any

from pyllm.cli import options, output
from pyllm.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm translate RUN TEXT|--file F [--beam 4] [--n-best N] [--plot-attention out.png]`."""
    add = parser.add_argument
    add("model", metavar="RUN", help="folder of an encoder-decoder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("text", nargs="?", metavar="TEXT")
    what.add_argument("-f", "--file", metavar="FILE", help="a text on each line (-: standard input)")
    add("--beam", type=options.whole(1, 1024), default=4, metavar="N", help="beams (4; 1: the likeliest each time)")
    add("--n-best", type=options.whole(1, 1024), default=1, metavar="N", help="targets of each text (1)")
    add("--length-penalty", type=options.real(-1000.0, 1000.0), default=1.0, metavar="X",
        help="scores are divided by length to the power of X (1)")  # fmt: skip
    add("-n", "--n-predict", type=options.whole(1), metavar="N", help="tokens of a target (twice the source's and 10)")
    add("--task", metavar="NAME", help="one that config.json names: its prefix and settings (translation_en_to_de)")
    add("--source-language", metavar="CODE", help="of a model of many languages (mBART: en_XX)")
    add("--target-language", metavar="CODE", help="likewise (de_DE)")
    add("--plot-attention", metavar="FILE", help="draw where each target token looked (.png, .svg, .pdf)")
    options.add_threads(parser)
    options.add_overwrite(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line for each target."""
    from pyllm.auto import AutoTokenizer
    from pyllm.auto.pairs import AutoModelForSeq2SeqLM
    from pyllm.cli import running
    from pyllm.evaluate.translation import spoken, task_of, translate

    if args.n_best > args.beam:
        raise options.UsageError(f"--n-best {args.n_best}: at most --beam {args.beam}")
    if args.file is not None and args.plot_attention:
        raise options.UsageError("--plot-attention draws one TEXT")
    model = AutoModelForSeq2SeqLM.from_pretrained(args.model, threads=args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model, src_lang=args.source_language)
    given = running.given_text(args.text, args.file)
    texts = given.split("\n")[: -1 if given.endswith("\n") else None] if args.file is not None else [given]
    settings: dict[str, Any] = {"length_penalty": args.length_penalty}
    if args.n_predict is not None:
        settings["max_new_tokens"] = args.n_predict
    if args.task is not None:
        settings["task"] = args.task
    if args.target_language is not None:
        settings["tgt_lang"] = args.target_language
    best = None
    for text, found in zip(texts, translate(model, tokenizer, texts, args.beam, args.n_best, **settings), strict=True):
        best = best or found[0]
        tell(args, text, found)
    if args.plot_attention and best is not None:
        from pyllm.evaluate.alignment import draw

        start = spoken(model, tokenizer, args.target_language).get("decoder_start_token_id")
        asked = task_of(model, args.task)[0] + texts[0]
        draw(model, tokenizer, asked, best.ids, args.plot_attention, args.overwrite, start)
        output.note(f"written: {printable(args.plot_attention)}")
    return 0


def tell(args: argparse.Namespace, text: str, found: Any) -> None:
    """A source's targets: one object under --json; else a line each, with scores where there are several."""
    if args.json:
        targets = [{"text": each.text, "score": each.score} for each in found]
        print(json.dumps({"source": text, "targets": targets}, ensure_ascii=False), flush=True)
        return
    for each in found:
        line = " ".join(each.text.split())
        print(f"{each.score:9.4f}  {line}" if args.n_best > 1 else line, flush=True)
