"""Text classifiers by how many labels they have: TF-IDF, MLP, LSTM from scratch, ULMFiT; accuracy, time, size, latency.

ulmfit.py DATA OUT [--labels 100,500,5000,all] [--seeds 0,1,2,3,4] [--systems tfidf,mlp,lstm,ulmfit] [--ablate 500]
          [--steps 8000] [--general FOLDER] [--lm-epochs 25] [--pairs-epochs 6] [--classifier-steps 300]
          [--dtype bf16] [--picture-only]

DATA holds SST-2's files and the English ones (benchmarks/sst.py says which), and for ablations Multi30k's pairs. Every
result is a line of OUT/results.jsonl; what is there already is not computed again, so that the command goes on where it
was stopped, also within a stage of training. Seconds are of training alone, on labelled texts; those of the language
models, which all runs share, stand in OUT/language.json. Latency is of one sentence after the other, the median of 100.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sst
from ulmfit_picture import draw
from ulmfit_translation import pretrained

from pyllm import MLP, data, text
from pyllm.auto import AutoModelForCausalLM, AutoTokenizer, new_model
from pyllm.data.labelled import Pieces, Texts, encoded
from pyllm.evaluate.baseline import fit_baseline
from pyllm.evaluate.metrics import scores
from pyllm.evaluate.texts import probabilities
from pyllm.ops import cross_entropy
from pyllm.optim import AdamW
from pyllm.train import Learner, ProgressBar, Recipe, TrainingArguments
from pyllm.train.language import pretrain
from pyllm.train.learner import RECIPES
from pyllm.train.texts import TextSettings, learn_texts

SIZES = {"embedding_size": 256, "hidden_size": 512, "num_hidden_layers": 2}
DROPPED = {"output_p": 0.05, "hidden_p": 0.05, "input_p": 0.05, "embed_p": 0.02, "weight_p": 0.1}
VOCABULARY, TERMS = 20000, 5000  # words, since byte pairs cut what reviewers say into pieces; the MLP's inputs
LM_RATE, LM_BATCH = 4e-3, 32  # over the unlabelled sentences
LM_DROPPED = 2.0  # times the dropouts above, since 120,000 words are seen many times
BATCH = 32  # of a classifier
# Rate, times the dropouts above, dropout of the head: the best with 500 labels, by 1,000 other sentences to learn from.
PRETRAINED, SCRATCH = (1e-2, 4.0, 0.6), (4e-3, 2.0, 0.1)
EPOCHS = 3  # at least, where there are many labels
FULL = replace(RECIPES["ulmfit"], layer_divisor=1.6)  # not 2.6: the embedding has to learn what is liked
LM_RECIPE = Recipe(1.0, FULL.schedule, False)  # the embedding, too, at the full rate: what reviewers like is new to it
ABLATIONS: dict[str, dict[str, Any]] = {
    "no discriminative rates": {"recipe": replace(FULL, layer_divisor=1.0)},
    "no slanted triangle": {"recipe": replace(FULL, schedule="constant")},
    "no gradual unfreezing": {"recipe": replace(FULL, gradual=False)},
    "none of the three": {"recipe": Recipe(1.0, "constant", False)},
    "no target language model": {"source": "general"},
    "no general language model": {"source": "target-alone"},
    "pretraining by translation": {"source": "translation"},
    "pretraining by next word, same sentences": {"source": "next-word"},
    "that net from scratch": {"source": "next-word", "recipe": "plain", "new": True},
}

Rows = list[tuple[str, int]]


class Said(NamedTuple):
    """What a system learned: classes of texts, and how much it holds."""

    classes: Callable[[list[str]], np.ndarray]
    parameters: int
    nbytes: int


def language_models(args: argparse.Namespace, known: sst.Data) -> None:
    """OUT/general, OUT/target (general, then the reviews) and for ablations OUT/target-alone (reviews only) and what
    ulmfit_translation leaves."""
    out = args.out
    seconds = json.loads((out / "language.json").read_text()) if (out / "language.json").exists() else {}
    if not (out / "general" / "run.json").exists():
        start = time.time()
        if args.general is not None:
            shutil.copytree(args.general, out / "general", dirs_exist_ok=True)
        else:
            _general(args, known)
        seconds["general"] = time.time() - start
    tokenizer = AutoTokenizer.from_pretrained(out / "general")
    pieces = Pieces(encoded(tokenizer, [sentence for sentence, _ in known.sentences]), 64)
    for name in ("target", "target-alone") if args.ablate else ("target",):
        if (out / name / "done").exists():
            continue
        model = AutoModelForCausalLM.from_pretrained(out / "general", dtype="float32")
        if name == "target-alone":
            model = new_model(model.config)
        start = time.time()
        model.config = model.config.dropping(LM_DROPPED)
        a = _arguments(out / name, LM_RATE, 1, per_device_train_batch_size=LM_BATCH, bf16=args.dtype == "bf16")
        result = Learner(model, pieces, a, None, [ProgressBar()]).fit(args.lm_epochs, None, LM_RECIPE)
        model.config = model.config.dropping(1 / LM_DROPPED)
        model.eval().save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)
        seconds[name] = time.time() - start
        (out / name / "done").write_text(f"{result.loss}")
        (out / "language.json").write_text(json.dumps(seconds))
    if args.ablate:
        seconds |= pretrained(args, [sentence for sentence, _ in known.sentences])
        (out / "language.json").write_text(json.dumps(seconds))


def _general(args: argparse.Namespace, known: sst.Data) -> None:
    """A language model of general English, which knows the reviews' words by name alone."""
    out = args.out
    files = sst.general(args.data, out / "text")
    reviews = out / "reviews.txt"
    reviews.write_text("\n".join(sentence for sentence, _ in known.sentences), encoding="utf-8")
    text.train_files([*files, reviews], "word", vocab=VOCABULARY).save_pretrained(out / "tokenizer")
    if not (out / "shards").exists():
        data.prepare(files, out / "tokenizer", out / "shards", separator="blank", max_chars=10**9)
    a = _arguments(out / "general", 1e-2, 1, max_steps=args.steps, bf16=args.dtype == "bf16", save_steps=100)
    a = replace(a, lr_scheduler_type="one_cycle", eval_steps=400)
    pretrain("awd-lstm", SIZES | DROPPED, str(out / "shards"), a, 64, None, [ProgressBar()])


