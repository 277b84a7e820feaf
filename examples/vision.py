"""Transfer learning began in vision: a small ViT learns the digits 0 to 7, then 8 and 9 from a few pictures of each.

Run: python examples/vision.py; needs scikit-learn, which has the pictures.
"""

import tempfile
from dataclasses import replace

import numpy as np
from sklearn.datasets import load_digits

import pyllm
from pyllm.auto.encoders import AutoModelForImageClassification
from pyllm.auto.new import new_config

SIZES = {"image_size": 8, "patch_size": 2, "num_channels": 1, "hidden_size": 32, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "intermediate_size": 64}
FEW, SEEDS = 4, 5


class Pictures:
    """Pictures and their classes in an order by position."""

    def __init__(self, pixels, classes):
        self.pixels, self.classes = pixels, classes

    def __len__(self):
        return len(self.classes)

    def batch(self, position, size):
        """(pictures, classes, where each begins)."""
        rows = np.arange(position, position + size) % len(self)
        return self.pixels[rows], self.classes[rows], np.arange(size + 1, dtype=np.int32)


def learn(model, data, steps, rate):
    """The model, after so many steps."""
    with tempfile.TemporaryDirectory() as folder:
        batch = min(32, len(data))
        told = pyllm.TrainingArguments(folder, max_steps=steps, learning_rate=rate, per_device_train_batch_size=batch)
        pyllm.Trainer(model, data, told).train()
    return model.eval()


def right(model, data):
    """The share of pictures whose class it tells."""
    return float((np.asarray(model(data.pixels).logits).argmax(axis=1) == data.classes).mean())


found = load_digits()
order = np.random.default_rng(0).permutation(len(found.target))
pixels, classes = (found.images[order, None] / 8 - 1).astype(np.float32), found.target[order]
seen = np.arange(len(classes)) < 1200
old = classes < 8
config = new_config("vit", **SIZES, id2label={i: str(i) for i in range(8)})
teacher = AutoModelForImageClassification.from_config(config, 0)
teacher = learn(teacher, Pictures(pixels[old & seen], classes[old & seen]), 500, 2e-3)
print(f"0 to 7: {right(teacher, Pictures(pixels[old & ~seen], classes[old & ~seen])):.0%} of pictures not seen")

unseen = Pictures(pixels[~old & ~seen], classes[~old & ~seen] - 8)
known = {name: array for name, array in teacher.state_dict().items() if not name.startswith("classifier")}
for name in ("from scratch", "fine-tuned"):
    shares = []
    for seed in range(SEEDS):
        model = AutoModelForImageClassification.from_config(replace(config, id2label={0: "8", 1: "9"}), seed)
        model.load_state_dict(model.state_dict() | (known if name == "fine-tuned" else {}))
        few = np.concatenate([np.flatnonzero(seen & (classes == each))[seed * FEW :][:FEW] for each in (8, 9)])
        shares.append(right(learn(model, Pictures(pixels[few], classes[few] - 8), 40, 5e-4), unseen))
    print(
        f"8 or 9 from {FEW} pictures of each, {name}: {np.mean(shares):.0%} +- {np.std(shares):.0%} over {SEEDS} draws"
    )
