"""Pretraining: a training loop by hand, on a tiny GPT that learns one sentence. Run: python examples/train_loop.py"""

import numpy as np

import pyllm
from pyllm.auto import new_config, new_model

tok = pyllm.text.train(["the cat sat on the mat and the dog sat on the log. "], kind="char")
ids = np.array([tok.encode("the cat sat on the mat and the dog sat on the log. " * 4)])
config = new_config("gpt2", n_layer=1, n_head=2, n_embd=32, n_positions=256, vocab_size=tok.vocab_size)
model = new_model(config)

model.train()
optimizer = pyllm.optim.AdamW(model.parameters(), lr=1e-2)
for step in range(60):
    optimizer.zero_grad()
    loss = model.loss(ids[:, :-1], ids[:, 1:])  # a Tensor: the mean surprise at each next token
    loss.backward()  # fills .grad of every parameter
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
model.eval()

prompt = tok.encode("the cat")
out = model.generate([prompt], max_new_tokens=40, do_sample=False)[0]
print(f"step {step}: loss {loss.item():.3f}")
print(tok.decode([int(i) for i in out]))
