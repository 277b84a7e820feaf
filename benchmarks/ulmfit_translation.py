"""What a classifier may begin with beside a language model: an encoder that translates. McCann et al. 2017,
arXiv:1708.00107 (CoVe).

The same LSTM of 2 x 512 reads the same English sentences of Multi30k, the same number of times: once to say them in
German, with a decoder and attention, once to say each next word. OUT/translation and OUT/next-word then hold two
language models that differ in nothing but what their embedding and layers have learned.
"""

from __future__ import annotations

import gzip
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyllm import text
from pyllm.auto import AutoTokenizer, new_config, new_model
from pyllm.auto.pairs import AutoModelForSeq2SeqLM
from pyllm.data.labelled import Pieces, encoded
from pyllm.train import Learner, ProgressBar, TrainingArguments
from pyllm.train.pairs import learn_pairs

SIZES = {"cell": "lstm", "embedding_size": 256, "hidden_size": 512}
LAYERS, DROPOUT, LENGTH, BATCH, RATE = 2, 0.3, 64, 128, 2e-3
SIDES = ("m30k.train.en.gz", "m30k.train.de.gz")
VOCABULARY = 8192


def pretrained(args: Namespace, sentences: list[str]) -> dict[str, float]:
    """Seconds of whichever of the two was not there; args are ulmfit.py's. sentences: what the tokenizer learns from
    beside the pairs."""
    folder, out, epochs = args.data, args.out, args.pairs_epochs
    if not (out / "pairs-tokenizer").exists():
        (out / "reviews.txt").write_text("\n".join(sentences), encoding="utf-8")
        files = [folder / name for name in SIDES] + [out / "reviews.txt"]
        text.train_files(files, "bpe", vocab=VOCABULARY).save_pretrained(out / "pairs-tokenizer")
    told = TrainingArguments(str(out), learning_rate=RATE, num_train_epochs=epochs, per_device_train_batch_size=BATCH)
    told = replace(
        told, weight_decay=0.01, warmup_steps=100, save_steps=200, save_total_limit=1, bf16=args.dtype == "bf16"
    )
    seconds = {}
    for name, learn in (("translation", _translation), ("next-word", _next_word)):
        if not (out / name / "done").exists():
            start = time.time()
            loss = learn(folder, out, replace(told, output_dir=str(out / name)))
            seconds[name] = time.time() - start
            AutoTokenizer.from_pretrained(out / "pairs-tokenizer").save_pretrained(out / name)
            (out / name / "done").write_text(f"{loss}")
    return seconds


def _translation(folder: Path, out: Path, told: TrainingArguments) -> float:
    """The encoder of a translator, as a language model whose head has learned nothing."""
    told = replace(told, output_dir=str(out / "translator"))
    fields = SIZES | {"num_layers": LAYERS, "dropout": DROPOUT, "bidirectional": False, "label_smoothing": 0.1}
    pairs, tokenizer = [str(folder / name) for name in SIDES], str(out / "pairs-tokenizer")
    result = learn_pairs("seq2seq", fields, pairs, tokenizer, told, LENGTH, None, [ProgressBar()])
    known = AutoModelForSeq2SeqLM.from_pretrained(out / "translator").state_dict()
    model = new_model(_reader(out))
    kept = {"encoder.weight": known["source_embedding.weight"]}
    kept |= {f"rnn.{name[8:]}": array for name, array in known.items() if name.startswith("encoder.")}
    model.load_state_dict(model.state_dict() | kept)
    model.save_pretrained(out / "translation")
    return float(result.loss)


def _next_word(folder: Path, out: Path, told: TrainingArguments) -> float:
    """A language model of the English sentences."""
    with gzip.open(folder / SIDES[0], "rt", encoding="utf-8") as file:
        lines = [line.strip() for line in file if line.strip()]
    model = new_model(_reader(out))
    pieces = Pieces(encoded(AutoTokenizer.from_pretrained(out / "pairs-tokenizer"), lines), LENGTH)
    result = Learner(model, pieces, told, None, [ProgressBar()]).fit(recipe="plain")
    model.eval().save_pretrained(out / "next-word")
    return float(result.loss)


def _reader(out: Path) -> Any:
    size = AutoTokenizer.from_pretrained(out / "pairs-tokenizer").vocab_size
    return new_config("lstm", vocab_size=size, num_hidden_layers=LAYERS, dropout=DROPOUT, **SIZES)
