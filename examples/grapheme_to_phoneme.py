"""Two GRUs, letters to sounds: the weights of the package g2p-en (Apache-2.0), a batch of words of any lengths.

Run: pip download --no-deps g2p-en==2.1.0 && unzip g2p_en-*.whl
     python examples/grapheme_to_phoneme.py g2p_en/checkpoint20.npz transformer WORD ...
"""

import sys

import numpy as np

from pyllm import nn

VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]
CONSONANTS = [
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH",
    "UW", "V", "W", "Y", "Z", "ZH",
]
SOUNDS = ["<pad>", "<unk>", "<s>", "</s>", *sorted([v + stress for v in VOWELS for stress in "012"] + CONSONANTS)]
START, END = 2, 3  # of sounds; letters have <pad> 0, <unk> 1, </s> 2 before a to z

weights = np.load(sys.argv[1])
words = sys.argv[2:] or ["transformer"]


def gru(side):
    """The encoder, "enc", or the decoder, "dec": PyTorch's weights under the package's names."""
    names = {"weight_ih_l0": "w_ih", "weight_hh_l0": "w_hh", "bias_ih_l0": "b_ih", "bias_hh_l0": "b_hh"}
    layer = nn.GRU(256, 256)
    return layer.load_state_dict({ours: weights[f"{side}_{theirs}"] for ours, theirs in names.items()}).eval()


lengths = [len(word) + 1 for word in words]
letters = np.zeros((max(lengths), len(words)), int)
for i, word in enumerate(words):
    letters[: lengths[i], i] = [ord(c) - ord("a") + 3 if "a" <= c <= "z" else 1 for c in word.lower()] + [2]
_, state = gru("enc")(weights["enc_emb"][letters], lengths=lengths)

decoder, last, said = gru("dec"), np.full(len(words), START), []
for _ in range(20):
    y, state = decoder(weights["dec_emb"][last][None], state)
    last = (y[0] @ weights["fc_w"].T + weights["fc_b"]).argmax(axis=1)
    said.append(last)
for word, sounds in zip(words, np.array(said).T, strict=True):
    end = np.append(np.flatnonzero(sounds == END), len(sounds))[0]
    print(word, " ".join(SOUNDS[i] for i in sounds[:end]))
