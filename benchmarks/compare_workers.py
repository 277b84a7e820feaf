"""One engine in a process of its own for compare.py: JSON lines in, JSON lines out, asleep in between.

compare_workers.py pyllm|llama.cpp|llama.cpp-flash MODEL.gguf --threads 2 --context 1024
Lines in: {"do": "prompt", "tokens": 512}, {"do": "decode", "fill": 1, "new": 128}, {"do": "greedy", "new": 32},
{"do": "facts"}. Answers: {"seconds": ...} or what was asked for. `--first TEXT` prints one token instead and leaves.
"""
import argparse
import json
import os
import sys
import time


def token_ids(count, vocabulary):
    """The same ids for every engine, spread over the vocabulary."""
    return [(i * 7919 + 13) % (vocabulary - 1000) + 500 if vocabulary > 2000 else i % vocabulary for i in range(count)]


class LlamaCpp:
    """llama.cpp through llama-cpp-python; flash attention on or off."""

    def __init__(self, path, threads, context, flash):
        import llama_cpp

        self.model = llama_cpp.Llama(
            path, n_ctx=context, n_threads=threads, n_threads_batch=threads, n_batch=512, n_ubatch=512,
            flash_attn=flash, verbose=False,
        )
        self.vocabulary = self.model.n_vocab()
        self.version = llama_cpp.__version__

    def reset(self):
        self.model.reset()
        self.model._ctx.kv_cache_clear()

    def feed(self, ids):
        self.model.eval(ids)

    def best(self):
        return int(self.model.sample(temp=0.0))

    def encode(self, text):
        return self.model.tokenize(text.encode(), add_bos=False)

    def decode(self, ids):
        return self.model.detokenize(ids).decode("utf-8", "replace")


class Pyllm:
    """pyllm's own model object."""

    def __init__(self, path, threads, context, precision="default"):
        import pyllm

        self.model = pyllm.AutoModelForCausalLM.from_pretrained(path, threads=threads, precision=precision)
        self.tokenizer = pyllm.AutoTokenizer.from_pretrained(path)
        self.vocabulary = self.model.config.vocab_size
        self.version = pyllm.__version__
        self.state = self.logits = None

    def reset(self):
        if self.state is not None:
            self.state.free()
        self.state = self.model.new_state()

    def feed(self, ids):
        self.logits = self.model.step([(self.state, ids)], logits="last")

    def best(self):
        return int(self.logits[-1].argmax())


def prompt(engine, tokens):
    """Seconds to read a prompt from an empty state."""
    ids = token_ids(tokens, engine.vocabulary)
    engine.reset()
    start = time.perf_counter()
    engine.feed(ids)
    return time.perf_counter() - start


def decode(engine, fill, new):
    """Seconds for `new` single-token steps after `fill` tokens."""
    ids = token_ids(max(fill, new), engine.vocabulary)
    engine.reset()
    engine.feed(ids[:fill])
    start = time.perf_counter()
    for token in ids[:new]:
        engine.feed([token])
    return time.perf_counter() - start


def greedy(engine, new):
    """The likeliest continuation of 64 fixed tokens."""
    engine.reset()
    engine.feed(token_ids(64, engine.vocabulary))
    out = []
    for _ in range(new):
        out.append(engine.best())
        engine.feed(out[-1:])
    return out


def peak_memory():
    """VmHWM of this process in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def answer(engine, request, loaded):
    """One request's answer."""
    if request["do"] == "prompt":
        return {"seconds": prompt(engine, request["tokens"])}
    if request["do"] == "decode":
        return {"seconds": decode(engine, request["fill"], request["new"])}
    if request["do"] == "greedy":
        return {"ids": greedy(engine, request["new"])}
    return {"version": engine.version, "load_seconds": loaded, "peak_bytes": peak_memory(), "python": sys.version}


def main():
    """Load, then serve until stdin closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=["pyllm", "llama.cpp", "llama.cpp-flash"])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--first", metavar="TEXT")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not reach the pipe
    start = time.perf_counter()
    if options.engine == "pyllm":
        engine = Pyllm(options.model, options.threads, options.context)
    else:
        engine = LlamaCpp(options.model, options.threads, options.context, options.engine.endswith("flash"))
    loaded = time.perf_counter() - start
    if options.first:
        engine.reset()
        engine.feed(engine.encode(options.first))
        print(engine.decode([engine.best()]), file=answers, flush=True)
        os._exit(0)  # leaving is not part of the measurement
    for line in sys.stdin:
        print(json.dumps(answer(engine, json.loads(line), loaded)), file=answers, flush=True)


if __name__ == "__main__":
    main()
