"""GPT: continue a text with GPT-2 weights. Run: python examples/gpt.py FOLDER [TEXT]"""

import sys

import pyllm

folder = sys.argv[1]
text = sys.argv[2] if len(sys.argv) > 2 else "Once upon a time"
tok = pyllm.AutoTokenizer.from_pretrained(folder)
model = pyllm.AutoModelForCausalLM.from_pretrained(folder)

ids = tok(text, return_tensors="np")["input_ids"]
out = model.generate(ids, max_new_tokens=20, do_sample=False)
print(tok.decode([int(i) for i in out[0]]))
