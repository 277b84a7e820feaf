"""Train a tokenizer on text (`train`), or show the tokens of a text (`show`)."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from typing import Any

from pyllm.cli import options, output
from pyllm.errors import ModelFileError, TokenizerError, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm tokenizer train TEXT... -o FOLDER`, `pyllm tokenizer show TOKENIZER TEXT`."""
    parts = parser.add_subparsers(dest="what", metavar="train|show", required=True)
    _add_train(parts.add_parser("train", help="train one on text files", allow_abbrev=False))
    show = parts.add_parser("show", help="print a text's tokens with their ids", allow_abbrev=False)
    show.add_argument("tokenizer", metavar="TOKENIZER", help="name, GGUF file or folder")
    show.add_argument("text", metavar="TEXT")
    show.add_argument("--allow-special", action="store_true", help="spellings of special tokens stand for them")
    options.add_json(show)
    for part in parts.choices.values():
        options.environment(part, os.environ)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a tokenizer on text files, each one text. `bpe`: byte-level BPE, every text comes back as it was. "
        "`word`: words and punctuation, the most frequent ones; all else is <unk>. `char`: each distinct character."
    )
    add = parser.add_argument
    add("text", metavar="TEXT", nargs="+", help="text file, plain, .gz or .xz")
    add("-o", "--output", required=True, metavar="FOLDER", help="folder to write")
    add("--kind", choices=("bpe", "word", "char"), default="bpe", help="bpe, word or char (bpe)")
    add("--vocab", type=options.whole(1, 1 << 24), default=8192, metavar="N", help="tokens at most (8192)")
    add("--min-frequency", type=options.whole(0), metavar="N",
        help="leave out pairs, words or characters that stand fewer times (bpe: 2, else 1)")  # fmt: skip
    add("--pre-tokenizer", default="gpt-2", metavar="NAME",
        help="how bpe cuts words: gpt-2, smollm, dbrx, llama-bpe, qwen2, gpt-4o, tekken (gpt-2)")  # fmt: skip
    special = "another special token (may be given again): <pad> is for padding, <mask> for what objectives hide"
    add("--special", action="append", metavar="TOKEN", help=special)
    add("--sentinels", type=options.whole(0, 1000), default=0, metavar="N",
        help="add <extra_id_0>, <extra_id_1>, ..., which --objective span puts for spans (0)")  # fmt: skip
    add("--end", default="<|endoftext|>", metavar="TOKEN", help="the token that ends a text (<|endoftext|>)")
    add("--chat", action="store_true", help="add <|im_start|>, <|im_end|> and a chat template (ChatML)")
    add("--max-words", type=options.whole(1000), default=2_000_000, metavar="N",
        help="distinct words held at once; beyond, the rarer half is forgotten (2000000)")  # fmt: skip
    options.add_overwrite(parser)
    options.add_json(parser)


class Stages:
    """A progress bar for each stage of a training; a context manager."""

    def __init__(self) -> None:
        self.stage = ""
        self._stack = contextlib.ExitStack()
        self._progress: Any = None

    def __enter__(self) -> Stages:
        return self

    def show(self, stage: str, done: int, total: int) -> None:
        """So much of a stage is done."""
        if total < 1:
            return
        if stage != self.stage:
            from pyllm.formats.progress import Progress

            self._stack.close()
            self.stage = stage
            name, done_verb, unit = ("text", "read", "bytes") if stage == "reading" else ("pairs", "merged", "merges")
            self._progress = self._stack.enter_context(Progress(name, total, (stage, done_verb), unit))
        self._progress.show(done)

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def run(args: argparse.Namespace) -> int:
    """Train or show."""
    return train(args) if args.what == "train" else show(args)


def train(args: argparse.Namespace) -> int:
    """Write the folder; says what was met and made."""
    from pyllm.text.training import Trainer, feed_files

    folder = args.output
    if not args.overwrite and os.path.isdir(folder) and os.listdir(folder):
        raise ModelFileError(folder, "", None, "exists already and is not empty", "another name, or --overwrite")
    start = time.monotonic()
    special = list(args.special) if isinstance(args.special, list) else [args.special] if args.special else []
    special += [f"<extra_id_{i}>" for i in range(args.sentinels)]
    settings = {"min_frequency": args.min_frequency, "pre_tokenizer": args.pre_tokenizer, "special": special}
    settings |= {"vocab": args.vocab, "end": args.end, "chat": args.chat, "most_words": args.max_words}
    try:
        trainer = Trainer(args.kind, **settings)
    except TokenizerError as error:
        raise options.UsageError(str(error).removeprefix("train: ")) from None
    with Stages() as stages:
        feed_files(trainer, args.text, stages.show)
        tokenizer = trainer.finish(os.path.basename(os.path.normpath(folder)), stages.show)
    tokenizer.save_pretrained(folder)
    assert trainer.summary is not None
    found = trainer.summary._asdict()
    data = {"folder": folder, **found, "seconds": round(time.monotonic() - start, 3)}
    return output.facts(args, data, "\n".join(told(args, data)))


def told(args: argparse.Namespace, data: dict[str, Any]) -> list[str]:
    """The facts as lines."""
    merges = f", {data['merges']:,} merges" if data["kind"] == "bpe" else ""
    what = "characters" if data["kind"] == "char" else "words"
    lines = [
        f"{printable(args.output)}: {data['tokens']:,} tokens{merges}",
        f"text: {data['words']:,} {what}, {data['distinct']:,} distinct",
    ]
    if data["kind"] == "bpe" and data["tokens"] < args.vocab:
        lines.append(f"fewer than the {args.vocab:,} asked for: no other pair stands often enough")
    if data["left_out"]:
        lines.append(f"left out: {data['left_out']:,} rarer {what}, which become <unk>")
    if data["forgotten"]:
        rule = f"more than --max-words {args.max_words:,} at once, or 32 bytes each of them"
        times = f"{data['forgotten_words']:,} times"
        lines.append(f"forgotten: {data['forgotten']:,} rarer {what}, met {times}; {rule}")
    return lines


def show(args: argparse.Namespace) -> int:
    """Print one row a token: id, bytes."""
    from pyllm.auto import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    ids = tokenizer.encode(args.text, allow_special=args.allow_special)
    tokens = [printable(tokenizer.token_bytes(i)) for i in ids]
    rows = [(f"{i:>{len(str(tokenizer.vocab_size))}}", f"'{token}'") for i, token in zip(ids, tokens, strict=True)]
    text = "\n".join([*([output.table(rows)] if rows else []), f"{len(ids)} tokens"])
    return output.facts(args, {"ids": ids, "tokens": tokens}, text)
