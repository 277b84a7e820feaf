"""Text classification as a scikit-learn estimator; scikit-learn is the extra `pyllm[sklearn]`.

    from pyllm.sklearn import TextClassifier
    TextClassifier(epochs=4).fit(texts, y).predict_proba(texts)
    cross_val_score(TextClassifier("runs/general", recipe="ulmfit"), texts, y)
    GridSearchCV(TextClassifier("bert-base-uncased"), {"learning_rate": [2e-5, 1e-4]}).fit(texts, y)
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
from pyllm.evaluate.texts import probabilities
from pyllm.train import TrainingArguments
from pyllm.train.split import Learned
from pyllm.train.texts import RATES, TextSettings, is_recurrent, learn_pretrained, learn_texts, save_texts

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError:
    raise ImportError("pyllm.sklearn: scikit-learn is not there: pip install pyllm[sklearn]") from None


class TextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classifies texts (an iterable of str) by a language model or an encoder with a head.

    pretrained: a folder, file or name of a language model or of an encoder (BERT and its relatives), which
    takes recipe and lm_epochs alone of the next; None: a new one, family "lstm" (or "gru", "rnn",
    "awd-lstm") of embedding_size, hidden_size and num_hidden_layers, with `vocab` byte pairs learned from the texts.
    recipe, lm_epochs, drop_mult, pooling: see pyllm.train.texts.TextSettings; a new model has no lm_epochs and is
    "plain" unless said. epochs of at least min_steps steps of batch_size texts, AdamW at learning_rate (None: 4e-3 of
    recurrent models, 1e-4 of others) with weight_decay. random_state: of weights, order and dropout: the same one gives
    the same bytes. output_dir: where checkpoints stay, so that a fit that was interrupted goes on; None: nowhere.

    After fit: classes_, model_, tokenizer_. Raises ValueError for X that are no texts, y that are no classes, and one
    class only.
    """

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
        pooling: str = "concat",
        epochs: float = 4.0,
        min_steps: int = 200,
        batch_size: int = 32,
        learning_rate: float | None = None,
        weight_decay: float = 0.1,
        random_state: int = 0,
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
        self.pooling = pooling
        self.epochs = epochs
        self.min_steps = min_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state
        self.output_dir = output_dir

    def fit(self, X: Any, y: Any) -> TextClassifier:
        """Learn the labels y (texts,) of X. Raises ValueError."""
        texts, labels = _texts(X), np.asarray(y)
        if labels.shape != (len(texts),):
            raise ValueError(f"TextClassifier: y {labels.shape} for {len(texts)} texts, allowed is a label for each")
        if not _are_classes(labels):
            odd = f"{labels.dtype} {labels[:3].tolist()} ..."
            raise ValueError(f"TextClassifier: Unknown label type: {odd}, allowed are texts or whole numbers alone")
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"TextClassifier: one class only: {self.classes_.tolist()}; two classes or more")
        rows = Texts(texts, [f"{number}" for number in numbers])
        with tempfile.TemporaryDirectory() if self.output_dir is None else nullcontext(self.output_dir) as folder:
            found, tokenizer = self._learned(rows, os.fspath(folder))
        if not found.result.complete:
            raise KeyboardInterrupt
        self.model_, self.tokenizer_ = found.model, tokenizer
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """(texts, classes), in the order of classes_; rows sum to 1."""
        check_is_fitted(self)
        return probabilities(self.model_, self.tokenizer_, _texts(X))

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each text."""
        said = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_)[said]

    def _learned(self, rows: Texts, folder: str) -> tuple[Learned, Any]:
        """What came of learning, and the tokenizer."""
        new = self.pretrained is None
        name = "" if self.pretrained is None else os.fspath(self.pretrained)
        rate = RATES[new or is_recurrent(name)] if self.learning_rate is None else self.learning_rate
        settings = TextSettings(
            recipe=self.recipe or ("plain" if new else "ulmfit"),
            lm_epochs=self.lm_epochs if self.lm_epochs is not None else 0.0 if new else 1.0,
            lm_lr=rate,
            drop_mult=self.drop_mult,
            valid=0.0,
            pooling=self.pooling,
        )
        arguments = self._arguments(folder, len(rows.texts), rate)
        if new:
            model, tokenizer = self._new(rows.texts)
            return learn_texts(model, tokenizer, rows, arguments, settings), tokenizer
        tokenizer = AutoTokenizer.from_pretrained(name)
        return learn_pretrained(name, tokenizer, rows, arguments, settings), tokenizer

    def _new(self, texts: list[str]) -> tuple[Any, Any]:
        tokenizer = text.train(texts, "bpe", vocab=self.vocab)
        sizes = {name: getattr(self, name) for name in ("embedding_size", "hidden_size", "num_hidden_layers")}
        config = new_config(self.family, **sizes, vocab_size=tokenizer.vocab_size)
        return new_model(config, self.random_state), tokenizer

    def _arguments(self, folder: str, texts: int, rate: float) -> TrainingArguments:
        batch = min(self.batch_size, texts)
        return TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch,
            num_train_epochs=max(self.epochs, self.min_steps * batch / texts),
            learning_rate=rate,
            weight_decay=self.weight_decay,
            save_steps=0,
            save_total_limit=1,
            seed=self.random_state,
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
