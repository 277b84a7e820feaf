"""A model and what is done with it as one call, with the names, settings and answers of transformers' pipelines."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from pyllm import auto
from pyllm.auto import encoders
from pyllm.auto.pairs import AutoModelForSeq2SeqLM
from pyllm.errors import ModelFileError, printable
from pyllm.evaluate.texts import logits_of
from pyllm.models.classifier import TextClassifier

Array = NDArray[np.float32]


class Task(NamedTuple):
    """A task: which class loads its models, and the pipeline's class as "module:name"."""

    loads: Any
    pipeline: str


TASKS: dict[str, Task] = {
    "fill-mask": Task(encoders.AutoModelForMaskedLM, f"{__name__}:FillMask"),
    "text-classification": Task(auto.AutoModelForSequenceClassification, f"{__name__}:TextClassification"),
    "token-classification": Task(
        encoders.AutoModelForTokenClassification, "pyllm.evaluate.entities:TokenClassification"
    ),
    "feature-extraction": Task(encoders.AutoModel, f"{__name__}:FeatureExtraction"),
    "text-generation": Task(auto.AutoModelForCausalLM, f"{__name__}:TextGeneration"),
    "text2text-generation": Task(AutoModelForSeq2SeqLM, "pyllm.evaluate.pair_pipelines:TextToText"),
    "translation": Task(AutoModelForSeq2SeqLM, "pyllm.evaluate.pair_pipelines:Translation"),
    "summarization": Task(AutoModelForSeq2SeqLM, "pyllm.evaluate.pair_pipelines:Summarization"),
}
LOADING = ("dtype", "torch_dtype", "threads", *auto.IGNORED)  # what is from_pretrained's of a pipeline's settings
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


def pipeline(task: str, model: Any = None, tokenizer: Any = None, *, device: Any = None, **settings: Any) -> Any:
    """What does a task: a callable of a text or texts. model: a name, a path, or a loaded one; tokenizer: too.

    settings: those that each call may give too (see the class of the task), and what from_pretrained takes: dtype,
    threads, and what means nothing here. device: the CPU alone. Raises ValueError for unknown tasks, TypeError for
    unknown settings, ModelFileError for a folder without the task's head, and as from_pretrained does.
    """
    if str(device) not in ("None", "cpu", "-1"):
        raise ValueError(f"pipeline: device {device!r}, allowed is 'cpu'")
    found = TASKS.get("translation" if str(task).startswith("translation_") else ALIASES.get(task, task))
    if found is None:
        known = ", ".join([*TASKS, *ALIASES, "translation_xx_to_yy"])
        raise ValueError(f"pipeline: task {task!r} is not known; known are {known}")
    module, _, name = found.pipeline.partition(":")
    kind = getattr(import_module(module), name)
    if model is None:
        raise ValueError(f"pipeline: {task} without a model; give a name, a path, or a loaded one")
    if isinstance(model, str | os.PathLike):
        loading = {key: settings.pop(key) for key in LOADING if key in settings}
        tokenizer = model if tokenizer is None else tokenizer
        path, model = model, found.loads.from_pretrained(model, **loading)
        missing: Any = getattr(model, "missing_keys", None)
        if missing and found.loads is not encoders.AutoModel:
            _refuse_random(task, path, missing)
    if found.loads is AutoModelForSeq2SeqLM:
        settings = {"task": task} | settings
    if isinstance(tokenizer, str | os.PathLike):
        tokenizer = auto.AutoTokenizer.from_pretrained(tokenizer)
    return kind(model, model.tokenizer if tokenizer is None else tokenizer, **settings)


def _refuse_random(task: str, path: Any, missing: Iterable[str]) -> NoReturn:
    """Raise ModelFileError: answers of a head that no file holds are noise."""
    allowed = f"a folder with the head of {task}; a model loaded before may have a new one"
    raise ModelFileError(os.fspath(path), f"tensor '{printable(next(iter(missing)))}'", None, "missing", allowed)