def _arguments(out: Path, rate: float, epochs: float, **more: Any) -> TrainingArguments:
    usual = {"per_device_train_batch_size": BATCH, "save_steps": 0, "save_total_limit": 1, "weight_decay": 0.05}
    return TrainingArguments(str(out), learning_rate=rate, num_train_epochs=epochs, **(usual | more))


def tfidf(rows: Rows, seed: int, args: argparse.Namespace, work: Path) -> Said:
    """Logistic regression on words and pairs of them."""
    found = fit_baseline([each for each, _ in rows], np.array([label for _, label in rows]))
    return Said(found.predict, found.weight.size, found.weight.nbytes + found.idf.nbytes)


def mlp(rows: Rows, seed: int, args: argparse.Namespace, work: Path) -> Said:
    """A dense net of 64 units on the TF-IDF of the most frequent terms."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+", max_features=TERMS)
    texts, targets = [each for each, _ in rows], np.array([label for _, label in rows])
    x = vectorizer.fit_transform(texts).astype(np.float32)
    model = MLP(x.shape[1], 64, 2).initialise(seed).train()
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    random = np.random.default_rng(seed)
    for _ in range(max(args.classifier_steps, EPOCHS * len(rows) // BATCH)):
        batch = random.integers(0, len(rows), BATCH)
        optimizer.zero_grad()
        cross_entropy(model(x[batch].toarray()), targets[batch]).backward()
        optimizer.step()
    model.eval()

    def classes(given: list[str]) -> np.ndarray:
        return np.asarray(model(vectorizer.transform(given).astype(np.float32).toarray())).argmax(axis=1)

    return Said(classes, model.num_parameters(), 4 * model.num_parameters())


def neural(
    rows: Rows,
    seed: int,
    args: argparse.Namespace,
    work: Path,
    source: str = "target",
    recipe: Recipe | str = FULL,
    new: bool = False,
) -> Said:
    """A classifier on the language model OUT/source; new: on random weights of its shape."""
    tokenizer = AutoTokenizer.from_pretrained(work.parent / source)
    model = AutoModelForCausalLM.from_pretrained(work.parent / source, dtype="float32")
    if new:
        model = new_model(model.config, seed)
    rate, drop_mult, dropout = SCRATCH if new else PRETRAINED
    epochs = max(float(EPOCHS), args.classifier_steps * BATCH / len(rows))
    if isinstance(recipe, Recipe):
        recipe = replace(recipe, thaw_epochs=max(1.0, epochs / 6))
    settings = TextSettings(recipe=recipe, lm_epochs=0, valid=0.0, drop_mult=drop_mult, dropout=dropout)
    texts = Texts([each for each, _ in rows], [str(label) for _, label in rows])
    a = _arguments(work, rate, epochs, per_device_train_batch_size=min(BATCH, len(rows)), seed=seed)
    a = replace(a, bf16=args.dtype == "bf16")
    model = learn_texts(model, tokenizer, texts, a, settings).model
    count = model.num_parameters()
    return Said(lambda given: probabilities(model, tokenizer, given).argmax(axis=1), count, 4 * count)


def scratch(rows: Rows, seed: int, args: argparse.Namespace, work: Path) -> Said:
    """The same classifier without any pretraining, everything learns from the first step."""
    return neural(rows, seed, args, work, recipe="plain", new=True)


SYSTEMS: dict[str, Callable[..., Said]] = {"tfidf": tfidf, "mlp": mlp, "lstm": scratch, "ulmfit": neural}


def one(
    system: str, labels: str, seed: int, known: sst.Data, args: argparse.Namespace, options: dict[str, Any]
) -> dict[str, Any]:
    """Learn and judge once."""
    random = np.random.default_rng([seed, 1])
    pool = known.phrases if labels == "all" else known.sentences
    chosen = random.permutation(len(pool))[: len(pool) if labels == "all" else int(labels)]
    work = args.out / f"{system}-{labels}-{seed}".replace(" ", "-")
    kind = SYSTEMS["ulmfit" if options else system]
    start = time.perf_counter()
    said = kind([pool[i] for i in chosen], seed, args, work, **options)
    seconds = time.perf_counter() - start
    texts, targets = [each for each, _ in known.test], np.array([label for _, label in known.test])
    found = scores(targets, said.classes(texts))
    times = []
    for each in texts[:100]:
        begin = time.perf_counter()
        said.classes([each])
        times.append(time.perf_counter() - begin)
    shutil.rmtree(work, ignore_errors=True)
    size = {"parameters": said.parameters, "bytes": said.nbytes}
    where = {"system": system, "labels": labels, "seed": seed}
    return where | found | {"seconds": seconds, "latency_ms": 1000 * statistics.median(times)} | size


def main() -> None:
    """Whatever is missing of the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", type=Path)
    add("out", type=Path)
    add("--labels", default="100,500,5000,all")
    add("--seeds", default="0,1,2,3,4")
    add("--systems", default=",".join(SYSTEMS))
    add("--ablate", default="", help="labels of the ablations, none unless said")
    add("--steps", type=int, default=8000, help="of the general language model, 2,048 tokens each")
    add("--lm-epochs", type=float, default=25.0, help="of the reviews' language")
    add("--pairs-epochs", type=float, default=6.0, help="of Multi30k's sentences, by translation and by next word")
    add("--dtype", choices=("bf16", "fp32"), default="bf16", help="fp32 is the faster where no AVX-512 is")
    add("--classifier-steps", type=int, default=300, help="of 32 texts, at least")
    add("--general", type=Path, help="a language model to begin with")
    add("--picture-only", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "results.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not args.picture_only:
        known = sst.split(sst.read(args.data))
        language_models(args, known)
        seeds = [int(seed) for seed in args.seeds.split(",")]
        wanted = [(labels, seed, system, dict[str, Any]()) for labels in args.labels.split(",") for seed in seeds
                  for system in args.systems.split(",")]  # fmt: skip
        for labels in filter(None, args.ablate.split(",")):
            wanted += [(labels, seed, name, each) for seed in seeds for name, each in ABLATIONS.items()]
        for labels, seed, system, options in wanted:
            if any((row["system"], row["labels"], row["seed"]) == (system, labels, seed) for row in done):
                continue
            done.append(one(system, labels, seed, known, args, options))
            print(json.dumps(done[-1]), flush=True)
            with path.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
    settings = {"sizes": SIZES, "recipe": asdict(FULL), **vars(args)}
    (args.out / "settings.json").write_text(json.dumps(settings, default=str))
    print(draw(done, list(SYSTEMS), args.out / "ulmfit.svg"))


if __name__ == "__main__":
    main()
