"""Continue a text: the prompt and then, word by word, what the model makes of it."""

from __future__ import annotations

import argparse
import json

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


def run(args: argparse.Namespace) -> int:
    """Load, continue, tell the times on stderr."""
    if args.prompt is None and args.file is None:
        raise options.UsageError("a prompt is needed: -p TEXT or -f FILE")
    prompt = running.given_text(args.prompt, args.file)
    clock = running.Clock()
    model, tokenizer = running.load(args.model, args)
    from pyllm.generate import stream

    clock.load()
    ids = tokenizer.encode(prompt)
    new = running.room(args, model, len(ids))
    if not args.json and not args.no_display_prompt:
        running.write(prompt)
    pieces, reason = [], None
    for event in stream(model, [ids], tokenizer=tokenizer, max_new_tokens=new, **running.sampling(args)):
        clock.tick()
        pieces.append(event.text)
        reason = event.finish_reason
        if not args.json:
            running.write(event.text)
    if args.json:
        data = {"prompt": prompt, "text": "".join(pieces), "finish_reason": reason, "prompt_tokens": len(ids)}
        print(json.dumps({**data, **clock.facts()}, ensure_ascii=False))
        return 0
    running.write("\n")
    clock.tell()
    return 0
