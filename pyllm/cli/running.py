"""What the verbs that run a model share: loading a model, sampling arguments, printing a stream."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from pyllm.cli import output


def load(name: str, args: argparse.Namespace) -> tuple[Any, Any]:
    """The model and its tokenizer. Raises DoesNotFitError before it loads what memory cannot hold; typed errors of the
    loaders pass through.
    """
    import pyllm
    import pyllm._core  # before numpy: on a processor that is too old its sentence is the clearest
    from pyllm.auto.fits import refuse_unless_runs
    from pyllm.formats import download
    from pyllm.models.causal import CausalLM

    path = download.resolve(name)
    settings = {
        "context_length": getattr(args, "ctx_size", None),
        "precision": getattr(args, "precision", "default"),
        "cache_type": getattr(args, "cache_type", None),
    }
    rows = getattr(args, "batch_size", CausalLM.batch_rows)
    refuse_unless_runs(path, **settings, rows=rows)
    tokenizer = pyllm.AutoTokenizer.from_pretrained(path)
    model = pyllm.AutoModelForCausalLM.from_pretrained(path, threads=args.threads, **settings)
    model.batch_rows = rows
    return model, tokenizer


def given_text(text: str | None, file: str | None) -> str:
    """The text itself, else the contents of a file ("-": standard input); ValueError for bytes that are not UTF-8."""
    if file is None:
        return str(text)
    try:
        if file == "-":
            return sys.stdin.buffer.read().decode("utf-8")
        with open(file, "rb") as opened:
            return opened.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: byte {error.start:,} is not UTF-8 text") from None


def room(args: argparse.Namespace, model: Any, used: int) -> int:
    """New tokens that may follow `used` ones under -n and the model's context; raises ContextError for none."""
    from pyllm.errors import ContextError

    limit = model.context_length
    if used >= limit:
        raise ContextError(f"prompt: {used:,} tokens, the context holds {limit:,} and one must be left for an answer")
    return limit - used if args.n_predict < 0 else min(args.n_predict, limit - used)


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of options.add_sampling under the names `generate` knows."""
    kwargs: dict[str, Any] = {
        "do_sample": args.temp > 0,
        "repetition_penalty": args.repeat_penalty,
        "presence_penalty": args.presence_penalty,
        "frequency_penalty": args.frequency_penalty,
    }
    if args.temp > 0:
        kwargs.update(temperature=args.temp, top_k=args.top_k, top_p=args.top_p, min_p=args.min_p)
    if args.lookup:
        kwargs["prompt_lookup_num_tokens"] = args.lookup
    if args.seed >= 0:
        kwargs["seed"] = args.seed
    if args.stop:
        kwargs["stop_strings"] = list(args.stop)
    return kwargs


def safe(text: str) -> str:
    """`text` without the control characters that could drive a terminal; line ends and tabs stay."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))


def write(text: str) -> None:
    """Print a piece of an answer at once."""
    sys.stdout.write(safe(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


class Clock:
    """Times of an answer: loading, first token, tokens per second; told on stderr.

    unit: what is counted; a chat yields pieces of text, most of them one token.
    """

    def __init__(self, unit: str = "tokens") -> None:
        self.unit = unit
        self.start = time.perf_counter()
        self.loaded = self.asked = self.first = self.last = self.start
        self.tokens = 0

    def load(self) -> None:
        """The model is ready, and asked at once."""
        self.loaded = time.perf_counter()
        self.ask()

    def ask(self) -> None:
        """A question has come."""
        self.asked = self.first = self.last = time.perf_counter()
        self.tokens = 0

    def tick(self) -> None:
        """A token has come."""
        self.last = time.perf_counter()
        if not self.tokens:
            self.first = self.last
        self.tokens += 1

    def facts(self) -> dict[str, float]:
        """Seconds to load, from the question to the first token, tokens per second after it."""
        rate = (self.tokens - 1) / (self.last - self.first) if self.last > self.first else 0.0
        return {
            "load_s": round(self.loaded - self.start, 3),
            "first_token_s": round(self.first - self.asked, 3),
            "tokens": self.tokens,
            "tok_s": round(rate, 1),
        }

    def tell(self) -> None:
        """The facts as one line on stderr."""
        f = self.facts()
        text = f"{f['load_s']:.2f} s to load, {f['first_token_s']:.2f} s to the first of {f['tokens']} {self.unit}"
        if f["tok_s"]:
            text += f", then {f['tok_s']:.1f} {self.unit}/s"
        output.note(output.paint(text, "2", sys.stderr))
