"""Tokenizers from GGUF metadata: which ids are special, what surrounds a text, which ids end an answer."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyllm import _core
from pyllm.errors import TokenizerError, printable
from pyllm.text import saving
from pyllm.text.tokenizer import Text, Tokenizer

if TYPE_CHECKING:
    from pyllm.formats import GGUF, StringArray

log = logging.getLogger("pyllm")

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
bytes_ = bytes  # the class NativeCoder has a method of that name

# Spellings that end an answer wherever a vocabulary has them; the list is llama.cpp's, as is the next one.
ENDINGS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
)
# Tokens for filling in the middle are control tokens; these kinds also end an answer.
FILL_IN = {
    "fim_pre": (
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<｜fim▁begin｜>",
        "<PRE>",
        "▁<PRE>",
        "<|code_prefix|>",
        "<|prefix|>",
    ),
    "fim_suf": (
        "<|fim_suffix|>",
        "<fim-suffix>",
        "<fim_suffix>",
        "<｜fim▁hole｜>",
        "<SUF>",
        "▁<SUF>",
        "<|code_suffix|>",
        "<|suffix|>",
    ),
    "fim_mid": (
        "<|fim_middle|>",
        "<fim-middle>",
        "<fim_middle>",
        "<｜fim▁end｜>",
        "<MID>",
        "▁<MID>",
        "<|code_middle|>",
        "<|middle|>",
    ),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
OLD_NAMES = {"fim_pre": "prefix", "fim_suf": "suffix", "fim_mid": "middle"}
ENDING_KINDS = ("fim_pad", "fim_rep", "fim_sep")
ALWAYS_SHOWN = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")
BEGIN_WITH_BOS = {
    "llama-bpe",
    "llama3",
    "llama-v3",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "jina-v5-nano",
    "tekken",
}


class NativeCoder:
    """The Coder over pyllm's own C++ tokenizers."""

    def __init__(self, vocabulary: Any, model: Any, before: list[int], after: list[int], lead: bytes) -> None:
        self.vocabulary = vocabulary
        self.model = model
        self.before = before
        self.after = after
        self.lead = lead
        self.vocab_size = len(vocabulary)

    def encode(self, text: Text, allow_special: bool, breaks: Sequence[int] = ()) -> list[int]:
        """Ids of the text, nothing added; no control token is found across one of the breaks (byte offsets)."""
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        ids: list[int] = self.model.encode(data, allow_special, breaks).tolist()
        return ids

    def encode_array(self, data: bytes_) -> np.ndarray:
        """Ids of UTF-8 text as an array of int32, no control tokens: for much text at a time."""
        ids: np.ndarray = self.model.encode(data, False)
        return ids

    def shield(self, text: str, mark: str) -> str:
        """The text with a mark inside every spelling of a control token, and of what could become one at its end."""
        data = text.encode("utf-8", "surrogatepass")
        found: list[int] = self.vocabulary.reserved_starts(data)
        if not found:
            return text
        first = [len(data[i : i + 4].decode("utf-8", "ignore")[:1].encode()) or 1 for i in found]
        places = [0, *(i + size for i, size in zip(found, first, strict=True)), len(data)]
        pieces = [data[i:j] for i, j in itertools.pairwise(places)]
        return mark.encode().join(pieces).decode("utf-8", "surrogatepass")

    def bytes(self, token_id: int) -> bytes:
        """What the token stands for."""
        found: bytes = self.model.bytes(token_id)
        return found

    def name(self, token_id: int) -> str:
        """The token as the vocabulary spells it."""
        spelling: bytes = self.vocabulary.text(token_id)
        return spelling.decode("utf-8", "replace")

    def find(self, name: str) -> int | None:
        """The id of a spelling."""
        found: int | None = self.vocabulary.find(name.encode("utf-8", "surrogatepass"))
        return found

    def special(self, token_id: int) -> bool:
        """Whether the token is a control token or the unknown one."""
        return self.vocabulary.kind(token_id) in (CONTROL, UNKNOWN)


class Metadata:
    """The `tokenizer.*` fields of a file; what is not of the expected type is refused by name."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields

    def strings(self, name: str) -> StringArray | None:
        """An array of strings or None."""
        found = self.fields.get(f"tokenizer.ggml.{name}")
        if found is not None and not hasattr(found, "starts"):
            raise TokenizerError(f"tokenizer.ggml.{name}: {type(found).__name__}; an array of strings")
        return found

    def numbers(self, name: str, kind: Any) -> np.ndarray | None:
        """An array of numbers as numpy's `kind` or None."""
        found = self.fields.get(f"tokenizer.ggml.{name}")
        if found is None:
            return None
        if not isinstance(found, np.ndarray) or found.ndim != 1 or found.dtype.kind not in "iuf":
            raise TokenizerError(f"tokenizer.ggml.{name}: {type(found).__name__}; an array of numbers")
        return found.astype(kind)

    def text(self, name: str) -> str | None:
        """A string or None; `name` is what follows `tokenizer.`."""
        found = self.fields.get(f"tokenizer.{name}")
        if found is not None and not isinstance(found, str):
            raise TokenizerError(f"tokenizer.{name}: {type(found).__name__}; a string")
        return found

    def flag(self, name: str, default: bool) -> bool:
        """A truth value, `default` where there is none."""
        found = self.fields.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(found, bool | np.bool_):
            raise TokenizerError(f"tokenizer.ggml.{name}: {printable(repr(found))}; true or false")
        return bool(found)

    def token(self, name: str, size: int, default: int | None = None) -> int | None:
        """A token id below `size`, `default` (where that is a token) when there is none."""
        found = self.fields.get(f"tokenizer.ggml.{name}")
        if found is None:
            return default if default is not None and default < size else None
        if isinstance(found, bool) or not isinstance(found, int | np.integer) or not 0 <= int(found) < size:
            raise TokenizerError(f"tokenizer.ggml.{name}: {printable(repr(found))}; a token id, 0 to {size - 1}")
        return int(found)


