"""BART: learn to restore a text in which spans were cut out. Run: python examples/bart.py"""

import numpy as np

import pyllm
from pyllm.auto import new_config, new_model

END, MASK, PAD, rng = 20, 21, 22, np.random.default_rng(0)
sizes = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in
         (("layers", 1), ("ffn_dim", 128), ("attention_heads", 4))}  # fmt: skip
ids = {"eos_token_id": END, "decoder_start_token_id": END, "pad_token_id": PAD}
model = new_model(
    new_config("bart", vocab_size=23, d_model=64, max_position_embeddings=16, dropout=0.0, **sizes, **ids)
)
optimizer = pyllm.optim.AdamW(model.parameters(), lr=3e-3)


def pair():
    """A text that counts in steps of 1, 2 or 3, with one mask for a span of up to three of its words; the text."""
    text = ((rng.integers(20) + rng.integers(1, 4) * np.arange(8)) % 20).tolist()
    first, length = rng.integers(1, 5), rng.integers(1, 4)
    return [*text[:first], MASK, *text[first + length :], END], [*text, END]


for _ in range(500):
    damaged, whole = zip(*(pair() for _ in range(32)), strict=True)
    optimizer.zero_grad()
    loss = model(list(damaged), labels=list(whole)).loss
    loss.backward()
    optimizer.step()
print(f"loss after 500 steps: {loss.item():.3f}")

source = [5, 7, MASK, 13, 15, 17, 19, END]
out = model.generate([source], num_beams=4, num_return_sequences=2, return_dict_in_generate=True)
for target, score in zip(out.new_tokens, out.sequences_scores, strict=True):
    print(f"5 7 ... 13 15 17 19: {' '.join(map(str, target[:-1]))} ({score:.2f})")
