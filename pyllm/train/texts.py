"""Text classification through the whole procedure: a language model, the texts' language, then their classes.

ULMFiT is this on an AWD-LSTM; each of its steps works for every family (Howard, Ruder 2018, arXiv:1801.06146).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pyllm import _core
from pyllm.auto import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from pyllm.auto.classifiers import head_of, is_decoders, save_classifier
from pyllm.data import Labelled, Pieces, fingerprint
from pyllm.data.labelled import Texts, encoded
from pyllm.data.problems import PROBLEMS, known_classes
from pyllm.formats import download
from pyllm.formats.writing import Staging
from pyllm.models.classifier import ClassifierConfig, TextClassifier
from pyllm.nn import LoraConfig
from pyllm.train.adapting import adapt, longest_of, refuse_adapted, refuse_unless_adapts, save, save_tokenizer
from pyllm.train.arguments import TrainingArguments
from pyllm.train.callbacks import Callback
from pyllm.train.encoder_texts import learn_encoder_texts
from pyllm.train.language import written
from pyllm.train.learner import RECIPES, Learner, Recipe
from pyllm.train.split import Learned, Split, Tell, posed
from pyllm.train.trainer import Result

RATES = {True: 4e-3, False: 1e-4}  # learning rates where none is said: of recurrent models, of others
MEASURED = 1000  # texts by which the head's scale begins
LANGUAGE = "lm"  # folder of the language model's stage below a run's


@dataclass(frozen=True)
class TextSettings:
    """How texts are learned. recipe: a name or Recipe as Learner.fit takes them. lm_epochs: passes of the language
    model over the texts before classes are learned, 0 for none, at lm_lr; a text without a label counts here.
    lm_context: its longest piece. drop_mult: times an AWD-LSTM's dropouts. valid: share of the labelled texts held out,
    equal texts together, 0 for none. problem: what labels are: "single_label", "multi_label", "regression"; None: as
    they look, see problems.problem_of. classes: their names in order, None: those that labels name. Others: see
    ClassifierConfig.
    """

    recipe: str | Recipe = "ulmfit"
    lm_epochs: float = 1.0
    lm_lr: float = 4e-3
    lm_context: int = 128
    drop_mult: float = 1.0
    valid: float = 0.1
    problem: str | None = None
    classes: Sequence[str] | None = None
    pooling: str = "concat"
    hidden: int = 50
    dropout: float = 0.1
    bptt: int = 72
    max_len: int = 1440

    def __post_init__(self) -> None:
        if isinstance(self.recipe, str) and self.recipe not in RECIPES:
            raise ValueError(f"texts: recipe is {self.recipe!r}, allowed are {', '.join(RECIPES)}, or a Recipe")
        if self.problem not in (None, *PROBLEMS):
            raise ValueError(f"texts: problem is {self.problem!r}, allowed are {', '.join(PROBLEMS)}")
        for name, low, high in (("lm_epochs", 0, 1e6), ("lm_lr", 0, 1e3), ("lm_context", 1, 1e9), ("valid", 0, 0.99)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"texts: {name} is {getattr(self, name)}, allowed are {low} to {high:g}")


def finetune_texts(
    name: str,
    rows: Texts,
    arguments: TrainingArguments,
    settings: TextSettings | None = None,
    callbacks: Sequence[Callback] = (),
    tell: Tell = lambda stage, text: None,
    lora: LoraConfig | None = None,
) -> Learned:
    """A pretrained language model or encoder, by name, file or folder, learns to classify texts; the folder is written
    at the end: of an encoder Hugging Face's, of which settings take recipe, lm_... and valid.

    lora: the model stays as it is stored, an adapter and the head learn, and the folder is PEFT's; lm_epochs is 0, and
    of a decoder the head one matrix on the last token, as transformers has it.
    Raises DataError for labels of one class alone and the like, DoesNotFitError, TrainingError, ValueError.
    """
    tokenizer = AutoTokenizer.from_pretrained(name)
    learned = learn_pretrained(name, tokenizer, rows, arguments, settings or TextSettings(), callbacks, tell, lora)
    if learned.result.complete:
        save_texts(learned.model, tokenizer, arguments.output_dir)
    return learned


def save_texts(model: Any, tokenizer: Any, folder: str) -> None:
    """Write a classifier of texts and its tokenizer; AutoModelForSequenceClassification opens it."""
    if isinstance(model, TextClassifier):
        save_classifier(model, folder)
    else:
        save(model, folder)
    save_tokenizer(model, tokenizer, folder)


def learn_pretrained(
    name: str,
    tokenizer: Any,
    rows: Texts,
    arguments: TrainingArguments,
    settings: TextSettings,
    callbacks: Sequence[Callback] = (),
    tell: Tell = lambda stage, text: None,
    lora: LoraConfig | None = None,
) -> Learned:
    """As finetune_texts, with the tokenizer at hand; nothing but the stages' checkpoints is written."""
    if head_of(download.resolve(name)):
        return learn_encoder_texts(name, tokenizer, rows, arguments, settings, callbacks, tell, lora)
    dtype, begun = "float32" if lora is None else "auto", None
    if is_decoders(download.resolve(name)):
        begun = AutoModelForSequenceClassification.from_pretrained(name, dtype=dtype)
        settings = replace(settings, classes=settings.classes or known_classes(rows.labels, begun.config.classes))
    model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype) if begun is None else begun.trunk
    refuse_adapted(name, model)
    return learn_texts(model, tokenizer, rows, arguments, settings, callbacks, tell, {"from": name}, lora, begun)


def usual_epochs(name: str, lora: Any = None) -> float:
    """lm_epochs where none is said: 0 of an adapter, and of a decoder that tells classes, which has no head of words.
    Raises ModelFileError."""
    return 0.0 if lora is not None or is_decoders(download.resolve(name)) else 1.0


