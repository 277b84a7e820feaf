"""LLaMA: load a GGUF file, continue a text, score one. Run: python examples/llama.py [MODEL]"""

import sys

import numpy as np

import pyllm
from pyllm.formats import download

path = download.resolve(sys.argv[1] if len(sys.argv) > 1 else download.DEFAULT)
tok = pyllm.AutoTokenizer.from_pretrained(path)
model = pyllm.AutoModelForCausalLM.from_pretrained(path)

ids = tok("The capital of France is", return_tensors="np")["input_ids"]
out = model.generate(ids, max_new_tokens=16, do_sample=False)
print(tok.decode([int(i) for i in out[0]], skip_special_tokens=True))

logits = model(ids).logits[0].astype(np.float64)  # (length, vocab): each row guesses the token after it
logits -= logits.max(axis=1, keepdims=True)
log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
surprise = -np.mean([log_p[i, ids[0, i + 1]] for i in range(ids.shape[1] - 1)])
print(f"perplexity of the prompt: {np.exp(surprise):.1f}")
