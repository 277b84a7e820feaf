"""Recurrent layers with the weights of real models from packages, beside what those packages' own code computes."""

import importlib.util
import json
import re
import sys
import types
import warnings

import h5py
import numpy as np
import pytest
import torch
from packages import unpacked
from scipy.signal import lfilter
from test_examples import EXAMPLES, run

from pyllm import nn
from pyllm.formats.recurrent import from_keras, from_onnx

PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def off(a, b):
    """Distance in units of the norm of b."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    return np.linalg.norm(a - b) / np.linalg.norm(b)


# --- g2p-en: GRUs, letters to sounds ---


@pytest.fixture(scope="module")
def g2p():
    """(the package's own G2p, whose sentences need nltk and whose words do not; the file of its weights)."""
    folder = unpacked("g2p-en==2.1.0") / "g2p_en"
    stubs = {name: types.ModuleType(name) for name in ("nltk", "nltk.corpus", "nltk.tokenize", "g2p_en.expand")}
    stubs["nltk"].pos_tag = stubs["g2p_en.expand"].normalize_numbers = None
    stubs["nltk"].data = types.SimpleNamespace(find=lambda name: name)
    stubs["nltk.tokenize"].TweetTokenizer = lambda: types.SimpleNamespace(tokenize=None)
    stubs["nltk.corpus"].cmudict = types.SimpleNamespace(dict=dict)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stubs.items():
            patch.setitem(sys.modules, name, module)
        spec = importlib.util.spec_from_file_location("g2p_en.g2p", folder / "g2p.py")
        module = importlib.util.module_from_spec(spec)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec.loader.exec_module(module)
        module.construct_homograph_dictionary = dict
        yield module.G2p(), folder / "checkpoint20.npz"


def words():
    """Of a novel, each once."""
    text = (EXAMPLES / "learn" / "emma.txt").read_text(encoding="utf-8").lower()
    return list(dict.fromkeys(re.findall(r"[a-z]+", text)))[:150]


def test_g2p_says_every_word_as_the_package_does(g2p, tmp_path):
    theirs, weights = g2p
    lines = run("grapheme_to_phoneme.py", weights, *words(), cwd=tmp_path).splitlines()
    assert lines == [f"{word} {' '.join(theirs.predict(word))}" for word in words()]


def test_g2p_states_are_those_of_float64(g2p):
    theirs, _ = g2p
    exact = {name: values.astype(np.float64) for name, values in theirs.variables.items()}
    names = ("enc_w_ih", "enc_w_hh", "enc_b_ih", "enc_b_hh")
    layer = nn.GRU(256, 256).load_state_dict({f"{p}_l0": exact[n] for p, n in zip(PARTS, names, strict=True)}).eval()
    for word in words()[:20]:
        x = theirs.encode(word)
        wanted = theirs.gru(x.astype(np.float64), x.shape[1], *(exact[n] for n in names), np.zeros((1, 256)))
        assert off(layer(x[0])[0], wanted[0]) <= 1e-6


# --- silero-vad: an LSTM, is it speech ---


def sounds():
    """Three seconds at 16 kHz: a buzz of changing pitch through the resonances of vowels, and pauses."""
    random, rate = np.random.default_rng(0), 16000
    t = np.arange(3 * rate) / rate
    turns = np.cumsum(110 + 20 * np.sin(8.2 * t) + 10 * np.sin(18.2 * t)) / rate
    buzz = np.append(np.diff(np.floor(turns)), 0) + 0.01 * random.standard_normal(len(t))
    vowels = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480))
    pieces = []
    for i, piece in enumerate(np.split(buzz, 15)):
        for frequency, width in zip(vowels[i % 4], (80, 100, 120), strict=True):
            r, turn = np.exp(-np.pi * width / rate), 2 * np.pi * frequency / rate
            piece = lfilter([1], [1, -2 * r * np.cos(turn), r * r], piece)
        pieces.append(piece * (i // 3 % 2 == 0))
    y = np.concatenate(pieces)
    return (0.5 * y / np.abs(y).max() + 0.001 * random.standard_normal(len(y))).astype(np.float32)


@pytest.fixture(scope="module")
def silero():
    """(folder of the package's models, its TorchScript model, frames of sounds with the 64 samples before them)."""
    folder = unpacked("silero-vad==6.2.3") / "silero_vad" / "data"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.load(folder / "silero_vad.jit")
    samples = np.concatenate([np.zeros(64, np.float32), sounds()])
    return folder, model, np.stack([samples[i : i + 576] for i in range(0, len(samples) - 576 + 1, 512)])


def features(state, frames):
    """What stands before the LSTM: the spectrum of a frame and four convolutions. (frames, 128)."""
    f = torch.nn.functional
    x = f.pad(torch.tensor(frames)[:, None], (0, 64), "reflect")
    x = f.conv1d(x, state["stft.forward_basis_buffer"], stride=128)
    x = (x[:, :129] ** 2 + x[:, 129:] ** 2).sqrt()
    for i, stride in enumerate((1, 2, 2, 1)):
        weight, bias = (state[f"encoder.{i}.reparam_conv.{name}"] for name in ("weight", "bias"))
        x = f.conv1d(x, weight, bias, stride=stride, padding=1).relu()
    return x[..., 0].numpy()


def of_onnx(path, name):
    """The bytes of a float32 tensor in an ONNX file: field 9 of its record, which follows its name."""
    data = path.read_bytes()
    at = data.index(name + b"\x4a") + len(name) + 1
    size = shift = 0
    while True:
        size |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return np.frombuffer(data, np.float32, size // 4, at)


def test_silero_hears_speech_where_the_package_does(silero):
    _, model, frames = silero
    state = {name.removeprefix("_model."): tensor for name, tensor in model.state_dict().items()}
    layer = nn.LSTM(128, 128).load_state_dict({f"{p}_l0": state[f"decoder.rnn.{p}"].numpy() for p in PARTS}).eval()
    x = features(state, frames)
    h, _ = layer(x)
    weight, bias = (state[f"decoder.decoder.2.{name}"].numpy() for name in ("weight", "bias"))
    ours = 1 / (1 + np.exp(-(np.maximum(h, 0) @ weight.reshape(-1) + bias)))
    theirs = np.array([model(torch.tensor(frame[None, 64:]), 16000).item() for frame in frames])
    assert theirs.min() < 0.05 and theirs.max() > 0.95 and np.abs(ours - theirs).max() <= 1e-5

    taken = {p: state[f"decoder.rnn.{p}"].numpy() for p in PARTS}
    cell, now = nn.LSTMCell(128, 128).load_state_dict(taken).eval(), None
    steps = []
    for row in x:
        now = cell(row, now)
        steps.append(now[0])
    assert np.array_equal(np.stack(steps), h)


def test_silero_is_the_same_from_onnx(silero):
    folder, model, _ = silero
    state = {p: model.state_dict()[f"_model.decoder.rnn.{p}"].numpy() for p in PARTS}
    shapes = zip((b"209", b"210", b"211"), ((1, 512, 128), (1, 512, 128), (1, 1024)), strict=True)
    w, r, b = (of_onnx(folder / "silero_vad_16k_sequence.onnx", b"onnx::LSTM_" + n).reshape(s) for n, s in shapes)
    found = from_onnx(w, r, b)
    assert all(np.array_equal(found[f"{p}_l0"], state[p]) for p in PARTS)


def test_silero_states_are_those_of_float64(silero):
    from safetensors.numpy import load_file

    folder, model, frames = silero  # the safetensors are of another training run than the rest
    weights = {f"{p}_l0": load_file(folder / "silero_vad_16k.safetensors")[f"lstm_cell.{p}"] for p in PARTS}
    x = features({name.removeprefix("_model."): tensor for name, tensor in model.state_dict().items()}, frames)
    exact = torch.nn.LSTM(128, 128).double()
    exact.load_state_dict({name: torch.tensor(values) for name, values in weights.items()})
    with torch.no_grad():
        y, (h, c) = exact(torch.tensor(x).double())
    mine, (mine_h, mine_c) = nn.LSTM(128, 128).load_state_dict(weights).eval()(x)
    assert max(off(mine, y), off(mine_h, h), off(mine_c, c)) <= 1e-6


# --- textgenrnn: LSTMs, the next character ---

TEXT = "What is the best way to learn to play the guitar?"
KERAS = [  # bits of each character: Keras 3.15.1 on PyTorch, from the same file
    3.7039, 0.5576, 1.1284, 0.0023, 0.3433, 1.7234, 0.1485, 0.0074, 0.8856, 0.0271, 0.8552, 0.0302, 2.8812, 1.0822,
    0.047, 0.0008, 0.0194, 3.2452, 0.7404, 0.2694, 0.0635, 0.1484, 0.1138, 0.004, 5.8677, 1.646, 0.5205, 0.568,
    0.0174, 0.1431, 1.1664, 1.9307, 0.0684, 3.9611, 2.1371, 0.0734, 0.1889, 0.2248, 2.8478, 0.3348, 0.4186, 0.5751,
    4.5078, 2.9751, 3.9983, 0.9768, 0.0017, 0.012, 2.9502,
]  # fmt: skip


def test_textgenrnn_is_as_surprised_as_keras():
    folder = unpacked("textgenrnn==2.0.0") / "textgenrnn-2.0.0" / "textgenrnn"
    vocabulary = json.loads((folder / "textgenrnn_vocab.json").read_text(encoding="utf-8"))
    with h5py.File(folder / "textgenrnn_weights.hdf5") as file:
        names = []
        file.visit(names.append)
        weights = {n.split("/", 1)[1]: file[n][()] for n in names if isinstance(file[n], h5py.Dataset)}
    ids = [vocabulary["<s>"], *(vocabulary[character] for character in TEXT)]
    windows = np.array([([0] * 40 + ids[:i])[-40:] for i in range(1, len(ids))])  # the 40 characters before each
    seen = [weights["embedding/embeddings:0"][windows]]
    for name in ("rnn_1", "rnn_2"):
        x = seen[-1]
        state = from_keras(*(weights[f"{name}/{part}:0"] for part in ("kernel", "recurrent_kernel", "bias")))
        seen.append(nn.LSTM(x.shape[2], 128, batch_first=True).load_state_dict(state).eval()(x)[0])
    every = np.concatenate(seen, axis=2)
    attention = np.exp(every @ weights["attention/attention_W:0"])
    read = (every * attention).sum(axis=1) / attention.sum(axis=1)
    logits = read @ weights["output/kernel:0"] + weights["output/bias:0"]
    found = (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(TEXT)), ids[1:]]) / np.log(2)
    np.testing.assert_allclose(found, KERAS, atol=2e-4)
    assert round(float(found.mean()), 2) == 1.15