def _as_transformers_has_it(settings: TextSettings) -> TextSettings:
    """The head of a decoder in transformers' and PEFT's folders: one matrix on the last row. Raises ValueError."""
    if settings.lm_epochs or settings.pooling not in ("last", "concat"):
        found = f"lm_epochs {settings.lm_epochs:g}, pooling {settings.pooling} with lora or a head of transformers"
        raise ValueError(f"texts: {found}; allowed are 0 and last")
    return replace(settings, pooling="last", hidden=0, dropout=0.0)


def is_recurrent(name: str) -> bool:
    """Whether a pretrained model, by name, file or folder, is an RNN, LSTM or GRU. Raises ModelFileError."""
    return type(AutoConfig.from_pretrained(name)).__module__.endswith((".rnn", ".ulmfit"))


def learn_texts(
    model: Any,
    tokenizer: Any,
    rows: Texts,
    arguments: TrainingArguments,
    settings: TextSettings,
    callbacks: Sequence[Callback] = (),
    tell: Tell = lambda stage, text: None,
    facts: dict[str, Any] | None = None,
    lora: LoraConfig | None = None,
    begun: TextClassifier | None = None,
) -> Learned:
    """As finetune_texts, with a model and tokenizer at hand; nothing but the stages' checkpoints is written.

    begun: a classifier of this model, in transformers' form, whose head learns on where it has as many classes. Each
    stage goes on where it was interrupted when all is called again with the same arguments.
    """
    if lora is not None or begun is not None:
        settings = _as_transformers_has_it(settings)
    if hasattr(model.config, "dropping"):
        model.config = model.config.dropping(settings.drop_mult)
    found = posed(rows, settings.problem, settings.classes, settings.valid, arguments.seed, tell)
    sides = found.sides(rows.texts)
    shape = {name: getattr(settings, name) for name in ("pooling", "hidden", "dropout", "bptt", "max_len")}
    config = ClassifierConfig(tuple(found.classes), **shape, problem_type=found.problem)
    if begun is not None:
        config = replace(begun.config, classes=config.classes, problem_type=found.problem)
    about = dict(facts or {}) | {"config": asdict(model.config), "tokenizer": fingerprint(tokenizer)}
    about["settings"] = {"drop_mult": settings.drop_mult}
    if lora is not None:
        about |= adapt(model, lora, arguments.seed)
    if settings.lm_epochs:
        seen = [text for i, text in enumerate(rows.texts) if i not in found.held]
        result = _language(model, Pieces(encoded(tokenizer, seen), settings.lm_context, arguments.seed), arguments,
                           settings, callbacks, about, tell)  # fmt: skip
        if not result.complete:
            return Learned(TextClassifier(model, config), result, *sides)
    data, valid = (_samples(tokenizer, side, arguments.seed, config.framed) for side in sides)
    assert data is not None
    if lora is not None:
        refuse_unless_adapts(str(about.get("from")), model, arguments, longest_of(data.texts, arguments))
    classifier = TextClassifier(model, config, arguments.seed)
    if begun is not None and begun.config.num_labels == config.num_labels:
        classifier.head.score.weight.take(begun.head.score.weight.array())
    classifier.standardise(data.texts[:MEASURED], arguments.seed)
    about["settings"] |= asdict(config) | {"lm_epochs": settings.lm_epochs, "lm_lr": settings.lm_lr}
    learner = Learner(classifier, data, arguments, valid, callbacks, about | {"data": data.identity})
    tell("classes", f"{learner.groups} groups of layers, {classifier.num_parameters():,} parameters")
    result = learner.fit(recipe=settings.recipe)
    return Learned(classifier.eval(), result, *sides)


def write_facts(
    learned: Learned, arguments: TrainingArguments, settings: TextSettings, command: str, scores: dict[str, Any]
) -> None:
    """Write run.json beside the classifier. Raises ModelFileError."""
    model = learned.model
    trunk = getattr(model, "trunk", model)
    about = {
        "model": f"TextClassifier of {type(trunk).__name__}",
        "config": written(trunk.config) | written(model.config),
        "parameters": model.num_parameters(),
        "trained": model.num_parameters(only_trainable=True),
        "arguments": asdict(arguments) | {"texts": asdict(settings)},
        "command": command,
        "machine": {"threads": _core.threads(), "isa": _core.isa()},
        "texts": {"learned": len(learned.train.texts), "held_out": len(learned.held_out.texts)},
        "scores": scores,
    }
    with Staging(arguments.output_dir, 1 << 20) as staging, staging.create("run.json") as file:
        file.write((json.dumps(about, indent=1, default=str) + "\n").encode())


def _language(
    model: Any, data: Pieces, a: TrainingArguments, s: TextSettings, calls: Any, facts: dict[str, Any], tell: Tell
) -> Result:
    """The language model's own stage: all layers at once, with the rates of the recipe."""
    found = RECIPES[s.recipe] if isinstance(s.recipe, str) else s.recipe
    tell("language", f"{sum(len(piece) - 1 for piece in data.pieces):,} tokens, {s.lm_epochs:g} times")
    a = replace(a, output_dir=os.path.join(a.output_dir, LANGUAGE), max_steps=0, eval_steps=0)
    learner = Learner(model, data, a, None, calls, facts | {"data": data.identity})
    return learner.fit(s.lm_epochs, s.lm_lr, replace(found, gradual=False))


def _samples(tokenizer: Any, side: Split, seed: int, framed: bool) -> Labelled | None:
    return Labelled(encoded(tokenizer, side.texts, framed), side.targets, seed) if side.texts else None