def load(gguf: GGUF) -> Tokenizer:
    """The tokenizer of an open file. Raises TokenizerError that begins with the file's name."""
    name = os.path.basename(os.fspath(gguf.path))
    try:
        return build(Metadata(gguf.metadata), name)
    except TokenizerError as error:
        raise TokenizerError(f"{printable(name)}: {error}") from None


def build(meta: Metadata, name: str) -> Tokenizer:
    """The tokenizer that the fields describe."""
    tokens = meta.strings("tokens")
    if tokens is None:
        raise TokenizerError("tokenizer.ggml.tokens: missing; the vocabulary")
    kinds = meta.numbers("token_type", np.int32)
    vocabulary = _core.Vocabulary(tokens.data, tokens.starts, tokens.lengths, kinds)
    model = meta.text("ggml.model")
    size = len(vocabulary)
    if model == "llama":
        special = {
            "bos": meta.token("bos_token_id", size, 1),
            "eos": meta.token("eos_token_id", size, 2),
            "unk": meta.token("unknown_token_id", size, 0),
        }
    elif model == "gpt2":
        special = {
            "bos": meta.token("bos_token_id", size, 11),
            "eos": meta.token("eos_token_id", size, 11),
            "unk": meta.token("unknown_token_id", size),
        }
    else:
        raise TokenizerError(f"tokenizer.ggml.model: {printable(repr(model))}; 'gpt2' or 'llama'")
    special["pad"] = meta.token("padding_token_id", size)
    end_ids = mark_special(vocabulary, meta, special["eos"])
    coder = native_coder(vocabulary, meta, model, special)
    template = meta.text("chat_template")
    found = Tokenizer(coder, **special, end_ids=end_ids, chat_template=template, name=name)
    found.files = lambda: saving.described(found, meta)
    return found


def mark_special(vocabulary: Any, meta: Metadata, eos: int | None) -> set[int]:
    """Ids that end an answer; makes control tokens of those that a careless converter left normal."""
    size = len(vocabulary)
    find = {text: vocabulary.find(text.encode()) for text in ENDINGS}
    ends = {i for i in find.values() if i is not None}
    control = set(ends)
    for kind, spellings in FILL_IN.items():
        found = meta.token(f"{kind}_token_id", size)
        if found is None and kind in OLD_NAMES:
            found = meta.token(f"{OLD_NAMES[kind]}_token_id", size)
        if found is None:
            named = [i for i in (vocabulary.find(text.encode()) for text in spellings) if i is not None]
            found = named[0] if named else None
            control.update(named[:1])
        if found is not None and kind in ENDING_KINDS:
            ends.add(found)
    for given in (eos, meta.token("eot_token_id", size), meta.token("eom_token_id", size)):
        if given is not None:
            ends.add(given)
    for i in control:
        vocabulary.mark(i, CONTROL)
    for text in ALWAYS_SHOWN:
        if (i := vocabulary.find(text.encode())) is not None:
            vocabulary.mark(i, USER_DEFINED)
    calls = find["<|call|>"] is not None or find["<|calls|>"] is not None
    if find["<|end|>"] is not None and calls and (find["<|return|>"] is not None or find["<|flush|>"] is not None):
        ends.discard(find["<|end|>"])  # there it only ends a part of the answer
        vocabulary.mark(find["<|end|>"], USER_DEFINED)
    if find["<|tool_response>"] is not None and find["</s>"] is not None:
        ends.discard(find["</s>"])  # there it is an HTML tag
        vocabulary.mark(find["</s>"], NORMAL)
    return ends


def native_coder(vocabulary: Any, meta: Metadata, model: str, special: Mapping[str, int | None]) -> NativeCoder:
    """The C++ tokenizer, and what it puts around a text."""
    lead = b""
    if model == "llama":
        scores = meta.numbers("scores", np.float32)
        if scores is None:
            raise TokenizerError("tokenizer.ggml.scores: missing; one per token")
        prefix = meta.flag("add_space_prefix", True)
        native: _core.ScorePairs | _core.BytePairs = _core.ScorePairs(vocabulary, scores, special["unk"], prefix)
        lead = b" " if prefix else b""
        add_bos = True
    else:
        merges = meta.strings("merges")
        if merges is None:
            raise TokenizerError("tokenizer.ggml.merges: missing; the merges in order of rank")
        pre = meta.text("ggml.pre")
        if not pre:
            log.warning("tokenizer.ggml.pre is missing: using 'default'; ids may differ from those in training")
            pre = "default"
        native = _core.BytePairs(vocabulary, pre, merges.data, merges.starts, merges.lengths)
        add_bos = pre in BEGIN_WITH_BOS
    before, after = [], []
    if meta.flag("add_bos_token", add_bos):
        before = [required(special["bos"], "add_bos_token", "bos_token_id")]
    if meta.flag("add_eos_token", False):
        after = [required(special["eos"], "add_eos_token", "eos_token_id")]
    return NativeCoder(vocabulary, native, before, after, lead)


def required(token: int | None, flag: str, field: str) -> int:
    """The id that a flag asks for."""
    if token is None:
        raise TokenizerError(f"tokenizer.ggml.{flag}: true, but tokenizer.ggml.{field} is missing; a token id")
    return token
