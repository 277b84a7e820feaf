"""`make learn`: the same commands with tiny sizes, from a novel to a model that writes; done once, not done again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import pyllm
from pyllm.cli.main import main
from pyllm.train import read

ROOT = Path(__file__).resolve().parent.parent
NOVEL = ROOT / "examples" / "learn" / "emma.txt"


def learn(folder, text):
    """What `make learn` prints, on the first pages of the novel, with the package under test."""
    sizes = {
        "PYLLM": f"{sys.executable} -W error -m pyllm",
        "LEARN": folder,
        "NOVEL": text,
        "VOCAB": 300,
        "MODEL": "n_layer=1,n_head=2,n_embd=16,n_positions=32",
        "TRAIN": "--steps 6 --batch 2 --warmup 1 --save-every 2 --eval-every 3 -t 1",
        "WRITE": "-n 8 --temp 0 -t 1",
    }
    words = ["make", "--no-print-directory", "-o", ".venv/installed", "learn", *(f"{k}={v}" for k, v in sizes.items())]
    around = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    done = subprocess.run(words, cwd=ROOT, env=around, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_the_novel_is_whole_and_small():
    text = NOVEL.read_text(encoding="ascii")
    assert text.startswith("EMMA\n\nBy Jane Austen\n") and text.endswith("\nFINIS\n") and len(text) <= 1_000_000


def test_make_learn_goes_from_text_to_a_model_that_writes(tmp_path):
    text = tmp_path / "pages.txt"
    text.write_text(NOVEL.read_text()[:400_000])
    out, progress = learn(tmp_path / "learn", text)
    verbs = ["tokenizer train", "data prepare", "pretrain", "report", "eval", "generate"]
    places = [out.index(f"-m pyllm {verb} ") for verb in verbs]
    assert places == sorted(places)
    assert "300 tokens" in out and "bits per byte" in out and "step 6 of 6 [#" in progress
    assert f"The report: {tmp_path / 'learn' / 'run' / 'report.html'}" == out.splitlines()[-1]
    assert any(line.startswith("Emma was") for line in out.splitlines())
    about = json.loads((tmp_path / "learn" / "run" / "run.json").read_text())
    model = pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / "learn" / "run")
    assert about["parameters"] == model.num_parameters() and [s["step"] for s in about["samples"]] == [3, 6]
    assert np.isfinite(model(model.tokenizer.encode("Emma")).logits).all()
    assert "<svg" in (tmp_path / "learn" / "run" / "report.html").read_text()

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "learn").rglob("*") if path.is_file()}
    again, _ = learn(tmp_path / "learn", text)
    assert "pretrain" not in again and "tokenizer train" not in again and "data prepare" not in again
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert out[out.index("loss ", out.index(" eval ")) :] == again[again.index("loss ", again.index(" eval ")) :]

    answers, questions = tmp_path / "answers", str(ROOT / "examples" / "learn" / "questions.jsonl")
    words = ["finetune", str(tmp_path / "learn" / "run"), "--data", questions, "--out", str(answers)]
    assert main([*words, "--context", "32", "--steps", "3", "-t", "1"]) == 0
    tuned = pyllm.AutoModelForCausalLM.from_pretrained(answers)
    assert tuned.num_parameters() == model.num_parameters()
    before, after = model.state_dict(), tuned.state_dict()
    assert any((before[name] != after[name]).any() for name in before) and len(read(answers)) == 3
