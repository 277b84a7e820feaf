"""How often what a trained model says is right, where several answers are, or where it should say no more than that.

judge.py words RUN DICTIONARY TEST.tsv    grapheme to phoneme: word and phoneme error rates, beside the nearest
                                          pronunciation of each word; DICTIONARY and TEST.tsv as benchmarks/corpora.py
judge.py chats MODEL TEST.jsonl [--adapter FOLDER] [--count 200]    answers that are the wanted ones, letter for letter
judge.py pairs RUN TEST.tsv [--beam 1]    of pairs whose targets are names of classes: what is said letter for letter
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from corpora import pronunciations

LONGEST = 48  # tokens of an answer


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Insertions, deletions and replacements from one to the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def words(args: argparse.Namespace) -> dict[str, Any]:
    """Word error rate: no pronunciation of the word was said; phoneme error rate: the fewest edits by their length."""
    from pyllm import AutoModelForSeq2SeqLM, AutoTokenizer
    from pyllm.evaluate.translation import translate

    known = pronunciations(args.dictionary)
    lines = args.test.read_text(encoding="utf-8").splitlines()
    chosen = list(dict.fromkeys(line.split("\t")[0].replace(" ", "") for line in lines))
    model = AutoModelForSeq2SeqLM.from_pretrained(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    wrong = edits = phonemes = 0
    found = translate(model, tokenizer, [" ".join(word) for word in chosen], args.beam, max_new_tokens=LONGEST)
    for word, best in zip(chosen, found, strict=True):
        said = best[0].text.split()
        cost, length = min((distance(said, each.split()), len(each.split())) for each in known[word])
        wrong, edits, phonemes = wrong + (cost > 0), edits + cost, phonemes + length
    return {"words": len(chosen), "word_error_rate": wrong / len(chosen), "phoneme_error_rate": edits / phonemes}


def chats(args: argparse.Namespace) -> dict[str, Any]:
    """Of single questions: answers equal to the wanted ones, how many of these were said at all, and their length."""
    from pyllm import AutoModelForCausalLM, AutoTokenizer

    records = [json.loads(line)["messages"] for line in args.test.read_text(encoding="utf-8").splitlines()]
    records = records[: args.count]
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model)
    if args.adapter is not None:
        model.load_adapter(str(args.adapter), "learned")
    prompts = [list(tokenizer.apply_chat_template(each[:-1], add_generation_prompt=True)) for each in records]
    out = model.generate(prompts, max_new_tokens=LONGEST, do_sample=False)
    longest = max(map(len, prompts))
    said = [tokenizer.decode(row[longest:], skip_special_tokens=True).strip() for row in out]
    wanted = [each[-1]["content"] for each in records]
    equal = np.mean([a.lower() == b.lower() for a, b in zip(said, wanted, strict=True)])
    held = np.mean([b.lower() in a.lower() for a, b in zip(said, wanted, strict=True)])
    length = float(np.median([len(text.split()) for text in said]))
    return {"chats": len(said), "equal": float(equal), "contained": float(held), "median_words": length}


def pairs(args: argparse.Namespace) -> dict[str, Any]:
    """Accuracy, Matthews' correlation where what is no class is a class of its own, and the share of the commonest."""
    from pyllm import AutoModelForSeq2SeqLM, AutoTokenizer
    from pyllm.evaluate.metrics import scores
    from pyllm.evaluate.translation import translate

    rows = [line.split("\t") for line in args.test.read_text(encoding="utf-8").splitlines()]
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(args.model), AutoTokenizer.from_pretrained(args.model)
    found = translate(model, tokenizer, [row[0] for row in rows], args.beam, max_new_tokens=LONGEST)
    said, names = [best[0].text for best in found], sorted({row[1] for row in rows})
    numbers = {name: i for i, name in enumerate(names)}
    wanted = np.array([numbers[row[1]] for row in rows])
    answers = np.array([numbers.get(text, len(names)) for text in said])
    facts = {"pairs": len(rows), **scores(wanted, answers, ("accuracy", "mcc"))}
    counts = {name: int((answers == i).sum()) for name, i in [*numbers.items(), ("no class", len(names))]}
    return facts | {"commonest": float(np.bincount(wanted).max() / len(rows)), "said": counts}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    one = parts.add_parser("words")
    one.add_argument("model")
    one.add_argument("dictionary", type=Path)
    one.add_argument("test", type=Path)
    one.add_argument("--beam", type=int, default=4)
    two = parts.add_parser("chats")
    two.add_argument("model")
    two.add_argument("test", type=Path)
    two.add_argument("--adapter", type=Path)
    two.add_argument("--count", type=int, default=200)
    three = parts.add_parser("pairs")
    three.add_argument("model")
    three.add_argument("test", type=Path)
    three.add_argument("--beam", type=int, default=1)
    args = parser.parse_args()
    start = time.monotonic()
    found = {"words": words, "chats": chats, "pairs": pairs}[args.what](args)
    print(json.dumps(found | {"seconds": round(time.monotonic() - start, 1)}, indent=1))


if __name__ == "__main__":
    main()
