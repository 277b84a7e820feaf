"""Pipeline: ingestion, processing, model building, evaluation, prediction. Run: python examples/pipeline.py [TEXT]"""

import sys
import tempfile
from pathlib import Path

import pyllm
from pyllm.evaluate.shards import measure
from pyllm.train.language import pretrain

novel = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "learn" / "emma.txt")
place = tempfile.TemporaryDirectory()
folder = Path(place.name)

# Data ingestion: the first pages of a text.
(folder / "pages.txt").write_text(novel.read_text(encoding="utf-8")[:200_000], encoding="utf-8")

# Processing: text to tokens to shards, a tenth of the documents kept for evaluation.
tok = pyllm.text.train_files(folder / "pages.txt", vocab=512)
tok.save_pretrained(folder / "tokenizer")
found = pyllm.data.prepare([folder / "pages.txt"], folder / "tokenizer", folder / "shards", valid=0.1)
print(f"{found['kept']} documents, {found['splits']['train']['tokens']:,} tokens to learn from")

# Model building: a GPT of one layer, trained.
sizes = {"n_layer": 1, "n_head": 2, "n_embd": 64, "n_positions": 64}
arguments = pyllm.TrainingArguments(str(folder / "run"), max_steps=300, learning_rate=5e-3, warmup_steps=20, bf16=True)
pretrain("gpt2", sizes, str(folder / "shards"), arguments)

# Evaluation: how well it predicts what it has not seen; one that knows nothing has perplexity 512.
model = pyllm.AutoModelForCausalLM.from_pretrained(folder / "run")
facts = measure(model, model.tokenizer, str(folder / "shards"), "valid", 64)
print(f"{model.num_parameters():,} parameters, perplexity {facts['perplexity']:.0f} on what it has not seen")

# Prediction.
out = model.generate([model.tokenizer.encode("She was")], max_new_tokens=24, do_sample=False)
print(" ".join(model.tokenizer.decode([int(i) for i in out[0]]).split()))
place.cleanup()
