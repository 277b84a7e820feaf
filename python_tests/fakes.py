"""A model and a tokenizer small enough to predict by hand, for the tests of generation."""

from __future__ import annotations

import codecs
from types import SimpleNamespace

import numpy as np

from pyllm.errors import ContextError

MIX = 6364136223846793005
END, BEGIN = 0, 1


class FakePool:
    """Pages without an end. One holds the tokens of its whole prefix, as real keys and values depend on them all."""

    page_bytes, page_length, pages, free_pages = 1, 64, 10**6, 10**6


class FakeState:
    """The tokens fed so far."""

    pages = 0

    def __init__(self, model, tokens=()):
        self.model, self.tokens, self.freed = model, list(tokens), False
        model.alive += 1

    @property
    def length(self):
        return len(self.tokens)

    def truncate(self, length):
        assert 0 <= length <= len(self.tokens)
        del self.tokens[length:]

    def reserve(self, length):
        return not self.freed

    def page(self, at):
        end = (at + 1) * FakePool.page_length
        assert end <= len(self.tokens)
        return SimpleNamespace(tokens=self.tokens[:end], users=2)

    def place(self, at, page):
        assert len(page.tokens) == (at + 1) * FakePool.page_length
        assert page.tokens[: len(self.tokens)] == self.tokens[: len(page.tokens)]
        self.tokens[: len(page.tokens)] = page.tokens

    def fork(self):
        assert not self.freed
        return FakeState(self.model, self.tokens)

    def free(self):
        assert not self.freed
        self.freed = True
        self.model.alive -= 1


class FakeModel:
    """Logits that depend on every token so far, in order: rows of a table, picked by a hash of the tokens.

    alive: states not yet freed. fed: every (length before, tokens) of every step. script: ids that follow each other
    whatever was said, if given. fail: raised at the step with that number.
    """

    def __init__(self, vocab=50, context=64, script=None, fail=None, scale=2.0, seed=0):
        self.config = SimpleNamespace(vocab_size=vocab, eos_token_id=END)
        self.context_length = context
        self.table = (np.random.default_rng(seed).standard_normal((97, vocab)) * scale).astype(np.float32)
        self.alive, self.steps, self.fed = 0, 0, []
        self.script, self.fail = script, fail or {}
        self.answered = 0

    def new_pool(self, limit_bytes=0):
        return FakePool()

    def new_state(self, pool=None):
        return FakeState(self)

    def logits(self, tokens):
        """The row after these tokens."""
        mixed = 1469598103934665603
        for token in tokens:
            mixed = ((mixed ^ (token + 1)) * MIX) % 2**64
        return self.table[(mixed >> 20) % 97]

    def scripted(self):
        """The next row of a model that follows its script."""
        row = np.zeros(self.config.vocab_size, dtype=np.float32)
        row[self.script[self.answered % len(self.script)]] = 9
        self.answered += 1
        return row

    def step(self, pairs, logits="last"):
        self.steps += 1
        if self.steps in self.fail:
            raise self.fail[self.steps]
        if isinstance(logits, str):
            logits = [len(ids) if logits == "all" else 1 for _, ids in pairs]
        for state, ids in pairs:
            assert not state.freed and len(ids)
            assert all(0 <= token < self.config.vocab_size for token in ids)
            if state.length + len(ids) > self.context_length:
                raise ContextError(f"{state.length + len(ids)} > {self.context_length}")
        rows = []
        for (state, ids), wanted in zip(pairs, logits, strict=True):
            self.fed.append((state.length, list(ids)))
            for at, token in enumerate(ids):
                state.tokens.append(token)
                if at >= len(ids) - wanted:
                    rows.append(self.scripted() if self.script else self.logits(state.tokens))
        return np.array(rows).reshape(-1, self.config.vocab_size)

    def greedy(self, prompt, new):
        """What greedy decoding must give."""
        tokens = list(prompt)
        for _ in range(new):
            tokens.append(int(np.argmax(self.logits(tokens))))
            if tokens[-1] == END:
                break
        return tokens


class FakeStream:
    """Bytes to whole characters."""

    def __init__(self, tokenizer, skip):
        self.tokenizer, self.skip = tokenizer, skip
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def put(self, token):
        return self.decoder.decode(self.tokenizer.token_bytes(token, self.skip))

    def end(self):
        return self.decoder.decode(b"", True)


class FakeTokenizer:
    """One token per byte: ids 0 <end>, 1 <begin>, 2 <user>, 3 <assistant>, 4 <system>, 5 + byte."""

    SPECIAL = ("<end>", "<begin>", "<user>", "<assistant>", "<system>")
    vocab_size = 261
    bos_token_id, eos_token_id, pad_token_id = BEGIN, END, None
    end_ids = frozenset({END})

    def encode(self, text, add_special_tokens=True, allow_special=False):
        return [5 + byte for byte in text.encode()]

    def token_bytes(self, token, skip=False):
        if token < 5:
            return b"" if skip else self.SPECIAL[token].encode()
        return bytes([token - 5])

    def decode(self, ids, skip_special_tokens=False):
        return b"".join(self.token_bytes(i, skip_special_tokens) for i in ids).decode("utf-8", "replace")

    def stream(self, skip_special_tokens=False):
        return FakeStream(self, skip_special_tokens)

    def apply_chat_template(self, messages, tools=None, add_generation_prompt=False, tokenize=True, **_):
        ids = [BEGIN]
        for message in messages:
            role = {"user": 2, "assistant": 3, "system": 4}[message["role"]]
            ids += [role, *self.encode(message["content"]), END]
        return [*ids, 3] if add_generation_prompt else ids
