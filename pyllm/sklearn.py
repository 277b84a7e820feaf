"""Texts to classes or numbers as scikit-learn estimators; scikit-learn is the extra `pyllm[sklearn]`.

from pyllm.sklearn import TextClassifier
TextClassifier(epochs=4).fit(texts, y).predict_proba(texts)
cross_val_score(TextClassifier("runs/general", recipe="ulmfit"), texts, y)
GridSearchCV(TextClassifier("bert-base-uncased"), {"learning_rate": [2e-5, 1e-4]}).fit(texts, y)
TextClassifier().fit(texts, MultiLabelBinarizer().fit_transform(labels)).predict(texts)
TextRegressor().fit(texts, numbers).score(texts, numbers)
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm import text
from pyllm.auto import AutoModelForSequenceClassification, AutoTokenizer, new_config, new_model
from pyllm.data.labelled import Texts
from pyllm.data.problems import SEVERAL
from pyllm.evaluate.texts import logits_of, probabilities, problem_of
from pyllm.train import TrainingArguments
from pyllm.train.split import Learned
from pyllm.train.texts import (
    RATES,
    TextSettings,
    is_recurrent,
    learn_pretrained,
    learn_texts,
    save_texts,
    usual_epochs,
)

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted
except ImportError:
    raise ImportError("pyllm.sklearn: scikit-learn is not there: pip install pyllm[sklearn]") from None


class _Texts(BaseEstimator):  # type: ignore[misc]
    """A language model or an encoder with a head, which learns something of texts (an iterable of str)."""

    def __init__(
        self,
        pretrained: str | None = None,
        *,
        family: str = "lstm",
        embedding_size: int = 128,
        hidden_size: int = 128,
        num_hidden_layers: int = 1,
        vocab: int = 4096,
        recipe: str | None = None,
        lm_epochs: float | None = None,
        drop_mult: float = 1.0,
        dropout: float = 0.1,
        pooling: str = "concat",
        epochs: float = 4.0,
        min_steps: int = 200,
        batch_size: int = 32,
        learning_rate: float | None = None,
        weight_decay: float = 0.1,
        random_state: Any = 0,
        output_dir: str | None = None,
    ) -> None:
        self.pretrained = pretrained
        self.family = family
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.vocab = vocab
        self.recipe = recipe
        self.lm_epochs = lm_epochs
        self.drop_mult = drop_mult
        self.dropout = dropout
        self.pooling = pooling
        self.epochs = epochs
        self.min_steps = min_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state
        self.output_dir = output_dir

    def _fit(self, rows: Texts, problem: str, others: dict[str, Any], classes: list[str] | None = None) -> Any:
        """Learn labelled texts."""
        if any(value is not None for value in others.values()):
            name, odd = type(self).__name__, ", ".join(others)
            raise TypeError(f"{name}.fit: {odd} is not known, allowed are X and y: each text counts as much")
        with tempfile.TemporaryDirectory() if self.output_dir is None else nullcontext(self.output_dir) as folder:
            found, tokenizer = self._learned(rows, os.fspath(folder), problem, classes)
        if not found.result.complete:
            raise KeyboardInterrupt
        self.model_, self.tokenizer_ = found.model, tokenizer
        return self

    def _learned(self, rows: Texts, folder: str, problem: str, classes: list[str] | None) -> tuple[Learned, Any]:
        """What came of learning, and the tokenizer."""
        new = self.pretrained is None
        name = "" if self.pretrained is None else os.fspath(self.pretrained)
        rate = RATES[new or is_recurrent(name)] if self.learning_rate is None else self.learning_rate
        settings = TextSettings(
            recipe=self.recipe or ("plain" if new else "ulmfit"),
            lm_epochs=self.lm_epochs if self.lm_epochs is not None else 0.0 if new else usual_epochs(name),
            lm_lr=rate,
            drop_mult=self.drop_mult,
            dropout=self.dropout,
            valid=0.0,
            pooling=self.pooling,
            problem=problem,
            classes=classes,
        )
        seed = self.random_state
        if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
            seed = check_random_state(seed).randint(2**31 - 1)
        arguments = self._arguments(folder, len(rows.texts), rate, int(seed))
        if new:
            model, tokenizer = self._new(rows.texts, int(seed))
            return learn_texts(model, tokenizer, rows, arguments, settings), tokenizer
        tokenizer = AutoTokenizer.from_pretrained(name)
        return learn_pretrained(name, tokenizer, rows, arguments, settings), tokenizer

    def _new(self, texts: list[str], seed: int) -> tuple[Any, Any]:
        tokenizer = text.train(texts, "bpe", vocab=self.vocab)
        sizes = {name: getattr(self, name) for name in ("embedding_size", "hidden_size", "num_hidden_layers")}
        config = new_config(self.family, **sizes, vocab_size=tokenizer.vocab_size)
        return new_model(config, seed), tokenizer

    def _arguments(self, folder: str, texts: int, rate: float, seed: int) -> TrainingArguments:
        batch = min(self.batch_size, texts)
        return TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch,
            num_train_epochs=max(self.epochs, self.min_steps * batch / texts),
            learning_rate=rate,
            weight_decay=self.weight_decay,
            save_steps=0,
            save_total_limit=1,
            seed=seed,
        )

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take: model and tokenizer as the files of their folder, which nothing runs."""
        state = dict(super().__getstate__())
        if "model_" in state:
            with tempfile.TemporaryDirectory() as folder:
                save_texts(state.pop("model_"), state.pop("tokenizer_"), folder)
                state["files_"] = {each.name: each.read_bytes() for each in Path(folder).iterdir()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = dict(state)
        files = own.pop("files_", {})
        super().__setstate__(own)
        if files:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in files.items():
                    Path(folder, os.path.basename(name)).write_bytes(content)
                self.model_ = AutoModelForSequenceClassification.from_pretrained(folder)
                self.tokenizer_ = AutoTokenizer.from_pretrained(folder)

    def __sklearn_tags__(self) -> Any:
        """X is one-dimensional, of texts."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False, True
        tags.no_validation = True
        return tags


class TextClassifier(ClassifierMixin, _Texts):  # type: ignore[misc]
    """Classifies texts (an iterable of str) by a language model or an encoder with a head.

    pretrained: a folder, file or name of a language model or of an encoder (BERT and its relatives), which
    takes recipe and lm_epochs alone of the next; None: a new one, family "lstm" (or "gru", "rnn",
    "awd-lstm") of embedding_size, hidden_size and num_hidden_layers, with `vocab` byte pairs learned from the texts.
    recipe, lm_epochs, drop_mult, dropout, pooling: see pyllm.train.texts.TextSettings; a new model has no lm_epochs and
    is "plain" unless said. epochs of at least min_steps steps of batch_size texts, AdamW at learning_rate (None: 4e-3
    of recurrent models, 1e-4 of others) with weight_decay. random_state: of weights, order and dropout: the same number
    gives the same bytes; None or a RandomState: it is drawn. output_dir: where checkpoints stay, so that a fit that was
    interrupted goes on; None: nowhere.

    After fit: classes_, model_, tokenizer_. Raises ValueError for X that are no texts, y that are no classes, and one
    class only.
    """

    def fit(self, X: Any, y: Any, **others: Any) -> TextClassifier:
        """Learn the labels y of X: (texts,) of classes, or (texts, classes) of 0 and 1, several of a text. Raises
        ValueError, TypeError for others, such as sample_weight."""
        texts, labels = _texts(X), np.asarray(y.toarray() if hasattr(y, "toarray") else y)
        several = labels.ndim == 2 and labels.shape[1] > 1
        labels = labels if several or labels.shape != (len(texts), 1) else labels[:, 0]
        if len(labels.shape) != 1 + several or len(labels) != len(texts):
            raise ValueError(f"TextClassifier: y {labels.shape} for {len(texts)} texts, allowed is a label for each")
        if not (np.isin(labels, (0, 1)).all() if several else _are_classes(labels)):
            odd, allowed = f"{labels.dtype} {labels[:3].tolist()} ...", "texts or whole numbers alone"
            allowed += ", of several classes 0 and 1 in a column of each"
            raise ValueError(f"TextClassifier: Unknown label type: {odd}, allowed are {allowed}")
        if several:
            self.classes_ = np.arange(labels.shape[1])
            named: Any = [tuple(map(str, np.flatnonzero(row))) for row in labels]
        else:
            self.classes_, numbers = np.unique(labels, return_inverse=True)
            named = [f"{number}" for number in numbers]
        if len(self.classes_) < 2:
            raise ValueError(f"TextClassifier: one class only: {self.classes_.tolist()}; two classes or more")
        names = [f"{i}" for i in range(len(self.classes_))]
        return self._fit(Texts(texts, named), "multi_label" if several else "single_label", others, names)

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """(texts, classes), in the order of classes_; rows sum to 1, but not where a text has several."""
        check_is_fitted(self)
        return probabilities(self.model_, self.tokenizer_, _texts(X))

    def predict_log_proba(self, X: Any) -> NDArray[np.float32]:
        """The logarithms of predict_proba, finite where it rounds to 0."""
        check_is_fitted(self)
        logits = logits_of(self.model_, self.tokenizer_, _texts(X)).astype(np.float64)
        if self._several():
            return np.asarray(-np.logaddexp(0, -logits), np.float32)
        return np.asarray(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), np.float32)

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each text; of several (texts, classes) of 0 and 1."""
        found = self.predict_proba(X)
        return (found > 0.5).astype(int) if self._several() else np.asarray(self.classes_)[found.argmax(axis=1)]

    def _several(self) -> bool:
        return problem_of(self.model_) == SEVERAL

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class TextRegressor(RegressorMixin, _Texts):  # type: ignore[misc]
    """Tells a number of a text (an iterable of str), by what TextClassifier takes.

    After fit: model_, tokenizer_, and mean_ and scale_ of y, without which the model's numbers are. Raises ValueError
    for X that are no texts, y that are no numbers.
    """

    def fit(self, X: Any, y: Any, **others: Any) -> TextRegressor:
        """Learn the numbers y (texts,) of X. Raises ValueError, TypeError for others, such as sample_weight."""
        texts, numbers = _texts(X), np.asarray(y)
        numbers = numbers[:, 0] if numbers.shape == (len(texts), 1) else numbers
        if numbers.shape != (len(texts),) or numbers.dtype.kind not in "biuf" or not np.isfinite(numbers).all():
            found = f"y {numbers.dtype} {numbers.shape} for {len(texts)} texts"
            raise ValueError(f"TextRegressor: {found}, allowed is a finite number for each")
        self.mean_, self.scale_ = float(numbers.mean()), float(numbers.std()) or 1.0
        named = [repr(float(each)) for each in (numbers - self.mean_) / self.scale_]
        return self._fit(Texts(texts, named), "regression", others)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """(texts,)."""
        check_is_fitted(self)
        found = probabilities(self.model_, self.tokenizer_, _texts(X))[:, 0]
        return np.asarray(self.mean_ + self.scale_ * found.astype(np.float64))


def _are_classes(labels: NDArray[Any]) -> bool:
    """Whether labels are names or whole numbers, none of them missing."""
    if labels.dtype.kind == "f":
        return bool((np.isfinite(labels) & (labels == np.rint(labels))).all())
    kinds: tuple[Any, ...] = (str, (int, np.integer, np.bool_))
    return labels.dtype.kind != "O" or any(all(isinstance(each, kind) for each in labels) for kind in kinds)


def _texts(X: Any) -> list[str]:
    """X as a list of texts. Raises ValueError for anything else."""
    if isinstance(X, str | bytes):
        raise ValueError(f"TextClassifier: X is one {type(X).__name__}, allowed is an iterable of texts")
    found: Sequence[Any] = X.tolist() if hasattr(X, "tolist") else list(X)
    odd = next((each for each in found if not isinstance(each, str)), None)
    if odd is not None or not found:
        what = f"a {type(odd).__name__} among X" if found else "no text"
        raise ValueError(f"TextClassifier: {what}, allowed are texts, at least one")
    return list(found)
