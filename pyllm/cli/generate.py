"""Continue a text: the prompt and then, word by word, what the model makes of it."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from pyllm.cli import options, running


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm generate -m MODEL (-p TEXT | -f FILE) [sampling] [--json]`."""
    options.add_run(parser)
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help="what to continue")
    prompt.add_argument("-f", "--file", metavar="FILE", help="take the prompt from a file (-: standard input)")
    parser.add_argument("--no-display-prompt", action="store_true", help="print only what is new")
    options.add_sampling(parser, new=128)
    options.add_json(parser)


def prompt_text(args: argparse.Namespace) -> str:
    """The prompt from -p or -f; raises ValueError for bytes that are not UTF-8."""
    if args.file is None:
        if args.prompt is None:
            raise options.UsageError("a prompt is needed: -p TEXT or -f FILE")
        return str(args.prompt)
    try:
        if args.file == "-":
            return sys.stdin.buffer.read().decode("utf-8")
        with open(args.file, "rb") as file:
            return file.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{args.file}: byte {error.start:,} is not UTF-8 text") from None


class Printer:
    """A streamer in Hugging Face's manner: `put` the prompt first, then every new token, `end` at last."""

    def __init__(self, tokenizer: Any, clock: running.Clock, silent: bool) -> None:
        self.text = tokenizer.stream()
        self.clock = clock
        self.silent = silent
        self.prompt = True
        self.pieces: list[str] = []

    def put(self, value: Any) -> None:
        """Take token ids of any shape; print those that follow the prompt."""
        if self.prompt:
            self.prompt = False
            return
        for token in getattr(value, "reshape", lambda _: [value])(-1):
            self.clock.tick()
            self.say(self.text.put(int(token)))

    def say(self, piece: str) -> None:
        """Keep a piece, and print it unless silent."""
        self.pieces.append(piece)
        if piece and not self.silent:
            running.write(piece)

    def end(self) -> None:
        """Print what was held back."""
        self.say(self.text.end())


def run(args: argparse.Namespace) -> int:
    """Load, continue, tell the times on stderr."""
    prompt = prompt_text(args)
    clock = running.Clock()
    model, tokenizer = running.load(args.model, args)
    clock.load()
    ids = tokenizer(prompt, return_tensors="np")["input_ids"]
    new = running.room(args, model, ids.shape[1])
    if not args.json and not args.no_display_prompt:
        running.write(prompt)
    printer = Printer(tokenizer, clock, silent=args.json)
    model.generate(ids, max_new_tokens=new, streamer=printer, **running.sampling(args))
    if args.json:
        data = {"prompt": prompt, "text": "".join(printer.pieces), "prompt_tokens": ids.shape[1], **clock.facts()}
        print(json.dumps(data, ensure_ascii=False))
        return 0
    running.write("\n")
    clock.tell()
    return 0
