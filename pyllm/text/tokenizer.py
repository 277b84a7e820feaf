"""The tokenizer that users see, in Hugging Face's manner, over whatever turns bytes into ids."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from pyllm.errors import TokenizerError
from pyllm.text.encoding import BatchEncoding, Pieces, as_tensor, filled, pad, strategy_of, truncate
from pyllm.text.languages import Spoken
from pyllm.text.stream import TokenStream

Text = str | bytes


class Coder(Protocol):
    """What a Tokenizer is made of."""

    vocab_size: int
    lead: bytes  # what the coder puts before a text and decoding takes off again
    before: list[int]  # ids that add_special_tokens puts before a text
    after: list[int]  # and after it

    def encode(self, text: Text, allow_special: bool, breaks: Sequence[int] = ()) -> list[int]: ...
    def shield(self, text: str, mark: str) -> str: ...
    def bytes(self, token_id: int) -> bytes: ...
    def name(self, token_id: int) -> str: ...
    def find(self, name: str) -> int | None: ...
    def special(self, token_id: int) -> bool: ...


class Tokenizer(Spoken):
    """Text to ids and back.

    Special tokens (control tokens such as <|im_start|>) never come out of a text unless `allow_special` is given:
    then their spelling in the text stands for them, which is what a rendered chat template needs. `str` with lone
    surrogates is read as the three bytes of each; bytes are taken as they are, malformed UTF-8 included.
    """

    def __init__(
        self,
        coder: Coder,
        *,
        bos: int | None = None,
        eos: int | None = None,
        pad: int | None = None,
        unk: int | None = None,
        cls: int | None = None,
        sep: int | None = None,
        mask: int | None = None,
        end_ids: Iterable[int] = (),
        chat_template: str | None = None,
        name: str = "tokenizer",
    ) -> None:
        self.coder = coder
        self.bos_token_id = bos
        self.eos_token_id = eos
        self.pad_token_id = pad
        self.unk_token_id = unk
        self.cls_token_id, self.sep_token_id, self.mask_token_id = cls, sep, mask
        self.typed = False  # whether models of this tokenizer want to be told the texts of a pair apart
        self.end_ids = frozenset(end_ids)
        self.chat_template = self._came_with = chat_template
        self.name_or_path = name
        self.padding_side = "right"
        self.truncation_side = "right"
        self.model_max_length: int | None = None
        self.target: Tokenizer = self  # of what a text becomes; another one where a folder has two
        self.files: Callable[[], dict[str, bytes]] = dict  # what save_pretrained writes: name -> bytes

    @property
    def vocab_size(self) -> int:
        """Number of tokens; ids are 0 to vocab_size - 1."""
        return self.coder.vocab_size

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"Tokenizer({self.name_or_path!r}, {self.vocab_size:,} tokens)"

    def _name(self, token_id: int | None) -> str | None:
        return None if token_id is None else self.coder.name(token_id)

    @property
    def bos_token(self) -> str | None:
        """The text of the token that begins a sequence."""
        return self._name(self.bos_token_id)

    @property
    def eos_token(self) -> str | None:
        """The text of the token that ends a sequence."""
        return self._name(self.eos_token_id)

    @property
    def pad_token(self) -> str | None:
        """The text of the token that fills up a batch."""
        return self._name(self.pad_token_id)

    @property
    def unk_token(self) -> str | None:
        """The text of the token for what has no token."""
        return self._name(self.unk_token_id)

    @property
    def cls_token(self) -> str | None:
        """The text of the token whose row stands for a text."""
        return self._name(self.cls_token_id)

    @property
    def sep_token(self) -> str | None:
        """The text of the token between two texts."""
        return self._name(self.sep_token_id)

    @property
    def mask_token(self) -> str | None:
        """The text of the token that hides another."""
        return self._name(self.mask_token_id)

    @property
    def ending(self) -> list[int]:
        """What stands behind a text that is whole: what the coder puts there, with the end token where there is one."""
        after, end = list(self.coder.after), self.eos_token_id
        return after if end is None or end in after else [*after, end]

    @property
    def all_special_ids(self) -> list[int]:
        """Ids that skip_special_tokens leaves out."""
        return [i for i in range(self.vocab_size) if self.coder.special(i)]

    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int | None] | None:
        """The id of a token's text, or of each; unk_token_id where there is none."""
        if isinstance(tokens, list):
            return [self._id(token) for token in tokens]
        return self._id(tokens)

    def _id(self, token: str) -> int | None:
        found = self.coder.find(token)
        return self.unk_token_id if found is None else found

    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> str | list[str]:
        """A token's text as the vocabulary spells it, or the list of them."""
        if isinstance(ids, int):
            return self.coder.name(ids)
        return [self.coder.name(int(i)) for i in ids]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of tokens as the vocabulary spells them."""
        if hasattr(self.coder, "join"):
            return str(self.coder.join(tokens))
        return self.decode([i for i in map(self._id, tokens) if i is not None])

    def encode(self, text: Text, add_special_tokens: bool = True, allow_special: bool = False) -> list[int]:
        """Ids of the text. Raises TokenizerError for anything but text."""
        if not isinstance(text, str | bytes):
            raise TokenizerError(f"encode: text is {type(text).__name__}; str or bytes")
        ids = self.coder.encode(text, allow_special)
        return [*self.coder.before, *ids, *self.coder.after] if add_special_tokens else ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for. Raises TokenizerError when there is no such id."""
        return self.coder.bytes(token_id)

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD."""
        stream = self.stream(skip_special_tokens)
        return "".join([stream.put(i) for i in as_ids(ids)]) + stream.end()

    def batch_decode(self, sequences: Iterable[Any], skip_special_tokens: bool = False) -> list[str]:
        """decode() of each sequence."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def stream(self, skip_special_tokens: bool = False) -> TokenStream:
        """An object whose put(id) returns the text so far complete, and whose end() returns the rest."""
        coder = self.target.coder  # what a model says are targets
        if not skip_special_tokens:
            return TokenStream(coder.bytes, coder.lead)
        return TokenStream(lambda i: b"" if coder.special(i) else coder.bytes(i), coder.lead)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write tokenizer.json, tokenizer_config.json and what else belongs to it; gives their paths.

        A folder's files are copied, a chat_template that was set beside them; a GGUF vocabulary is described so that
        PyPI's `tokenizers` gives the same ids. Raises TokenizerError for vocabularies that tokenizer.json cannot
        describe, ModelFileError for the disk.
        """
        from pyllm.formats.writing import Staging, make_folder

        files = self.files()
        if self.chat_template != self._came_with and self.chat_template is not None:
            files = files | {"chat_template.jinja": self.chat_template.encode()}  # which is read before all others
        folder = make_folder(save_directory)
        with Staging(folder, sum(map(len, files.values()))) as staging:
            for name, text in files.items():
                with staging.create(name) as file:
                    file.write(text)
        return tuple(os.path.join(folder, name) for name in files)

    def __call__(
        self,
        text: Text | Sequence[Text] | None = None,
        text_pair: Text | Sequence[Text] | None = None,
        *,
        text_target: Text | Sequence[Text] | None = None,
        **settings: Any,
    ) -> BatchEncoding:
        """What encoded() gives for a text or texts, with the settings that it takes.

        text_target: what each becomes, whose ids are `labels`; without a text all that is given. Raises TokenizerError.
        """
        if text is None and text_target is None:
            raise TokenizerError("encode: neither text nor text_target; one of them")
        if text_target is None or text is None:
            tokenizer, given = (self, text) if text is not None else (self.target, text_target)
            return tokenizer.encoded(given, text_pair, **settings)  # type: ignore[arg-type]
        labels = self.target.encoded(text_target, **settings).input_ids
        return BatchEncoding({**self.encoded(text, text_pair, **settings), "labels": labels})

    def encoded(
        self,
        text: Text | Sequence[Text],
        text_pair: Text | Sequence[Text] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str | None = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool = True,
        return_token_type_ids: bool | None = None,
        return_offsets_mapping: bool = False,
        return_special_tokens_mask: bool = False,
        allow_special: bool = False,
    ) -> BatchEncoding:
        """input_ids, token_type_ids where models want them, attention_mask: of a text (flat lists) or of texts (rows).

        text_pair: a second text for each. Truncation keeps the special tokens. offset_mapping: (first, end) characters
        of each token. With return_tensors ("np", "pt") all are (batch, length), int64, also for one text. Raises
        TokenizerError.
        """
        single = isinstance(text, str | bytes)
        texts = [text] if isinstance(text, str | bytes) else list(text)
        pairs = [text_pair] if isinstance(text_pair, str | bytes) else None if text_pair is None else list(text_pair)
        longest = max_length if max_length is not None else self.model_max_length
        strategy = strategy_of(truncation, longest)
        typed = self.typed if return_token_type_ids is None else return_token_type_ids
        more = typed or return_offsets_mapping or return_special_tokens_mask
        pieces = None
        if more or pairs is not None or (strategy and hasattr(self.coder, "pieces")):
            cut = longest if strategy else None, strategy
            pieces = self._pieces(texts, pairs, add_special_tokens, allow_special, *cut)
            if return_offsets_mapping and pieces.offsets is None:
                raise TokenizerError(f"{self.name_or_path}: return_offsets_mapping; this tokenizer knows no offsets")
            rows = pieces.ids
        else:
            rows = [
                self.coder.encode(t, allow_special) if not add_special_tokens else self.encode(t, True, allow_special)
                for t in texts
            ]
            rows = truncate(rows, truncation, longest, self.truncation_side)
        found: dict[str, Any] = {}
        found["input_ids"], masks = pad(rows, padding, max_length, self.pad_token_id, self.padding_side)
        if pieces is not None:
            columns: dict[str, tuple[bool, Any, Any]] = {
                "token_type_ids": (typed, pieces.types, 0),
                "offset_mapping": (return_offsets_mapping, pieces.offsets, (0, 0)),
                "special_tokens_mask": (return_special_tokens_mask, pieces.special, 1),
            }
            widths = [len(row) for row in found["input_ids"]]
            for name, (wanted, column, fill) in columns.items():
                if wanted:
                    found[name] = filled(column, widths, fill, self.padding_side)
        if return_attention_mask:
            found["attention_mask"] = masks
        flat = single and return_tensors is None
        return BatchEncoding({k: v[0] if flat else as_tensor(v, return_tensors) for k, v in found.items()})

    def _pieces(
        self, texts: list[Text], pairs: list[Text] | None, special: bool, allow: bool, longest: int | None, cut: Any
    ) -> Pieces:
        """What the coder makes of texts and pairs. Raises TokenizerError where it knows none."""
        wrong = next((each for each in [*texts, *(pairs or [])] if not isinstance(each, str | bytes)), None)
        if wrong is not None:
            raise TokenizerError(f"encode: text is {type(wrong).__name__}; str or bytes")
        if pairs is not None and len(pairs) != len(texts):
            raise TokenizerError(f"text_pair: {len(pairs)} for {len(texts)} texts; one for each")
        if not hasattr(self.coder, "pieces"):
            found = "it knows neither pairs nor offsets; a folder's tokenizer.json does"
            raise TokenizerError(f"{self.name_or_path}: {found}")
        pieces: Pieces = self.coder.pieces(texts, pairs, special, allow, longest, cut, self.truncation_side)
        return pieces

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_tensors: str | None = None,
        return_dict: bool = False,
        allow_special: bool = False,
        **kwargs: Any,
    ) -> Any:
        """A conversation ([{"role": ..., "content": ...}, ...]) as the model was trained to see it.

        Returns the text (tokenize=False), ids, or a BatchEncoding (return_dict=True). Only the template puts special
        tokens there: their spellings in messages, tools and other arguments stay text unless `allow_special` is
        given. Raises TemplateError.
        """
        from pyllm.text.template import render

        template = chat_template if chat_template is not None else self.chat_template
        if template is None:
            how = "pass chat_template, or let it learn conversations: `pyllm finetune` of {'messages': ...} brings one"
            raise TokenizerError(f"{self.name_or_path}: no chat template in the model; {how}")
        given = {"messages": conversation, "tools": tools, **kwargs}
        mark = "" if allow_special or not tokenize else unused_mark(given)
        if mark:
            given = each_text(given, lambda text: self.coder.shield(text, mark))
        names = {
            f"{kind}_token": self._name(getattr(self, f"{kind}_token_id")) for kind in ("bos", "eos", "pad", "unk")
        }
        known = {name: text for name, text in names.items() if text is not None}
        text = render(template, add_generation_prompt=add_generation_prompt, **{**known, **given})
        if not tokenize:
            return text
        ids = self.coder.encode(*unmarked(text, mark))
        if not return_dict:
            return ids if return_tensors is None else as_tensor([ids], return_tensors)
        found = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        flat = return_tensors is None
        return BatchEncoding({k: v if flat else as_tensor([v], return_tensors) for k, v in found.items()})


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of nested lists and mappings with each text in it changed; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: each_text(each, change) for key, each in value.items()}
    return [each_text(each, change) for each in value] if isinstance(value, list | tuple) else value


def unused_mark(value: Any) -> str:
    """A noncharacter of Unicode that stands in no text of the value."""
    texts: list[str] = []

    def note(text: str) -> str:
        texts.append(text)
        return text

    each_text(value, note)
    for code in range(0xFDD0, 0xFDF0):
        if not any(chr(code) in text for text in texts):
            return chr(code)
    raise TokenizerError("apply_chat_template: the messages hold all of U+FDD0 to U+FDEF; leave one of them out")


def unmarked(text: str, mark: str) -> tuple[str, bool, list[int]]:
    """(text without marks, True, byte offsets where marks stood), as Coder.encode takes them."""
    if not mark:
        return text, True, []
    pieces = re.split(f"{mark}|\\\\u{ord(mark):04x}", text)  # tojson(ensure_ascii=true) spells it out
    ends = itertools.accumulate(len(piece.encode("utf-8", "surrogatepass")) for piece in pieces[:-1])
    return "".join(pieces), True, list(ends)


def as_ids(ids: Any) -> list[int]:
    """A flat list of ids from a number, a list, or an array of one dimension. Raises TokenizerError."""
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
    if isinstance(ids, int):
        return [ids]
    flat = list(ids)
    if any(isinstance(i, list | tuple) for i in flat):
        raise TokenizerError("decode: ids of two dimensions; one sequence, or batch_decode")
    return [int(i) for i in flat]
