"""BERT: a small one learns to guess hidden words from both sides; a trained one finds what means the same.

Run: python examples/bert.py [FOLDER], of a sentence encoder such as all-MiniLM-L6-v2.
"""

import sys

import numpy as np

import pyllm
from pyllm.auto import new_config

TEXT = """My name is Sunny and I am a Data Scientist
Sunny is very good with coding
He knows coding very well
Football is very exciting
Messi is a great footballer"""

lines = [line.split() for line in TEXT.split("\n")]
words = ["[PAD]", "[MASK]", *sorted({word for line in lines for word in line})]
rows = [np.array([words.index(word) for word in line]) for line in lines]
sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
config = new_config("bert", vocab_size=len(words), max_position_embeddings=16, **sizes)
model = pyllm.AutoModelForMaskedLM.from_config(config, seed=0)
optimizer = pyllm.optim.AdamW(model.parameters(), lr=3e-3)
random = np.random.default_rng(0)
for step in range(1, 151):
    hidden = [random.random(len(row)) < 0.25 for row in rows]  # of every line some words
    ids = np.concatenate([np.where(hide, 1, row) for row, hide in zip(rows, hidden, strict=True)])
    wanted = np.concatenate([np.where(hide, row, -100) for row, hide in zip(rows, hidden, strict=True)])
    optimizer.zero_grad()
    with pyllm.ops.documents(np.cumsum([0, *map(len, rows)])):
        loss = model.loss(ids, wanted)
    loss.backward()
    optimizer.step()
    if step in (1, 150):
        print(f"step {step:3}: loss {loss.item():.2f}")

model.eval()
for line in ("Football is very [MASK]", "Messi is a great [MASK]", "He [MASK] coding very well"):
    place = line.split().index("[MASK]")
    scores = model(np.array([[words.index(word) for word in line.split()]])).logits[0, place]
    print(line.replace("[MASK]", f"_{words[scores.argmax()]}_"))

if len(sys.argv) > 1:
    encoder = pyllm.SentenceEncoder(sys.argv[1])
    sentences = TEXT.split("\n")
    for query in ("A sport that many like", "She writes programs"):
        best = encoder.search(query, sentences, top_k=1)[0][0]
        print(f"{query}: {sentences[best['corpus_id']]} ({best['score']:.2f})")
