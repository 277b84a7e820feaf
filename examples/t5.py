"""T5: two tasks told apart by a prefix, text to text. Run: python examples/t5.py"""

import numpy as np

import pyllm
from pyllm.auto import new_config, new_model

END, COPY, REVERSE, START, rng = 10, 11, 12, 13, np.random.default_rng(0)
sizes = {"d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
model = new_model(new_config("t5", vocab_size=14, eos_token_id=END, decoder_start_token_id=START, **sizes))
optimizer = pyllm.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(700):
    rows = [rng.integers(0, 10, rng.integers(2, 7)).tolist() for _ in range(32)]
    prefix = [COPY if rng.integers(2) else REVERSE for _ in rows]
    sources = [[task, *row, END] for task, row in zip(prefix, rows, strict=True)]
    labels = [[*(row if task == COPY else row[::-1]), END] for task, row in zip(prefix, rows, strict=True)]
    optimizer.zero_grad()
    loss = model(sources, labels=labels).loss
    loss.backward()
    optimizer.step()
print(f"loss after 700 steps: {loss.item():.3f}")

for name, task in (("copy", COPY), ("reverse", REVERSE)):
    target = model.generate([[task, 3, 1, 4, 1, 5, END]], num_beams=3, max_new_tokens=8)[0]
    print(f"{name} 3 1 4 1 5: {' '.join(str(digit) for digit in target[1:-1])}")
print("what the encoder adds for keys 3 before to 3 behind, head by head:")
print(np.round(model.encoder.biases(4)[0].data, 1))
