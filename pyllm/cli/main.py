"""The `pyllm` command: finds the verb, reads its flags, turns every outcome into one line and an exit code.

Exit codes: 0 done, 1 failed or interrupted (one line on stderr), 2 wrong usage.
Nothing heavy is imported before a verb is known: `pyllm --help` must answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from pyllm import __version__
from pyllm.cli import options
from pyllm.errors import printable

# numpy's own threads would spin beside ours while a model loads, and no verb multiplies matrices with them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

VERBS = {
    "chat": "talk with a model; one question with -p",
    "generate": "continue a text",
    "next": "show the likeliest next words of a text",
    "fill": "show the likeliest words in a masked place of a text",
    "score": "say how likely a text is: perplexity, each token's log-probability",
    "embed": "turn texts into vectors, show how similar they are",
    "attention": "show where every head of a model looks, as a page",
    "pull": "fetch a model into the cache folder",
    "models": "list the model families and the files at hand",
    "info": "describe a model file: architecture, shapes, types, memory",
    "convert": "write a model as a GGUF file or a Hugging Face folder",
    "quantize": "rewrite a GGUF file in another storage type",
    "tokenizer": "train a tokenizer on text, show what one makes of a text",
    "data": "turn text into shards of tokens to train on, describe them",
    "params": "count weights and biases, written out",
    "pretrain": "train a new model to predict the next token",
    "finetune": "train a model on conversations",
    "translate": "say the target of a source with an encoder-decoder",
    "eval": "measure a model on shards: loss, perplexity, bits per byte",
    "plan": "say what training and running a model cost: operations, memory, time",
    "fit": "learn a table: a net that predicts one column of a CSV file",
    "predict": "predict that column of new rows",
    "compare": "let RNN, LSTM, GRU, attention and Transformer learn the same, as a page",
    "report": "show a training run as a page: curves, samples, parameters",
    "bench": "measure speed beside this machine's limits",
    "doctor": "describe this machine as pyllm sees it",
    "version": "print the version",
}


def usage() -> str:
    """The text of `pyllm --help`."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {text}" for name, text in VERBS.items()]
    return "\n".join(
        [
            "usage: pyllm VERB ...",
            "",
            "Run and train language models on CPUs.",
            "",
            *lines,
            "",
            "`pyllm VERB --help` explains a verb. Every long flag has a twin in the environment, the flag wins:",
            "--top-k is PYLLM_TOP_K. Without a flag: PYLLM_HOME, the cache folder; PYLLM_ISA, the instruction set;",
            "PYLLM_LOG=debug, tracebacks.",
        ]
    )


def unknown(verb: str) -> int:
    """One sentence about a verb that does not exist; returns 2."""
    import difflib

    near = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(VERBS)}"
    print(f"pyllm: unknown verb {printable(verb)!r}{hint}", file=sys.stderr)
    return 2


def dispatch(argv: list[str]) -> int:
    """Run one command line without the program's name; returns the exit code, lets errors through."""
    if not argv:
        print(usage(), file=sys.stderr)
        return 2
    verb = argv[0]
    if verb in ("-h", "--help", "help"):
        print(usage())
        return 0
    if verb in ("-V", "--version"):
        print(f"pyllm {__version__}")
        return 0
    if verb not in VERBS:
        return unknown(verb)
    module = importlib.import_module(f"pyllm.cli.{verb}")
    parser = argparse.ArgumentParser(prog=f"pyllm {verb}", description=module.__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    module.add_arguments(parser)
    options.environment(parser, os.environ)
    intermixed = getattr(module, "INTERMIXED", False)
    args = (parser.parse_intermixed_args if intermixed else parser.parse_args)(argv[1:])
    try:
        code: int = module.run(args)
    except options.UsageError as error:
        parser.error(str(error))
    return code


def failed(error: Exception) -> int:
    """Tell an error in one line on stderr (with the traceback if PYLLM_LOG=debug); returns 1."""
    if os.environ.get("PYLLM_LOG", "").lower() == "debug":
        import traceback

        traceback.print_exception(error)
    text = printable(" ".join(str(error).split()).removeprefix("pyllm: "), 8000) or type(error).__name__
    for line in getattr(error, "table", "").splitlines():  # of what does not fit
        print(printable(line, 8000), file=sys.stderr)
    expected = isinstance(error, (ValueError, OSError, ImportError, MemoryError))
    where = "" if expected else f"{type(error).__name__}: "
    print(f"pyllm: {where}{text}", file=sys.stderr)
    return 1


def quiet() -> None:
    """Give stdout somewhere to go after its reader has left, so that the exit flush says nothing."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())


def main(argv: list[str] | None = None) -> int:
    """Entry point of the command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        code = dispatch(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except KeyboardInterrupt:
        print("\npyllm: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:
        quiet()
        return 1
    except Exception as error:
        return failed(error)


if __name__ == "__main__":
    sys.exit(main())
