"""llama.cpp's side of quality.py, run by the Python that has llama-cpp-python; talks over stdin and stdout.

Lines in: `tokens FILE` (answer: ids as JSON) or a JSON list of ids (answer: float32 logits of every position, raw).
"""

import argparse
import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Serve requests until stdin closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flash", action="store_true")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the library prints must not reach the pipe
    import llama_cpp

    model = llama_cpp.Llama(
        options.model,
        n_ctx=options.window,
        n_batch=min(512, options.window),
        n_threads=options.threads,
        n_threads_batch=options.threads,
        logits_all=True,
        flash_attn=options.flash,
        verbose=False,
    )
    for line in sys.stdin:
        if line.startswith("tokens "):
            text = Path(line[7:].rstrip("\n")).read_bytes()
            answers.write(json.dumps(model.tokenize(text, add_bos=False, special=False)).encode() + b"\n")
        else:
            ids = json.loads(line)
            model.reset()
            model._ctx.kv_cache_clear()
            model.eval(ids)
            answers.write(model.scores[: len(ids)].tobytes())
        answers.flush()


if __name__ == "__main__":
    main()
