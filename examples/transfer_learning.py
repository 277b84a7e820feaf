"""Transfer learning: a novel helps with questions about it. Run: python examples/transfer_learning.py

Two models learn the same few questions and answers: one has read pages of the novel before, one has read nothing.
"""

import tempfile
from pathlib import Path

import pyllm
from pyllm.train.language import finetune, pretrain

here = Path(__file__).parent / "learn"
place = tempfile.TemporaryDirectory()
folder = Path(place.name)
(folder / "pages.txt").write_text((here / "emma.txt").read_text(encoding="utf-8")[:200_000], encoding="utf-8")
pyllm.text.train_files(folder / "pages.txt", vocab=512).save_pretrained(folder / "tokenizer")
pyllm.data.prepare([folder / "pages.txt"], folder / "tokenizer", folder / "shards", valid=0.0)

sizes = {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 64}
for name, steps in (("read nothing", 1), ("read the novel", 150)):
    arguments = pyllm.TrainingArguments(str(folder / name), max_steps=steps, learning_rate=1e-2, warmup_ratio=0.1)
    pretrain("gpt2", sizes, str(folder / "shards"), arguments)
    arguments = pyllm.TrainingArguments(str(folder / f"{name}, tuned"), max_steps=40, learning_rate=3e-3)
    result = finetune(str(folder / name), str(here / "questions.jsonl"), arguments, context=63)
    print(f"{name}: loss of answers that were held out {result.valid_loss:.2f}")
place.cleanup()
