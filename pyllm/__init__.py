"""Run and train language models on CPUs: Python assembles, C++ runs, a model is defined once.

tok = pyllm.AutoTokenizer.from_pretrained("smollm2")
model = pyllm.AutoModelForCausalLM.from_pretrained("smollm2")
ids = model.generate(tok("The capital of France is", return_tensors="np").input_ids, max_new_tokens=32)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pyllm.errors import (
    ContextError,
    DataError,
    DoesNotFitError,
    ModelFileError,
    TemplateError,
    TokenizerError,
    TrainingError,
)

__version__ = "0.1.0"

# Name -> module, imported at first use: `import pyllm` costs little, and a verb only what it needs.
_LAZY = {
    "AsyncEngine": "pyllm.generate",
    "AutoConfig": "pyllm.auto",
    "AutoModel": "pyllm.auto.encoders",
    "AutoModelForCausalLM": "pyllm.auto",
    "AutoModelForImageClassification": "pyllm.auto.encoders",
    "AutoModelForMaskedLM": "pyllm.auto.encoders",
    "AutoModelForNextSentencePrediction": "pyllm.auto.encoders",
    "AutoModelForPreTraining": "pyllm.auto.encoders",
    "AutoModelForSequenceClassification": "pyllm.auto",
    "AutoModelForSeq2SeqLM": "pyllm.auto.pairs",
    "AutoModelForTokenClassification": "pyllm.auto.encoders",
    "AutoTokenizer": "pyllm.auto",
    "Chat": "pyllm.generate",
    "Engine": "pyllm.generate",
    "GenerationConfig": "pyllm.generate",
    "Learner": "pyllm.train",
    "MLP": "pyllm.models.mlp",
    "SentenceEncoder": "pyllm.evaluate.sentences",
    "Tensor": "pyllm.ops.arithmetic",  # which brings its operators
    "TextIteratorStreamer": "pyllm.generate",
    "TextStreamer": "pyllm.generate",
    "Trainer": "pyllm.train",
    "TrainingArguments": "pyllm.train",
    "Weight": "pyllm._core",
    "autocast": "pyllm.ops",
    "checkpoint": "pyllm.autograd",
    "convert": "pyllm.auto.convert",
    "data": "pyllm.data",
    "evaluate": "pyllm.evaluate",
    "fit_table": "pyllm.train.tabular",
    "formats": "pyllm.formats",
    "generate": "pyllm.generate",
    "nn": "pyllm.nn",
    "language_model_learner": "pyllm.train.text_learners",
    "no_grad": "pyllm.autograd",
    "open_table": "pyllm.train.table_files",
    "ops": "pyllm.ops",
    "optim": "pyllm.optim",
    "sklearn": "pyllm.sklearn",
    "pipeline": "pyllm.evaluate.pipelines",
    "quantize": "pyllm.formats.gguf_quantize",
    "text": "pyllm.text",
    "text_classifier_learner": "pyllm.train.text_learners",
    "trace": "pyllm.nn",
    "train": "pyllm.train",
}

__all__ = [
    "ContextError",
    "DataError",
    "DoesNotFitError",
    "ModelFileError",
    "TemplateError",
    "TokenizerError",
    "TrainingError",
    "__version__",
    *sorted(_LAZY),
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'pyllm' has no attribute {name!r}")
    module = import_module(_LAZY[name])
    return module if _LAZY[name] == f"pyllm.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
