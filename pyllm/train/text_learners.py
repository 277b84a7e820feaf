"""fastai's text learners: a language model learns the texts at hand, then their classes, in stages of one's own.

    lm = pyllm.language_model_learner(texts, "runs/general", "runs/lm", drop_mult=0.5)
    lm.fit_one_cycle(1, 1e-2)
    lm.save_encoder("runs/encoder")
    learn = pyllm.text_classifier_learner(texts, labels, "runs/general", "runs/classes")
    learn.load_encoder("runs/encoder").fit_one_cycle(1, 2e-2)
    learn.freeze_to(-2)
    learn.fit_one_cycle(1, slice(1e-2 / 2.6**4, 1e-2))
    learn.predict("a fine film")                            # (class, its number, probabilities)
    learn.export("runs/reviews")                            # pyllm predict runs/reviews TEXT

`pyllm.train.texts.finetune_texts` does all of it by one recipe.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.auto import AutoModelForCausalLM, AutoTokenizer
from pyllm.auto.classifiers import head_of
from pyllm.data import Labelled, Pieces, fingerprint
from pyllm.data.labelled import Texts, encoded, numbered
from pyllm.data.packed import shuffled
from pyllm.errors import printable
from pyllm.formats import download
from pyllm.models.classifier import ClassifierConfig, TextClassifier
from pyllm.ops import softmax
from pyllm.train.adapting import refuse_adapted, save, save_tokenizer
from pyllm.train.arguments import TrainingArguments
from pyllm.train.learner import Learner
from pyllm.train.split import split
from pyllm.train.texts import MEASURED, TextSettings, save_texts

_PATH = str | os.PathLike[str]


class TextLearner(Learner):
    """A Learner that has the tokenizer of its texts. The last group of layers alone learns until unfreeze().

    usual: the language model's configuration before drop_mult.
    """

    def __init__(self, model: Any, tokenizer: Any, usual: Any, *others: Any, **options: Any) -> None:
        super().__init__(model, *others, **options)
        self.tokenizer, self.usual = tokenizer, usual
        self.freeze()

    def save_encoder(self, folder: _PATH) -> None:
        """Write the language model, a classifier's too, and its tokenizer; its dropouts are not multiplied, since the
        learner that begins from it multiplies them. Raises ModelFileError."""
        model = self.model.trunk if isinstance(self.model, TextClassifier) else self.model
        learning, model.config = model.config, self.usual
        try:
            save(model, os.fspath(folder))
        finally:
            model.config = learning
        save_tokenizer(model, self.tokenizer, os.fspath(folder))


class ClassifierLearner(TextLearner):
    """Of a TextClassifier; data: Labelled."""

    def load_encoder(self, folder: _PATH) -> ClassifierLearner:
        """Take the language model that save_encoder has written; freezes it, gives itself. Raises ModelFileError,
        ValueError for another vocabulary or other sizes."""
        if fingerprint(AutoTokenizer.from_pretrained(folder)) != fingerprint(self.tokenizer):
            raise ValueError(f"load_encoder: {os.fspath(folder)} has another vocabulary, allowed is the classifier's")
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
        self.model.trunk.load_state_dict(model.state_dict())
        self.model.standardise(self.data.texts[:MEASURED], self.arguments.seed)
        self.freeze()
        return self

    def predict(self, text: str) -> tuple[str, int, NDArray[np.float32]]:
        """(the likeliest class, its number, the probability of each class) of a text."""
        logits = self.model.eval().logits(encoded(self.tokenizer, [text], self.model.config.framed))
        found = np.asarray(softmax(logits))[0]
        return self.model.config.classes[found.argmax()], int(found.argmax()), found

    def export(self, folder: _PATH) -> None:
        """Write the classifier, which AutoModelForSequenceClassification and `pyllm predict` open. Raises
        ModelFileError."""
        save_texts(self.model, self.tokenizer, os.fspath(folder))


def language_model_learner(
    texts: Sequence[str],
    pretrained: _PATH,
    output_dir: _PATH,
    drop_mult: float = 1.0,
    valid: float = 0.1,
    context: int = 128,
    **arguments: Any,
) -> TextLearner:
    """A learner of the next token of texts, in pieces of `context` tokens, a share `valid` of them held out.

    pretrained: a language model's folder, file or name, whose tokenizer reads the texts. drop_mult: times an AWD-LSTM's
    dropouts. arguments: TrainingArguments'. Raises DataError, ModelFileError, ValueError.
    """
    settings = TextSettings(drop_mult=drop_mult, valid=valid, lm_context=context)
    told = TrainingArguments(os.fspath(output_dir), **arguments)
    model, tokenizer, usual, facts = _pretrained(pretrained, settings)
    order = shuffled(0, len(texts), len(texts), told.seed).tolist()
    ids, count = encoded(tokenizer, texts), round(valid * len(texts))
    if 0 < len(texts) == count:
        raise ValueError(f"language_model_learner: valid {valid:g} holds out all of {count} texts, one must be left")
    data = Pieces([ids[i] for i in order[count:]], context, told.seed)
    held = Pieces([ids[i] for i in order[:count]], context, told.seed) if count else None
    return TextLearner(model, tokenizer, usual, data, told, held, facts=facts | {"data": data.identity})


def text_classifier_learner(
    texts: Sequence[str],
    labels: Sequence[Any],
    pretrained: _PATH,
    output_dir: _PATH,
    drop_mult: float = 1.0,
    valid: float = 0.1,
    pooling: str = "concat",
    **arguments: Any,
) -> ClassifierLearner:
    """A learner of the classes of texts, a share `valid` of each class held out; pooling: see ClassifierConfig. Texts
    with the label None are left out.

    Others: see language_model_learner. Raises DataError, ModelFileError, ValueError.
    """
    if len(texts) != len(labels):
        raise ValueError(f"text_classifier_learner: {len(labels)} labels of {len(texts)} texts, allowed is one of each")
    settings = TextSettings(drop_mult=drop_mult, valid=valid, pooling=pooling)
    told = TrainingArguments(os.fspath(output_dir), **arguments)
    model, tokenizer, usual, facts = _pretrained(pretrained, settings)
    named = [_named(label) for label in labels]
    rows, (targets, classes) = Texts(list(texts), named), numbered(named)
    ids, (train, out) = encoded(tokenizer, texts), split(rows, targets, valid, told.seed)
    data = Labelled([ids[i] for i in sorted(train)], targets[sorted(train)], told.seed)
    held = Labelled([ids[i] for i in sorted(out)], targets[sorted(out)], told.seed) if out else None
    classifier = TextClassifier(model, ClassifierConfig(tuple(classes), pooling), told.seed)
    classifier.standardise(data.texts[:MEASURED], told.seed)
    return ClassifierLearner(classifier, tokenizer, usual, data, told, held, facts=facts | {"data": data.identity})


def _named(label: Any) -> str | None:
    """A class by its name. Raises ValueError for what names none: a fraction, nan, a list of several."""
    if label is None or isinstance(label, str | int | np.integer | np.bool_):
        return None if label is None else str(label)
    found = printable(repr(label), 100)
    raise ValueError(f"text_classifier_learner: the label {found}, allowed are texts, whole numbers and None")


def _pretrained(name: _PATH, settings: TextSettings) -> tuple[Any, Any, Any, dict[str, Any]]:
    """(model, tokenizer, the configuration before drop_mult, what must not change while a run goes on). Raises
    ModelFileError, ValueError."""
    if head_of(download.resolve(name)):
        found = f"{os.fspath(name)} is an encoder"
        raise ValueError(f"text learner: {found}, which learns by finetune_texts; allowed are language models")
    model: Any = AutoModelForCausalLM.from_pretrained(name, dtype="float32")
    refuse_adapted(os.fspath(name), model)
    tokenizer, usual = AutoTokenizer.from_pretrained(name), model.config
    if hasattr(model.config, "dropping"):
        model.config = model.config.dropping(settings.drop_mult)
    about = {"from": os.fspath(name), "config": asdict(model.config), "tokenizer": fingerprint(tokenizer)}
    return model, tokenizer, usual, about | {"settings": asdict(settings)}
