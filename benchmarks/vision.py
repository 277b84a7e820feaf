"""Transfer in vision: ViT pretrained on eight classes of Fashion-MNIST, then two others from few pictures of each.

Run: python benchmarks/vision.py FOLDER --out build/vision; FOLDER holds train-images-idx3-ubyte.gz, its labels, and the
same of t10k (Debian's dataset-fashion-mnist). Prints a line for each number of pictures: accuracy on the two classes of
the test set, mean and deviation over seeds, fine-tuned and from scratch, the same steps and the best of the same rates,
which is chosen on pictures that are neither learned nor tested. vision.json has every run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import pyllm
from pyllm.auto.encoders import AutoModelForImageClassification
from pyllm.auto.new import new_config
from pyllm.data.permutation import permute

NEW = (5, 7)  # sandal and sneaker, which none of the others is like, and which are like each other
SIZES = {"image_size": 28, "patch_size": 4, "num_channels": 1, "hidden_size": 96, "num_hidden_layers": 4}
SIZES |= {"num_attention_heads": 4, "intermediate_size": 384, "hidden_dropout_prob": 0.1}
RATES, COUNTS, BATCH, JUDGED = (3e-4, 1e-3), (4, 16, 64, 256), 64, 500


class Pictures:
    """Pictures (n, 1, 28, 28) float32 and classes, in another order each epoch."""

    def __init__(self, pixels: np.ndarray, classes: np.ndarray, seed: int = 0) -> None:
        self.pixels, self.classes, self.seed = pixels, classes, seed

    def __len__(self) -> int:
        return len(self.classes)

    def batch(self, position: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(pictures, classes, where each begins)."""
        places = np.arange(position, position + size)
        rows = [permute(np.array([p % len(self)]), len(self), self.seed, p // len(self))[0] for p in places.tolist()]
        return self.pixels[rows], self.classes[rows], np.arange(size + 1, dtype=np.int32)

    def of(self, classes: tuple[int, ...], first: int = 0, count: int | None = None) -> Pictures:
        """Those of some classes, numbered anew; of each `count` from its first-th on."""
        rows = [np.flatnonzero(self.classes == each)[first:][:count] for each in classes]
        numbers = np.concatenate([np.full(len(row), i) for i, row in enumerate(rows)])
        return Pictures(self.pixels[np.concatenate(rows)], numbers, self.seed)


def read(folder: Path, name: str) -> Pictures:
    """A part of the data set. Raises ValueError for files of another kind."""
    parts = []
    for kind, dimensions in (("images-idx3", 3), ("labels-idx1", 1)):
        data = gzip.decompress((folder / f"{name}-{kind}-ubyte.gz").read_bytes())
        header = np.frombuffer(data, ">u4", 1 + dimensions)
        if header[0] != 0x800 + dimensions or len(data) != 4 * len(header) + int(np.prod(header[1:])):
            raise ValueError(f"{folder}/{name}-{kind}-ubyte.gz: no IDX file of bytes in {dimensions} dimensions")
        parts.append(np.frombuffer(data, np.uint8, offset=4 * len(header)).reshape(header[1:]))
    return Pictures(((parts[0][:, None] / 127.5) - 1).astype(np.float32), parts[1].astype(np.int64))


def learn(model: Any, data: Pictures, out: Path, steps: int, rate: float, seed: int) -> Any:
    """The model, after so many steps."""
    told = {"max_steps": steps, "learning_rate": rate, "warmup_steps": steps // 20, "seed": seed, "save_steps": 0}
    batch = min(BATCH, len(data))
    arguments = pyllm.TrainingArguments(str(out), per_device_train_batch_size=batch, bf16=True, **told)
    pyllm.Trainer(model, data, arguments, None, [pyllm.train.ProgressBar()]).train()
    return model.eval()


def right(model: Any, data: Pictures) -> float:
    """The share of pictures whose class it tells."""
    found = [np.asarray(model(data.pixels[i : i + 250]).logits).argmax(axis=1) for i in range(0, len(data), 250)]
    return float((np.concatenate(found) == data.classes).mean())


def contest(a: argparse.Namespace, known: dict[str, Any], config: Any, train: Pictures, test: Pictures) -> list[dict]:
    """Every number of pictures, seed, start and rate."""
    judge = train.of(NEW, first=len(train.of(NEW)) // 2 - JUDGED, count=JUDGED)
    found = []
    for count in COUNTS:
        for seed in range(a.seeds):
            few = train.of(NEW, first=seed * count, count=count)
            for start in ("fine-tuned", "scratch"):
                for rate in RATES:
                    model = AutoModelForImageClassification.from_config(config, seed)
                    model.load_state_dict(model.state_dict() | (known if start == "fine-tuned" else {}))
                    out = a.out / f"{count}-{seed}-{start}-{rate:g}"
                    model = learn(model, few, out, a.tune_steps, rate, seed)
                    row = {"count": count, "seed": seed, "start": start, "rate": rate}
                    found.append(row | {"judged": right(model, judge), "test": right(model, test.of(NEW))})
    return found


def told(rows: list[dict[str, Any]], seeds: int) -> list[str]:
    """A line for each number of pictures, at the best rate of each start."""
    lines = []
    for count in COUNTS:
        parts = []
        for start in ("fine-tuned", "scratch"):
            mine = [row for row in rows if row["count"] == count and row["start"] == start]
            rate = max(RATES, key=lambda r: np.mean([row["judged"] for row in mine if row["rate"] == r]))
            tests = [100 * row["test"] for row in mine if row["rate"] == rate]
            parts.append(f"{start} {np.mean(tests):.1f} +- {np.std(tests):.1f} % (rate {rate:g})")
        lines.append(f"{count:4} pictures of each: {', '.join(parts)}; {seeds} seeds")
    return lines


def main() -> None:
    """Pretrain, contest, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000, help="of pretraining (3000)")
    parser.add_argument("--tune-steps", type=int, default=100, help="of each run on the two classes (100)")
    parser.add_argument("--seeds", type=int, default=5, help="(5)")
    a = parser.parse_args()
    train, test = read(a.folder, "train"), read(a.folder, "t10k")
    old = tuple(each for each in range(10) if each not in NEW)
    config = new_config("vit", **SIZES, id2label={i: str(each) for i, each in enumerate(old)})
    begun = time.perf_counter()
    teacher = AutoModelForImageClassification.from_config(config, 0)
    teacher = learn(teacher, train.of(old), a.out / "pretrained", a.steps, 1e-3, 0)
    about = {"eight_classes": right(teacher, test.of(old)), "pretraining_seconds": time.perf_counter() - begun}
    print(f"eight classes: {100 * about['eight_classes']:.1f} % of the test set, {about['pretraining_seconds']:.0f} s")
    known = {name: array for name, array in teacher.state_dict().items() if not name.startswith("classifier")}
    two = replace(config, id2label={i: str(each) for i, each in enumerate(NEW)})
    rows = contest(a, known, two, train, test)
    (a.out / "vision.json").write_text(json.dumps(about | {"runs": rows}, indent=1) + "\n")
    print("\n".join(told(rows, a.seeds)))


if __name__ == "__main__":
    main()
