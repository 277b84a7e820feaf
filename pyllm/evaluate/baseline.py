"""What stands beside every text classifier: TF-IDF of words and pairs of words, logistic regression, scikit-learn's."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyllm.errors import ModelFileError
from pyllm.formats.json_file import load_json
from pyllm.formats.safetensors import SafeTensors
from pyllm.formats.safetensors_writer import write_safetensors
from pyllm.formats.writing import Staging, tensor_of

TERMS, WEIGHTS = "baseline.json", "baseline.safetensors"
NAME = "TF-IDF + logistic regression"
MISSING = "scikit-learn is not there: pip install pyllm[sklearn]"
_LONGEST = 1 << 28


class Baseline:
    """Terms, their inverse document frequencies (terms,), and a weight (classes or 1, terms + 1), the bias last."""

    def __init__(self, terms: list[str], idf: NDArray[np.float32], weight: NDArray[np.float32]) -> None:
        self.terms, self.idf, self.weight = terms, idf, weight

    def predict(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The number of the likeliest class of each text."""
        vectorizer = _vectorizer(vocabulary={term: i for i, term in enumerate(self.terms)})
        vectorizer.idf_ = self.idf.astype(np.float64)
        x = vectorizer.transform(texts)
        found = np.asarray(x @ self.weight[:, :-1].T.astype(np.float64)) + self.weight[:, -1]
        return (found[:, 0] > 0).astype(np.int64) if found.shape[1] == 1 else found.argmax(axis=1)

    def save(self, folder: str) -> None:
        """Into a run's folder. Raises ModelFileError."""
        arrays = {"idf": self.idf, "weight": self.weight}
        tensors = [tensor_of(name, array) for name, array in arrays.items()]
        with Staging(folder, sum(each.nbytes for each in tensors)) as staging:
            with staging.create(WEIGHTS) as file:
                write_safetensors(file, tensors)
            with staging.create(TERMS) as file:
                file.write(json.dumps(self.terms, ensure_ascii=False).encode())


def fit_baseline(texts: Sequence[str], targets: NDArray[np.int64]) -> Baseline:
    """Learn texts (of two classes or more). Raises ImportError without scikit-learn, ValueError for no word."""
    vectorizer = _vectorizer()
    from sklearn.linear_model import LogisticRegression

    x = vectorizer.fit_transform(texts)
    found = LogisticRegression(C=10.0, max_iter=1000).fit(x, targets)
    weight = np.concatenate([found.coef_, found.intercept_[:, None]], axis=1).astype(np.float32)
    terms = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.get)
    return Baseline(terms, vectorizer.idf_.astype(np.float32), weight)


def open_baseline(folder: str) -> Baseline | None:
    """The baseline of a run's folder, None where it has none. Raises ModelFileError."""
    path = os.path.join(folder, TERMS)
    if not os.path.exists(path):
        return None
    terms = load_json(path, _LONGEST)
    if not isinstance(terms, list) or not all(isinstance(term, str) for term in terms) or len({*terms}) != len(terms):
        raise ModelFileError(path, "", None, "no list of different texts", "the terms of a baseline")
    with SafeTensors(os.path.join(folder, WEIGHTS)) as file:
        found = {}
        for name, width in (("idf", 1), ("weight", 2)):
            info = file.tensors.get(name)
            last = len(terms) + (name == "weight")
            if info is None or info.dtype != "F32" or len(info.shape) != width or info.shape[-1] != last:
                allowed = f"F32 for {len(terms)} terms"
                raise ModelFileError(file.path, name, None, "missing or of another shape", allowed)
            found[name] = file.read(info).view("<f4").reshape(info.shape)
    return Baseline(terms, found["idf"], found["weight"])


def _vectorizer(**options: Any) -> Any:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError:
        raise ImportError(MISSING) from None
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+", **options)
