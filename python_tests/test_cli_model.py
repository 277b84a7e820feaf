"""The verbs with the real default model: what a user sees, how soon, and how it stops."""

import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

QUESTION = "Tell me the capital of France."


def start(*words, cwd, **environ):
    """A running `python -m pyllm WORDS` in another folder, its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "pyllm", *map(str, words)],
        cwd=cwd,
        env={**os.environ, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def run(*words, cwd, text=None, code=0, **environ):
    """(stdout, stderr) of a finished command; its exit code must be `code`."""
    process = start(*words, cwd=cwd, **environ)
    out, err = process.communicate(text, timeout=300)
    assert process.returncode == code, err
    return out, err


def test_generate_continues_the_same_way_every_time(tmp_path, smollm2):
    words = ("generate", "-m", smollm2, "-p", "The capital of France is", "-n", "12")
    first, err = run(*words, cwd=tmp_path)
    assert first.startswith("The capital of France is Paris") and "tokens/s" in err
    assert run(*words, "-t", "1", cwd=tmp_path)[0] == first
    new = run(*words, "--no-display-prompt", cwd=tmp_path)[0]
    assert "The capital of France is" + new == first
    data = json.loads(run(*words, "--json", cwd=tmp_path)[0])
    assert data["prompt"] + data["text"] + "\n" == first
    assert data["prompt_tokens"] == 5 and data["tokens"] == 12 and data["finish_reason"] == "length"


def test_sampling_repeats_with_its_seed(tmp_path, smollm2):
    words = ("generate", "-m", smollm2, "-p", "Once upon a time", "-n", "16", "--temp", "1.2", "--top-k", "0")
    outs = [run(*words, "-s", seed, cwd=tmp_path)[0] for seed in (1, 1, 2)]
    assert outs[0] == outs[1] != outs[2]


def test_next_shows_ten_words_of_49152(tmp_path, smollm2):
    lines = run("next", smollm2, "The capital of France is", cwd=tmp_path)[0].splitlines()
    assert len(lines) == 11 and lines[-1] == "10 of 49,152"
    assert lines[0].startswith("␣Paris")
    data = json.loads(run("next", smollm2, "The capital of France is", "--json", cwd=tmp_path)[0])
    shares = [word["probability"] for word in data["words"]]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) < 1


def test_chat_answers_one_question_and_the_lines_of_a_pipe(tmp_path, smollm2):
    assert "Paris" in run("chat", "-m", smollm2, "-p", QUESTION, cwd=tmp_path)[0]
    out, err = run("chat", "-m", smollm2, "-n", "24", cwd=tmp_path, text=f"{QUESTION}\nAnd of Italy?\n")
    assert "Paris" in out and "Rome" in out and "pieces" in err


def test_info_of_the_default_model(tmp_path, smollm2):
    data = json.loads(run("info", smollm2, "--json", cwd=tmp_path)[0])
    assert data["parameters"] == 134_515_008 and data["architecture"] == "llama"
    assert (data["layers"], data["width"], data["heads"], data["kv_heads"]) == (30, 576, 9, 3)
    assert data["memory"]["cache_per_1000_tokens"] == 1000 * 30 * 2 * 3 * 64 * 2


def test_bench_prints_speed_and_limits(tmp_path, smollm2):
    words = ("bench", "llm", smollm2, "--prompt", "16", "--new", "4", "--parallel", "1,2", "--runs", "1")
    data = json.loads(run(*words, "--threads", "1", "--json", cwd=tmp_path)[0])
    assert data["prompt_tok_s"] > 0 and data["decode_tok_s"] > 0 and data["threads"] == 1
    assert set(data["parallel_tok_s"]) == {"1", "2"}
    assert set(data["limits"]) >= {"read_GBs", "fp32_GFLOPs", "bf16_GFLOPs", "int8_GOPs"}
    assert data["bytes_per_token"] == 96_436_224 and data["decode_share_of_read"] > 0


def test_doctor_says_what_was_chosen(tmp_path):
    data = json.loads(run("doctor", "--json", cwd=tmp_path)[0])
    assert data["isa"] in data["isas"] and data["isas"][0] == "base" and data["threads"] >= 1 and data["threads_why"]
    assert run("doctor", cwd=tmp_path, PYLLM_ISA="base")[0].count("base (PYLLM_ISA=base)") == 1


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        (("doctor",), {"PYLLM_ISA": "nonsense"}, "nonsense"),
        (("info", "no-such-model"), {}, "no such file"),
        (("generate", "-m", "no-such-model", "-p", "x"), {}, "no such file"),
        (("generate", "-m", "MODEL", "-p", "x " * 9000), {}, "the context holds 8,192"),
        (("generate", "-m", "MODEL", "-p", "x y z", "-c", "2"), {}, "the context holds 2"),
        (("generate", "-m", "MODEL", "-f", "no-such-file"), {}, "no-such-file"),
    ],
)
def test_failures_are_one_line_and_exit_code_1(tmp_path, smollm2, words, environ, said):
    words = [smollm2 if word == "MODEL" else word for word in words]
    out, err = run(*words, cwd=tmp_path, code=1, PYLLM_LOG="", **environ)
    assert out == "" and err.count("\n") == 1 and err.startswith("pyllm: ") and said in err


def test_ctrl_c_stops_an_answer_at_once(tmp_path, smollm2):
    process = start("generate", "-m", smollm2, "-p", "Once upon a time", "-n", "4000", "--stop", "~~~", cwd=tmp_path)
    assert process.stdout.read(40)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1 and err.endswith("pyllm: interrupted\n") and "Traceback" not in err
    assert time.monotonic() - sent < 1.0  # 0.1 s on a quiet machine; ten times that on a shared one


def test_first_word_comes_soon(tmp_path, smollm2):
    times = []
    for _ in range(3):
        begin = time.monotonic()
        process = start("generate", "-m", smollm2, "-p", "Hello", "-n", "1", "--no-display-prompt", cwd=tmp_path)
        assert select.select([process.stdout], [], [], 60)[0]
        times.append(time.monotonic() - begin)
        process.communicate(timeout=60)
    assert min(times) < 1.5  # the promise is 0.5 s on a quiet machine


def test_loading_takes_little_memory(tmp_path, smollm2):
    code = (
        "import re, sys, pyllm\n"
        "model = pyllm.AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read()).group(1))\n"
    )
    argv = [sys.executable, "-c", code, str(smollm2)]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 98_362_432 * 1.3 + 100e6


def test_the_lecture_shows_what_the_commands_print(tmp_path):
    """Every `$ pyllm ...` or `$ python examples/...` of docs/lecture.md: its lines stand in the output, in order."""
    root = Path(__file__).resolve().parent.parent
    text = (root / "docs" / "lecture.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\$ (.+)\n((?:(?!\$ |```).*\n)*)", text, re.M)
    assert len(shown) >= 6
    for line, expected in shown:
        words = shlex.split(line)
        argv = [sys.executable, "-m", "pyllm", *words[1:]] if words[0] == "pyllm" else [sys.executable, root / words[1]]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=300)
        assert done.returncode == 0, done.stderr
        printed = iter(re.sub(r"\d+\.\d\d %  [█-▏]*", "%", done.stdout).splitlines())
        for wanted in re.sub(r"\d+\.\d\d %  [█-▏]*", "%", expected).splitlines():
            assert wanted == "..." or wanted in printed, f"{line}: {wanted}"


def read_until(terminal, wanted, seconds=60):
    """What a terminal shows up to and with `wanted`."""
    shown, end = "", time.monotonic() + seconds
    while wanted not in shown:
        assert select.select([terminal], [], [], max(end - time.monotonic(), 0))[0], shown
        shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


def test_a_typed_conversation(tmp_path, smollm2):
    """On a terminal: an answer, Ctrl-C ends the next one only, the conversation goes on, /exit leaves."""
    terminal, end = os.openpty()
    argv = [sys.executable, "-m", "pyllm", "chat", "-m", str(smollm2)]
    environ = {**os.environ, "NO_COLOR": "1"}
    process = subprocess.Popen(argv, cwd=tmp_path, env=environ, stdin=end, stdout=end, stderr=end)
    os.close(end)
    try:
        assert "/exit" in read_until(terminal, "> ")
        os.write(terminal, f"{QUESTION}\n".encode())
        assert "Paris" in read_until(terminal, "\n> ")
        os.write(terminal, b"Write a long story about a fox.\n")
        read_until(terminal, " the ")
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in read_until(terminal, "\n> ")
        os.write(terminal, b"And what is the capital of Italy?\n")
        assert "Rome" in read_until(terminal, "\n> ")
        os.write(terminal, b"/exit\n")
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
