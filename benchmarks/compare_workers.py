"""One engine in a process of its own for compare.py: JSON lines in, JSON lines out, asleep in between.

compare_workers.py pyllm|llama.cpp MODEL.gguf --threads 2
Lines in: {"do": "prompt", "tokens": 512}, {"do": "decode", "fill": 1, "new": 128}, {"do": "together", "sequences": 16,
"fill": 128, "new": 64}, {"do": "engine", ...the same} (pyllm: through its scheduler), {"do": "greedy", "new": 32},
{"do": "facts"}; with "flash": true llama.cpp uses flash attention. Answers: {"seconds": ...} or what was asked for.
`--first TEXT` prints one token instead and leaves.
"""
import argparse
import json
import os
import sys
import time


def token_ids(count, vocabulary, start=0):
    """The same ids for every engine, spread over the vocabulary."""
    spread = range(start, start + count)
    return [(i * 7919 + 13) % (vocabulary - 1000) + 500 if vocabulary > 2000 else i % vocabulary for i in spread]


class LlamaCpp:
    """llama.cpp through the C functions that llama-cpp-python exposes: one model, a context per way of use."""

    def __init__(self, path, threads):
        import llama_cpp
        import numpy

        self.api, self.numpy, self.threads = llama_cpp.llama_cpp, numpy, threads
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        self.api.llama_log_set(self.quiet, None)
        self.api.llama_backend_init()
        self.model = self.api.llama_model_load_from_file(path.encode(), self.api.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {path}")
        self.vocab = self.api.llama_model_get_vocab(self.model)
        self.vocabulary = self.api.llama_vocab_n_tokens(self.vocab)
        self.version = llama_cpp.__version__ + "; " + self.api.llama_print_system_info().decode().strip()
        self.contexts, self.filled = {}, {}
        self.batch = self.api.llama_batch_init(2048, 0, 1)

    def limits(self):
        return {}

    def reset(self, positions, sequences=1, flash=False):
        """Empty sequences with room for `positions` each."""
        key = (positions, sequences, flash)
        if key not in self.contexts:
            p = self.api.llama_context_default_params()
            p.n_ctx, p.n_seq_max, p.kv_unified = sequences * (positions + 8), sequences, True
            p.n_batch = p.n_ubatch = 512
            p.n_threads = p.n_threads_batch = self.threads
            p.flash_attn_type = int(flash)
            self.contexts[key] = self.api.llama_init_from_model(self.model, p)
        self.context = self.contexts[key]
        self.filled.pop(key, None)
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        self.lengths = [0] * sequences

    def fill(self, prompts, room, flash=False):
        """Sequences of these ids with room for more: computed once, later cut back to them."""
        key = (len(prompts[0]) + room, len(prompts), flash)
        if self.filled.get(key) == prompts:
            self.context, self.lengths = self.contexts[key], [len(ids) for ids in prompts]
            for sequence, ids in enumerate(prompts):
                self.api.llama_memory_seq_rm(self.api.llama_get_memory(self.context), sequence, len(ids), -1)
            return
        self.reset(*key)
        for sequence, ids in enumerate(prompts):
            self.feed(ids, sequence)
        self.filled[key] = prompts

    def put(self, rows):
        """Decode (token, sequence, logits wanted) rows."""
        b = self.batch
        b.n_tokens = len(rows)
        for i, (token, sequence, wanted) in enumerate(rows):
            b.token[i], b.pos[i], b.n_seq_id[i] = token, self.lengths[sequence], 1
            b.seq_id[i][0], b.logits[i] = sequence, wanted
            self.lengths[sequence] += 1
        if self.api.llama_decode(self.context, b) != 0:
            raise RuntimeError("llama_decode failed")

    def feed(self, ids, sequence=0):
        for start in range(0, len(ids), 512):
            piece = ids[start : start + 512]
            self.put([(token, sequence, i == len(piece) - 1) for i, token in enumerate(piece)])

    def step(self, tokens):
        """One token for every sequence."""
        self.put([(token, sequence, True) for sequence, token in enumerate(tokens)])

    def best(self):
        """The likeliest token of the last rows, one per row with logits."""
        wanted = [i for i in range(self.batch.n_tokens) if self.batch.logits[i]]
        rows = (self.api.llama_get_logits_ith(self.context, i) for i in wanted)
        return [int(self.numpy.ctypeslib.as_array(row, (self.vocabulary,)).argmax()) for row in rows]

    def encode(self, text):
        ids = (self.api.llama_token * 64)()
        data = text.encode()
        return list(ids[: self.api.llama_tokenize(self.vocab, data, len(data), ids, 64, False, False)])

    def decode(self, token):
        import ctypes

        text = ctypes.create_string_buffer(64)
        length = self.api.llama_token_to_piece(self.vocab, token, text, 64, 0, False)
        return text.raw[:length].decode("utf-8", "replace")


class Pyllm:
    """pyllm's own model object."""

    def __init__(self, path, threads):
        import pyllm

        self.model = pyllm.AutoModelForCausalLM.from_pretrained(path, threads=threads)
        self.tokenizer = pyllm.AutoTokenizer.from_pretrained(path)
        self.vocabulary = self.model.config.vocab_size
        self.version = f"{pyllm.__version__}; {pyllm._core.isa()}"
        self.states, self.filled = [], None

    def limits(self):
        """What the machine gives in this minute: GB/s, GFLOP/s, GOP/s."""
        from pyllm import _core

        return {"limits": _core.measure_limits()}

    def reset(self, positions, sequences=1, flash=False):
        self.filled = None
        for state in self.states:
            state.free()
        self.states = [self.model.new_state() for _ in range(sequences)]

    def fill(self, prompts, room, flash=False):
        if self.filled != prompts:
            self.reset(len(prompts[0]) + room, len(prompts))
            for sequence, ids in enumerate(prompts):
                self.feed(ids, sequence)
            self.filled = prompts
        for state, ids in zip(self.states, prompts, strict=True):
            state.truncate(len(ids))

    def feed(self, ids, sequence=0):
        self.logits = self.model.step([(self.states[sequence], ids)], logits="last")

    def step(self, tokens):
        self.logits = self.model.step([(s, [t]) for s, t in zip(self.states, tokens, strict=True)], logits="last")

    def best(self):
        return [int(row.argmax()) for row in self.logits]

    def encode(self, text):
        return list(self.tokenizer.encode(text))

    def decode(self, token):
        return self.tokenizer.decode([token])

    def served(self, sequences, fill, new):
        """Seconds of requests in the public Engine, from the step after the last prompt on."""
        from pyllm.generate import Engine

        engine = Engine(self.model)
        for i in range(sequences):
            engine.submit(token_ids(fill, self.vocabulary, i), max_new_tokens=2 * new, do_sample=False, eos_token_id=[])
        waiting, seen, tokens = sequences, set(), 0
        while len(seen) < waiting:
            seen |= {event.sequence for event in engine.step()}
        start = time.perf_counter()
        while tokens < sequences * new:
            tokens += len(engine.step())
        seconds = time.perf_counter() - start
        engine.close()
        return seconds * sequences * new / tokens


def prompt(engine, tokens, flash=False):
    """Seconds to read a prompt from an empty state, to the likeliest next token."""
    ids = token_ids(tokens, engine.vocabulary)
    engine.reset(tokens, flash=flash)
    start = time.perf_counter()
    engine.feed(ids)
    engine.best()
    return time.perf_counter() - start


def decode(engine, fill, new, flash=False):
    """Seconds for `new` single-token steps after `fill` tokens, each to its likeliest token."""
    ids = token_ids(max(fill, new), engine.vocabulary)
    engine.fill([ids[:fill]], new, flash)
    start = time.perf_counter()
    for token in ids[:new]:
        engine.step([token])
        engine.best()
    return time.perf_counter() - start


def together(engine, sequences, fill, new, flash=False):
    """Seconds for `new` steps of many sequences after `fill` tokens each."""
    engine.fill([token_ids(fill, engine.vocabulary, sequence) for sequence in range(sequences)], new, flash)
    columns = [token_ids(sequences, engine.vocabulary, step) for step in range(new)]
    start = time.perf_counter()
    for tokens in columns:
        engine.step(tokens)
        engine.best()
    return time.perf_counter() - start


def greedy(engine, new, flash=False):
    """The likeliest continuation of 64 fixed tokens."""
    engine.reset(64 + new, flash=flash)
    engine.feed(token_ids(64, engine.vocabulary))
    out = []
    for _ in range(new):
        out += engine.best()
        engine.step(out[-1:])
    return out


def peak_memory():
    """VmHWM of this process in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


WORKS = {"prompt": prompt, "decode": decode, "together": together}


def answer(engine, request, loaded):
    """One request's answer."""
    what = request.pop("do")
    if what == "greedy":
        return {"ids": greedy(engine, **request)}
    if what == "engine":
        return {"seconds": engine.served(**request)}
    if what == "facts":
        facts = {"version": engine.version, "load_seconds": loaded, "peak_bytes": peak_memory(), "python": sys.version}
        return facts | engine.limits()
    return {"seconds": WORKS[what](engine, **request)}


def main():
    """Load, then serve until stdin closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=["pyllm", "llama.cpp"])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--first", metavar="TEXT")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not reach the pipe
    start = time.perf_counter()
    engine = (Pyllm if options.engine == "pyllm" else LlamaCpp)(options.model, options.threads)
    loaded = time.perf_counter() - start
    if options.first:
        ids = engine.encode(options.first)
        engine.reset(len(ids))
        engine.feed(ids)
        print(engine.decode(engine.best()[0]), file=answers, flush=True)
        os._exit(0)  # leaving is not part of the measurement
    for line in sys.stdin:
        print(json.dumps(answer(engine, json.loads(line), loaded)), file=answers, flush=True)
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
