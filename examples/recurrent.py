"""RNN, LSTM, GRU: three nets learn one sentence and write it, state after state. Run: python examples/recurrent.py"""

import numpy as np

import pyllm
from pyllm.auto import new_config, new_model

text = "the cat sat on the mat and the dog sat on the log. "
tok = pyllm.text.train([text], kind="char")
ids = np.array([tok.encode(text * 4)])

for cell in ("rnn", "lstm", "gru"):
    sizes = {"embedding_size": 16, "hidden_size": 48, "num_hidden_layers": 1, "vocab_size": tok.vocab_size}
    model = new_model(new_config(cell, **sizes))
    optimizer = pyllm.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
    model.eval()

    state = model.new_state()  # what the net remembers: h, and an LSTM's c
    logits = model.step([(state, tok.encode("the cat"))])
    written = []
    for _ in range(40):
        written.append(int(logits[0].argmax()))
        logits = model.step([(state, [written[-1]])])  # one token more: the state alone says what came before
    print(f"{cell}: loss {loss.item():.3f}: the cat{tok.decode(written)}")
