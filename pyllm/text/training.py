"""Tokenizers trained on text: byte-level BPE, words, characters."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from pyllm import _core
from pyllm.errors import TokenizerError, printable
from pyllm.formats.text_files import PIECE, read_text, sizes
from pyllm.text.native import PLAIN, open_document
from pyllm.text.pre_tokenizers import byte_level, description_of
from pyllm.text.saving import bpe_model
from pyllm.text.tokenizer import Tokenizer

KINDS = ("bpe", "word", "char")
END = "<|endoftext|>"
UNKNOWN = "<unk>"
PADS = ("<pad>", "[PAD]")  # a special token of one of these names is for padding, else END is
CHAT = ("<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
MOST_WORDS = 2_000_000
LARGEST_VOCABULARY = 1 << 24
_AT_ONCE = 32  # merges between two reports

Report = Callable[[str, int, int], None]  # told "reading" or "merging", how much is done, of how much


class Summary(NamedTuple):
    """What a training met and made: words (occurrences, distinct), how many distinct words were dropped for want of
    room and how often those had been met, merges, tokens, and the distinct words or characters that got no token."""

    kind: str
    words: int
    distinct: int
    forgotten: int
    forgotten_words: int
    merges: int
    tokens: int
    left_out: int


class Trainer:
    """Counts the words of texts, then makes a tokenizer of them; see train() for the settings and the rules.

    add(piece) continues a text, end_text() ends it, finish() gives the tokenizer, `summary` then says what was met.
    """

    def __init__(
        self,
        kind: str = "bpe",
        *,
        vocab: int = 8192,
        min_frequency: int | None = None,
        pre_tokenizer: str = "gpt-2",
        special: Sequence[str] = (),
        end: str = END,
        chat: bool = False,
        most_words: int = MOST_WORDS,
    ) -> None:
        if kind not in KINDS:
            raise TokenizerError(f"train: kind is {printable(repr(kind))}; {', '.join(KINDS)}")
        self.kind = kind
        self.cut = {"bpe": pre_tokenizer, "word": "word", "char": "character"}[kind]
        self.pre_tokenizer, self.whole_words = _described(pre_tokenizer) if kind == "bpe" else ({}, False)
        self.least = _whole("min_frequency", (2 if kind == "bpe" else 1) if min_frequency is None else min_frequency, 0)
        self.end, self.chat = end, chat
        self.special = _specials([end, *(CHAT if chat else ()), *special], self.cut)
        if kind != "bpe" and UNKNOWN not in self.special:
            self.special.append(UNKNOWN)
        self.vocab = _whole("vocab", vocab, 1, LARGEST_VOCABULARY)
        first = 256 if kind == "bpe" else 1
        if self.vocab < first + len(self.special):
            what = "256 bytes" if kind == "bpe" else "one token of text"
            rule = f"at least {first + len(self.special)}: {what} and {len(self.special)} special tokens"
            raise TokenizerError(f"train: vocab is {self.vocab}; {rule}")
        self.counts = _core.WordCounts(self.cut, _whole("most_words", most_words, 1000))
        self.summary: Summary | None = None

    def add(self, piece: str | bytes) -> None:
        """More of the present text; malformed UTF-8 and lone surrogates are replaced, piece by piece."""
        if not isinstance(piece, str | bytes):
            raise TokenizerError(f"train: text is {type(piece).__name__}; str or bytes")
        data = piece if isinstance(piece, bytes) else piece.encode("utf-8", "surrogatepass")
        text = data.decode("utf-8", "replace")
        for start in range(0, len(text), PIECE):
            self.counts.add(text[start : start + PIECE].encode())

    def end_text(self) -> None:
        """The text is complete: the next piece begins another one."""
        self.counts.end_text()

    def finish(self, name: str = "trained", report: Report = lambda what, done, total: None) -> Tokenizer:
        """The tokenizer. Raises TokenizerError when there was no text."""
        self.end_text()
        if not len(self.counts):
            raise TokenizerError("train: no words; a text with at least one")
        if self.kind == "bpe":
            document, left_out = self._byte_pairs(report), 0
        else:
            document = self._plain()
            left_out = len(self.counts) + len(self.special) - len(document["model"]["vocab"])
        found = _tokenizer(document, self.end, self.kind != "bpe", CHAT_TEMPLATE if self.chat else None, name)
        counts = self.counts
        self.summary = Summary(
            *(self.kind, counts.total, len(counts), counts.forgotten, counts.forgotten_total),
            *(len(document["model"].get("merges", ())), found.vocab_size, left_out),
        )
        return found

    def _byte_pairs(self, report: Report) -> dict[str, Any]:
        """The description: bytes, then what merges give."""
        trainer = _core.PairTrainer(self.counts, self.special, self.vocab, self.least)
        first = len(trainer)
        report("merging", 0, self.vocab - first)
        while not trainer.merge(_AT_ONCE):
            report("merging", len(trainer) - first, self.vocab - first)
        tokens = [token.decode() for token in trainer.tokens()]
        merges = [[tokens[left], tokens[right]] for left, right in trainer.merges()]
        level = byte_level()
        model = bpe_model(tokens, merges, ignore_merges=self.whole_words)
        return self._document(self.pre_tokenizer, level, level, model)

    def _plain(self) -> dict[str, Any]:
        """The description: the most frequent words, most frequent first; characters sorted."""
        found = self.counts.common(self.least, self.vocab - len(self.special))
        tokens = [word.decode() for word, _ in found]
        if self.kind == "char":
            tokens.sort()
        pre, decoder = PLAIN[self.cut]
        vocabulary = {token: i for i, token in enumerate([*self.special, *tokens])}
        model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN}
        return self._document(pre, None, decoder, model)

    def _document(self, pre: Any, post: Any, decoder: Any, model: dict[str, Any]) -> dict[str, Any]:
        """The value of tokenizer.json."""
        added = [
            {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for i, token in enumerate(self.special)
        ]  # fmt: skip
        head = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None}
        return {**head, "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model}


def train(
    texts: str | bytes | Iterable[str | bytes], kind: str = "bpe", *, name: str = "trained", **settings: Any
) -> Tokenizer:
    """A tokenizer trained on texts held in memory or made one by one; save_pretrained writes it.

    kind: "bpe", byte-level byte-pair encoding; "word", words and punctuation, most frequent first, all else <unk>;
    "char", every distinct character in the order of code points, all else <unk>.
    vocab=8192: tokens at most, special ones included. min_frequency: of a pair, word or character; 2 for "bpe", else 1.
    pre_tokenizer="gpt-2": how "bpe" cuts words, by its name in GGUF. special=(): special tokens, with the ids after
    end="<|endoftext|>", which begins and ends texts and fills up batches; chat=True adds <|im_start|>, <|im_end|> and a
    template. "bpe" merges as PyPI's `tokenizers` does with the alphabet of all bytes, never into a special token.

    Memory: at most most_words=2,000,000 distinct words, of 32 bytes each on average, are counted, which takes about
    0.2 GB and merging another 0.6. When there are more, the half with the highest counts stays and the others are
    forgotten: met again, they count from 1. A word of more than 16,384 bytes counts as several.
    Raises TokenizerError for settings that do not go together and for texts without a word.
    """
    trainer = Trainer(kind, **settings)
    for text in [texts] if isinstance(texts, str | bytes) else texts:
        trainer.add(text)
        trainer.end_text()
    return trainer.finish(name)


def train_files(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    kind: str = "bpe",
    *,
    name: str = "trained",
    report: Report = lambda what, done, total: None,
    **settings: Any,
) -> Tokenizer:
    """train() on files of text, plain or packed as gzip or xz, read piece by piece; each is one text.

    Raises also ModelFileError for files that cannot be read.
    """
    trainer = Trainer(kind, **settings)
    feed_files(trainer, [paths] if isinstance(paths, str | os.PathLike) else paths, report)
    return trainer.finish(name, report)


def feed_files(trainer: Trainer, paths: Sequence[str | os.PathLike[str]], report: Report) -> None:
    """Have the trainer count the files' words. Raises ModelFileError."""
    total, done = sizes(paths), 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        report("reading", done, total)

    for path in paths:
        for piece in read_text(path, told):
            trainer.add(piece)
        trainer.end_text()


