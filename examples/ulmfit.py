"""ULMFiT: who is this passage about, Harriet or Jane? Run: python examples/ulmfit.py

A language model reads a novel; the same model then learns to tell passages apart in which the names are left out.
"""

import re
import tempfile
from pathlib import Path

import pyllm
from pyllm.data.labelled import Texts
from pyllm.evaluate.texts import compared
from pyllm.train.language import pretrain
from pyllm.train.texts import TextSettings, finetune_texts

novel = (Path(__file__).parent / "learn" / "emma.txt").read_text(encoding="utf-8")
place = tempfile.TemporaryDirectory()
folder = Path(place.name)
(folder / "novel.txt").write_text(novel, encoding="utf-8")
pyllm.text.train_files(folder / "novel.txt", vocab=1024).save_pretrained(folder / "tokenizer")
pyllm.data.prepare([folder / "novel.txt"], folder / "tokenizer", folder / "shards", valid=0.0)
sizes = {"embedding_size": 64, "hidden_size": 128, "num_hidden_layers": 2}
arguments = pyllm.TrainingArguments(str(folder / "general"), 16, max_steps=60, learning_rate=1e-2)
pretrain("awd-lstm", sizes, str(folder / "shards"), arguments, context=64)

rows = Texts([], [])
for passage in re.split(r"\n\n+", novel):
    people = set(re.findall(r"\b(?:Harriet|Jane)\b", passage))
    if len(people) == 1:
        rows.texts.append(re.sub(r"\b(Miss )?(Harriet|Jane|Smith|Fairfax)('s)?\b", "she", " ".join(passage.split())))
        rows.labels.append(people.pop())
arguments = pyllm.TrainingArguments(str(folder / "people"), 16, num_train_epochs=3, learning_rate=5e-3)
settings = TextSettings(recipe="ulmfit", lm_epochs=0, valid=0.2)
learned = finetune_texts(str(folder / "general"), rows, arguments, settings)
print(*compared(learned, str(folder / "people"))[1], sep="\n")
place.cleanup()
