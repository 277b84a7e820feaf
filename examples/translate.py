"""An LSTM encoder-decoder with attention learns to say digits backwards. Run: python examples/translate.py"""

import numpy as np

import pyllm
from pyllm.auto import new_config, new_model

END, rng = 10, np.random.default_rng(0)
sizes = {"embedding_size": 24, "hidden_size": 48, "num_layers": 1, "dropout": 0}
model = new_model(new_config("seq2seq", vocab_size=11, eos_token_id=END, **sizes))
optimizer = pyllm.optim.AdamW(model.parameters(), lr=1e-2)
for _ in range(200):
    ids, targets, starts = [], [], [0]
    for _ in range(32):  # pairs end to end: a source, and its target after the token that starts it
        digits = rng.integers(0, 10, rng.integers(2, 7)).tolist()
        ids += [*digits, END, END, *digits[::-1]]
        targets += [-100] * (len(digits) + 1) + [*digits[::-1], END]
        starts += [starts[-1] + len(digits) + 1, starts[-1] + 2 * len(digits) + 2]
    optimizer.zero_grad()
    with pyllm.ops.documents(starts):
        loss = model.loss(np.array(ids), np.array(targets))
    loss.backward()
    optimizer.step()
print(f"loss after 200 steps: {loss.item():.3f}")

source = [3, 1, 4, 1, 5, END]
target = model.generate(source, num_beams=3)[0]
print(f"{source[:-1]} backwards: {[int(digit) for digit in target[1:-1]]}")
print("where each step looked, in per cent:")
print(np.round(100 * model.cross_weights(source, target[:-1])[0]).astype(int))
