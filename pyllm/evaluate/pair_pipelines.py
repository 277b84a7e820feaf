"""An encoder-decoder, its tokenizer and a task as one call, with settings and answers of transformers' pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pyllm.errors import ContextError
from pyllm.evaluate.translation import source_of, spoken, task_of

OWN = {"batch_size": 32, "truncation": False, "prefix": None, "return_text": True, "return_tensors": False}
OWN |= {"src_lang": None, "tgt_lang": None}
OWN |= {"padding": False}  # nothing is padded, whatever is asked for


class TextToText:
    """[{"generated_text"}, ...] of a text, one for each of num_return_sequences; of texts a list of them, and where
    each has one the objects alone.

    task: a name in the configuration's task_specific_params, whose prefix and settings are used where they are there.
    prefix: put before every text instead; truncation: cut what is too long. src_lang, tgt_lang: languages of tokenizers
    whose texts bear one. return_tensors: also "..._token_ids". All
    else are settings of generate(), which it checks, for all calls or for one.
    """

    answer: ClassVar[str] = "generated_text"
    tokens: ClassVar[str] = "generated_token_ids"

    def __init__(self, model: Any, tokenizer: Any, task: str | None = None, **settings: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        known = getattr(model.config, "task_specific_params", None) or {}
        prefix, options = task_of(model, task if task in known else None)
        self.settings: dict[str, Any] = {**OWN, **options, **settings}
        if self.settings["prefix"] is None:
            self.settings["prefix"] = prefix

    def __call__(self, inputs: Any, **settings: Any) -> Any:
        """The answers; settings for this call. Raises ValueError for what is no text, ContextError, GenerationError."""
        given = {**self.settings, **settings}
        own = {name: given.pop(name) for name in OWN}
        given = spoken(self.model, self.tokenizer, own["tgt_lang"]) | given
        single = isinstance(inputs, str | Mapping) or not isinstance(inputs, Iterable)
        texts = [inputs] if single else list(inputs)
        sources = [self.source(number, text, own) for number, text in enumerate(texts)]
        found: list[list[dict[str, Any]]] = []
        for first in range(0, len(texts), max(1, own["batch_size"])):
            found += self.answers(sources[first : first + max(1, own["batch_size"])], own, given)
        if single:
            return found[0]
        return [each[0] for each in found] if all(len(each) == 1 for each in found) else found

    def source(self, number: int, text: Any, own: Mapping[str, Any]) -> list[int]:
        """A text's tokens, perhaps cut."""
        if not isinstance(text, str):
            raise ValueError(f"pipeline: input {number} is {type(text).__name__}, allowed are texts")
        ids = source_of(self.tokenizer, own["prefix"] + text, own["src_lang"])
        most = min(each for each in (self.tokenizer.model_max_length, self.model.context_length) if each is not None)
        if len(ids) > most and own["truncation"]:
            ending = len(self.tokenizer.ending)
            ids = [*ids[: most - ending], *ids[-ending:]]
        if len(ids) > self.model.context_length:
            found = f"{len(ids):,} tokens, the model's context has {self.model.context_length:,}"
            raise ContextError(f"pipeline: input {number}: {found}; shorten it (truncation=True)")
        return ids

    def answers(self, sources: list[list[int]], own: Mapping[str, Any], options: dict[str, Any]) -> list[list[Any]]:
        """What is said for each source."""
        rows = self.model.generate(sources, tokenizer=self.tokenizer, **options)
        each = len(rows) // len(sources)
        said = []
        for row in rows:
            texts = {self.answer: str(self.tokenizer.decode(row, skip_special_tokens=True)).strip()}
            ids = {self.tokens: row} if own["return_tensors"] else {}
            said.append({**(texts if own["return_text"] else {}), **ids})
        return [said[i : i + each] for i in range(0, len(said), each)]


class Translation(TextToText):
    """The same with "translation_text"; "translation_en_to_de" takes what the configuration says of that task."""

    answer, tokens = "translation_text", "translation_token_ids"


class Summarization(TextToText):
    """The same with "summary_text"."""

    answer, tokens = "summary_text", "summary_token_ids"