def _whole(name: str, value: Any, low: int, high: int = 2**62) -> int:
    """A whole number in low..high. Raises TokenizerError."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise TokenizerError(f"train: {name} is {printable(repr(value))}; a whole number from {low} to {high}")
    return value


def _described(pre_tokenizer: str) -> tuple[dict[str, Any], bool]:
    try:
        return description_of(pre_tokenizer)
    except TokenizerError as error:
        raise TokenizerError(f"train: pre_tokenizer: {str(error).removeprefix('tokenizer.ggml.pre: ')}") from None


def _specials(tokens: list[str], cut: str) -> list[str]:
    """The special tokens in order. Raises TokenizerError for those that text could be taken for."""
    for i, token in enumerate(tokens):
        found = f"train: special token {printable(repr(token))}"
        if not isinstance(token, str) or not token or "\0" in token or not token.isprintable():
            raise TokenizerError(f"{found}; a text of printable characters")
        if token in tokens[:i]:
            raise TokenizerError(f"{found} stands twice; each once")
        pieces = _core.WordCounts(cut, 1000)
        pieces.add(token.encode())
        pieces.end_text()
        if len(token) == 1 or (cut == "word" and pieces.total == 1):
            raise TokenizerError(f"{found} is a piece of ordinary text; a spelling of several, such as <|name|>")
    return tokens


def _tokenizer(document: dict[str, Any], end: str, plain: bool, template: str | None, name: str) -> Tokenizer:
    """The tokenizer of a description, and its files."""
    coder = open_document(document)
    if coder is None:
        raise TokenizerError("train: the description of the tokenizer is not one that pyllm reads")
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    pad = next((each for each in PADS if (i := coder.find(each)) is not None and coder.special(i)), end)
    config |= {"bos_token": end, "eos_token": end, "pad_token": pad}
    if plain:
        config["unk_token"] = UNKNOWN
    if template is not None:
        config["chat_template"] = template
    texts = {"tokenizer.json": document, "tokenizer_config.json": config}
    files = {key: (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode() for key, value in texts.items()}
    i, padding = coder.find(end), coder.find(pad)
    ends = {each for each in (i, coder.find(CHAT[1])) if each is not None}
    unknown = coder.find(UNKNOWN) if plain else None
    found = Tokenizer(coder, bos=i, eos=i, pad=padding, unk=unknown, end_ids=ends, chat_template=template, name=name)
    found.files = partial(dict, files)
    return found