class Pipeline(ABC):
    """A model that is asked with texts. A task defines `known`, its settings with their defaults, and `answers`."""

    known: ClassVar[dict[str, Any]] = {}
    shared: ClassVar[dict[str, Any]] = {
        "batch_size": 32,
        "truncation": False,
        "padding": False,  # nothing is padded, whatever is asked for
        "max_length": None,
        "tokenizer_kwargs": None,
    }

    def __init__(self, model: Any, tokenizer: Any, **settings: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.settings = self._checked(settings)

    def _checked(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        known = {**self.shared, **self.known}
        odd = [name for name in settings if name not in known]
        if odd:
            raise TypeError(f"{type(self).__name__}: {', '.join(odd)} not known; known are {', '.join(known)}")
        return dict(settings)

    def __call__(self, inputs: Any, **settings: Any) -> Any:
        """The answer for a text, or a list of answers for texts; settings for this call."""
        given = self.settings | self._checked(settings)
        values = {**self.shared, **self.known, **given}
        values["tokenizer_kwargs"] = {**(values["tokenizer_kwargs"] or {}), **(values.get("tokenize_kwargs") or {})}
        single = isinstance(inputs, str | Mapping) or not isinstance(inputs, Iterable)
        rows = [inputs] if single else list(inputs)
        found = self.answers(rows, values, "top_k" in given) if rows else []
        return found[0] if single else found

    @abstractmethod
    def answers(self, inputs: list[Any], values: dict[str, Any], ranked: bool) -> list[Any]:
        """One for each input. ranked: the caller has said how many of the best."""

    def encoded(self, inputs: list[Any], values: dict[str, Any], **more: Any) -> Any:
        """What the tokenizer makes of texts, and of {"text": ..., "text_pair": ...}: its columns, a row for each.

        Raises ValueError for others.
        """
        both = [_pair(i, each) for i, each in enumerate(inputs)]
        own = {name: values[name] for name in ("truncation", "max_length")} | values["tokenizer_kwargs"]
        own["truncation"], own["max_length"] = own["truncation"] or None, self.longest(values)
        own |= {"padding": False, "return_tensors": None}
        found: dict[str, list[Any]] = {}
        for alone in (True, False):
            group = [i for i, (_, pair) in enumerate(both) if (pair is None) is alone]
            texts, pairs = [both[i][0] for i in group], None if alone else [both[i][1] for i in group]
            for name, column in self.tokenizer(texts, pairs, **own, **more).items() if group else ():
                for i, each in zip(group, column, strict=True):
                    found.setdefault(name, [None] * len(both))[i] = each
        return found

    def longest(self, values: dict[str, Any]) -> int:
        """Tokens of a text at most: as the caller, the tokenizer and the model allow."""
        given = values["tokenizer_kwargs"].get("max_length", values["max_length"])
        limits = given, self.tokenizer.model_max_length, self.model.context_length
        return min(each for each in limits if each is not None)

    def computed(self, encoded: Any, values: dict[str, Any], what: str) -> list[Any]:
        """A field of the model's answer for each of the rows, those of like length together."""
        rows = [np.asarray(row, np.int32) for row in encoded["input_ids"]]
        types = encoded.get("token_type_ids")
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        found: list[Any] = [None] * len(rows)
        for first in range(0, len(order), max(1, values["batch_size"])):
            group = order[first : first + max(1, values["batch_size"])]
            kinds = None if types is None else [np.asarray(types[i]) for i in group]
            answer = getattr(self.model([rows[i] for i in group], token_type_ids=kinds), what)
            for i, each in zip(group, answer, strict=True):
                found[i] = np.asarray(each)
        return found


def _pair(number: int, given: Any) -> tuple[str, str | None]:
    if isinstance(given, Mapping) and isinstance(given.get("text"), str):
        return given["text"], given.get("text_pair")
    if not isinstance(given, str):
        raise ValueError(
            f"pipeline: input {number} is {type(given).__name__}, allowed are a text, or text and text_pair"
        )
    return given, None


class FillMask(Pipeline):
    """[{"score", "token", "token_str", "sequence"}, ...] of the likeliest words in a mask's place; of several masks a
    list for each. targets: words that alone are asked about."""

    known: ClassVar[dict[str, Any]] = {"top_k": 5, "targets": None}

    def answers(self, inputs: list[Any], values: dict[str, Any], ranked: bool) -> list[Any]:
        """One for each text. Raises ValueError for a text without a mask."""
        mask = self.tokenizer.mask_token_id
        if mask is None:
            raise ValueError("fill-mask: the tokenizer has no mask token")
        encoded = self.encoded(inputs, values, allow_special=True)
        for number, row in enumerate(encoded["input_ids"]):
            if mask not in row:
                raise ValueError(f"fill-mask: no {self.tokenizer.mask_token} in input {number}")
        targets = None if values["targets"] is None else self._ids(values["targets"])
        logits = self.computed(encoded, values, "logits")
        found = []
        for ids, scores in zip(encoded["input_ids"], logits, strict=True):
            masks = [i for i, each in enumerate(ids) if each == mask]
            rows = [self._best(ids, i, scores[i], values["top_k"], targets, len(masks) == 1) for i in masks]
            found.append(rows[0] if len(rows) == 1 else rows)
        return found

    def _ids(self, targets: Any) -> NDArray[np.int64]:
        """Their tokens; of a word that is none the first of its pieces."""
        words = [targets] if isinstance(targets, str) else list(targets)
        found = [self.tokenizer.coder.find(each) for each in words]
        pieces = [self.tokenizer.encode(each, add_special_tokens=False) for each in words]
        ids = {i if i is not None else row[0] for i, row in zip(found, pieces, strict=True) if i is not None or row}
        if not ids:
            raise ValueError(f"fill-mask: targets {targets!r}, allowed is a word or more")
        return np.array(sorted(ids))

    def _best(self, ids: list[int], place: int, scores: Array, top_k: int, targets: Any, alone: bool) -> list[Any]:
        shares = softmax(scores)
        among = np.arange(len(shares)) if targets is None else targets
        order = among[np.argsort(-shares[among], kind="stable")][:top_k]
        found = []
        for token in order.tolist():
            row = [each for each in (*ids[:place], token, *ids[place + 1 :]) if each != self.tokenizer.pad_token_id]
            if alone:
                row = [each for each in row if not self.tokenizer.coder.special(each)]
            text, word = (self._joined(each) for each in (row, [token]))
            found.append({"score": float(shares[token]), "token": token, "token_str": word, "sequence": text})
        return found

    def _joined(self, ids: list[int]) -> str:
        return str(self.tokenizer.convert_tokens_to_string(self.tokenizer.convert_ids_to_tokens(ids)))


class TextClassification(Pipeline):
    """[{"label", "score"}] of a text; of texts the best of each, or with top_k (None: all) a list for each.

    function_to_apply: "softmax", "sigmoid", "none"; without it what the configuration's problem asks for.
    return_all_scores: of older callers, all in the classes' order. Takes what `pyllm finetune --task classify` writes
    too.
    """

    known: ClassVar[dict[str, Any]] = {"top_k": 1, "function_to_apply": None, "return_all_scores": False}

    def __call__(self, inputs: Any, **settings: Any) -> Any:
        """As every pipeline; of a single text, without top_k in this call, a list of one, as transformers has it."""
        found = super().__call__(inputs, **settings)
        return [found] if isinstance(inputs, str) and "top_k" not in settings else found

    def answers(self, inputs: list[Any], values: dict[str, Any], ranked: bool) -> list[Any]:
        """One for each text."""
        if isinstance(self.model, TextClassifier):
            texts, pairs = zip(*(_pair(i, each) for i, each in enumerate(inputs)), strict=True)
            if any(pair is not None for pair in pairs):
                raise ValueError("text-classification: text_pair, allowed of this model are texts alone")
            odd = [name for name in ("max_length", "tokenizer_kwargs") if values[name]]
            if odd:  # it reads texts whole, however long
                raise ValueError(f"text-classification: {odd[0]} {values[odd[0]]!r}, allowed of this model is None")
            scores: Any = logits_of(self.model, self.tokenizer, texts)
        else:
            scores = self.computed(self.encoded(inputs, values), values, "logits")
        rows, names = [self._shares(row, values["function_to_apply"]) for row in scores], self.model.config.id2label
        found: list[Any] = []
        every = values["return_all_scores"] and not ranked
        for row in rows:
            order = np.arange(len(row)) if every else np.argsort(-row, kind="stable")[: values["top_k"]]
            best = [{"label": names[int(i)], "score": float(row[i])} for i in order]
            found.append(best if ranked or every else best[0])
        return found

    def _shares(self, row: Array, function: str | None) -> Array:
        c = self.model.config
        if function is None:
            one = c.problem_type == "multi_label_classification" or c.num_labels == 1
            function = "none" if c.problem_type == "regression" else "sigmoid" if one else "softmax"
        known = {"none": lambda x: x, "sigmoid": lambda x: 1 / (1 + np.exp(-x.astype(np.float64))), "softmax": softmax}
        if function.lower() not in known:
            raise ValueError(f"function_to_apply: {function!r}, allowed are {', '.join(known)}")
        return np.asarray(known[function.lower()](row))


class FeatureExtraction(Pipeline):
    """The rows of a text as nested lists [[[...], ...]], (1, tokens, width), or with return_tensors an array."""

    known: ClassVar[dict[str, Any]] = {"return_tensors": False, "tokenize_kwargs": None}

    def answers(self, inputs: list[Any], values: dict[str, Any], ranked: bool) -> list[Any]:
        """One for each text."""
        rows = self.computed(self.encoded(inputs, values), values, "last_hidden_state")
        return [each[None] if values["return_tensors"] else [each.tolist()] for each in rows]


class TextGeneration(Pipeline):
    """[{"generated_text"}, ...] of a text, one for each of num_return_sequences; of messages the conversation.

    return_full_text: with the prompt before it; truncation: of a text that is too long. All else are settings of
    generate(), which it checks; max_length is of both, as transformers has it.
    """

    known: ClassVar[dict[str, Any]] = {"return_full_text": True}

    def _checked(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return dict(settings)  # generate() knows them, and says which it does not

    def __call__(self, inputs: Any, **settings: Any) -> Any:
        """As every pipeline; a list of messages is one conversation."""
        chat = isinstance(inputs, list) and bool(inputs) and isinstance(inputs[0], Mapping)
        return super().__call__([inputs], **settings)[0] if chat else super().__call__(inputs, **settings)

    def answers(self, inputs: list[Any], values: dict[str, Any], ranked: bool) -> list[Any]:
        """One for each text."""
        own = {**self.shared, **self.known}
        options = {name: value for name, value in values.items() if name not in own}
        if values["max_length"] is not None:
            options["max_length"] = values["max_length"]
        cut = {"truncation": values["truncation"] or None, "max_length": self.longest(values)}
        chats = [isinstance(each, list) for each in inputs]
        rows = [
            self.tokenizer.apply_chat_template(each, add_generation_prompt=True)
            if chat
            else self.tokenizer(_pair(i, each)[0], **cut).input_ids
            for i, (each, chat) in enumerate(zip(inputs, chats, strict=True))
        ]
        found: list[Any] = []
        for given, row, chat in zip(inputs, rows, chats, strict=True):
            out = self.model.generate([row], tokenizer=self.tokenizer, **options)
            texts = [self.tokenizer.decode(each[len(row) :], skip_special_tokens=True) for each in out]
            found.append([{"generated_text": _whole(given, each, chat, values["return_full_text"])} for each in texts])
        return found


def _whole(given: Any, text: str, chat: bool, full: bool) -> Any:
    if not full:
        return text
    return [*given, {"role": "assistant", "content": text}] if chat else given + text


def softmax(row: Array) -> Array:
    """Shares that sum to 1, float32, of scores (n,) or (..., n)."""
    grown = np.exp(row.astype(np.float64) - row.max(axis=-1, keepdims=True))
    return (grown / grown.sum(axis=-1, keepdims=True)).astype(np.float32)
