"""Talk with a model: a conversation on a terminal, one question with -p, or one question per line of a pipe."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from pyllm.cli import options, output, running
from pyllm.errors import ContextError, printable

HELP = "/clear forgets the conversation, /exit or Ctrl-D leaves, Ctrl-C stops an answer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm chat [MODEL] [-p TEXT] [-sys TEXT] [sampling]`."""
    options.add_run(parser)
    parser.add_argument("-p", "--prompt", metavar="TEXT", help="one question instead of a conversation")
    parser.add_argument("-sys", "--system-prompt", metavar="TEXT", help="instructions before the conversation")
    options.add_sampling(parser, new=512)


def questions(args: argparse.Namespace) -> Iterator[str]:
    """The user's turns: the one of -p, the lines of a pipe, or what is typed."""
    if args.prompt is not None:
        yield args.prompt
        return
    if sys.stdin is None:
        return
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives `input` editing and the arrow keys)
    output.note(HELP)
    while True:
        try:
            line = input(output.paint("> ", "1")).strip()
        except EOFError:
            running.write("\n")
            return
        if line == "/exit":
            return
        if line:
            yield line


def answer(chat: Any, question: str, clock: running.Clock, again: bool) -> None:
    """Stream one answer; where another question can follow, Ctrl-C or too long a message ends only the answer."""
    try:
        for piece in chat.stream(question):
            clock.tick()
            running.write(piece)
    except KeyboardInterrupt:
        if not again:
            raise
    except ContextError as error:
        if not again:
            raise
        output.note(f"pyllm: {printable(error)}")
    running.write("\n")


def run(args: argparse.Namespace) -> int:
    """Load, then answer until there are no more questions."""
    import pyllm

    clock = running.Clock("pieces")
    model, tokenizer = running.load(args.model, args)
    clock.load()
    new = args.n_predict if args.n_predict >= 0 else None
    chat = pyllm.Chat(
        model, tokenizer, args.system_prompt, overflow="drop", max_new_tokens=new, **running.sampling(args)
    )
    for question in questions(args):
        if question == "/clear":
            chat.reset()
            continue
        if args.prompt is not None and sys.stdout.isatty():
            output.note(output.paint("> " + printable(question), "1", sys.stderr))
        clock.ask()
        answer(chat, question, clock, again=args.prompt is None and sys.stdin.isatty())
        clock.tell()
    return 0
