"""The frame of the `pyllm` command: verbs, exit codes, environment twins, quiet and cheap start."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pyllm import __version__
from pyllm.cli import main as frame
from pyllm.cli import options, output


def command(*words, cwd, env=None, **kwargs):
    """Run `python -m pyllm WORDS` in another folder; returns the finished process."""
    environ = {**os.environ, **(env or {})}
    argv = [sys.executable, "-m", "pyllm", *words]
    return subprocess.run(argv, cwd=cwd, env=environ, capture_output=True, text=True, timeout=120, **kwargs)


def verb(monkeypatch, run, add=lambda parser: None):
    """Put a made-up verb in the place of `version`."""
    module = argparse.Namespace(__doc__="made up", add_arguments=add, run=run)
    monkeypatch.setitem(sys.modules, "pyllm.cli.version", module)
    return "version"


def test_help_lists_every_verb(tmp_path):
    done = command("--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    for name in frame.VERBS:
        assert f"\n  {name} " in done.stdout


def test_help_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from pyllm.cli.main import main; main(['--help']); "
        "print([m for m in ('numpy', 'jinja2', 'pyllm._core') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("name", list(frame.VERBS))
def test_every_verb_explains_itself(tmp_path, name):
    done = command(name, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: pyllm {name}")


def test_version(tmp_path):
    assert command("--version", cwd=tmp_path).stdout == f"pyllm {__version__}\n"
    assert json.loads(command("version", "--json", cwd=tmp_path).stdout)["pyllm"] == __version__


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "usage: pyllm VERB"),
        (("chta",), "did you mean 'chat'?"),
        (("zzz",), "known: chat, generate"),
        (("version", "--jason"), "unrecognized arguments: --jason"),
        (("generate", "-p", "x", "--temp", "nan"), "a finite number at least 0"),
        (("generate", "-p", "x", "--temp", "inf"), "a finite number"),
        (("generate", "-p", "x", "--top-p", "1.5"), "from 0 to 1"),
        (("generate",), "a prompt is needed: -p TEXT or -f FILE"),
        (("generate", "-p", "x", "-f", "y"), "not allowed with"),
        (("generate", "-p", "x", "-n", "many"), "a whole number from -1"),
        (("generate", "-p", "x", "-t", "0"), "a whole number from 1"),
    ],
)
def test_wrong_usage_is_2_with_a_reason(tmp_path, words, said):
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr and done.stdout == "" and "Traceback" not in done.stderr


def test_environment_twin_and_flag_over_it(monkeypatch, capsys):
    seen = []

    def add(parser):
        options.add_run(parser)
        options.add_sampling(parser, new=7)
        options.add_json(parser)

    name = verb(monkeypatch, lambda args: seen.append(args) or 0, add)
    monkeypatch.setenv("PYLLM_TOP_K", "3")
    monkeypatch.setenv("PYLLM_JSON", "true")
    monkeypatch.setenv("PYLLM_CTX_SIZE", "99")
    assert frame.main([name]) == 0
    assert frame.main([name, "--top-k", "5"]) == 0
    assert [a.top_k for a in seen] == [3, 5]
    assert seen[0].json is True and seen[0].ctx_size == 99 and seen[0].n_predict == 7
    monkeypatch.setenv("PYLLM_TEMP", "warm")
    assert frame.main([name]) == 2
    assert "PYLLM_TEMP: 'warm': a finite number at least 0" in capsys.readouterr().err
    monkeypatch.delenv("PYLLM_TEMP")
    monkeypatch.setenv("PYLLM_PRECISION", "low")
    assert frame.main([name]) == 2
    assert "one of default, high is wanted" in capsys.readouterr().err
    monkeypatch.delenv("PYLLM_PRECISION")
    monkeypatch.setenv("PYLLM_JSON", "maybe")
    assert frame.main([name]) == 2


def test_errors_are_one_line_without_traceback(monkeypatch, capsys):
    def broken(args):
        raise ValueError("model.gguf: tensor '\x1b[31m': needs 8 bytes,\nfile has 4")

    name = verb(monkeypatch, broken)
    monkeypatch.delenv("PYLLM_LOG", raising=False)
    assert frame.main([name]) == 1
    err = capsys.readouterr().err
    assert err == "pyllm: model.gguf: tensor '\\x1b[31m': needs 8 bytes, file has 4\n"
    monkeypatch.setenv("PYLLM_LOG", "debug")
    assert frame.main([name]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_unexpected_error_is_named(monkeypatch, capsys):
    name = verb(monkeypatch, lambda args: {}["lost"])
    monkeypatch.delenv("PYLLM_LOG", raising=False)
    assert frame.main([name]) == 1
    assert capsys.readouterr().err == "pyllm: KeyError: 'lost'\n"


def test_interrupt_leaves_a_clean_line(monkeypatch, capsys):
    def interrupted(args):
        print("half a wor", end="")
        raise KeyboardInterrupt

    assert frame.main([verb(monkeypatch, interrupted)]) == 1
    assert capsys.readouterr().err == "\npyllm: interrupted\n"


def test_interrupt_signal_stops_within_a_tenth(tmp_path):
    code = (
        "import argparse, sys, time\n"
        "from pyllm.cli import main as frame\n"
        "def run(args):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(30)\n"
        "sys.modules['pyllm.cli.version'] = argparse.Namespace(__doc__='', add_arguments=lambda p: None, run=run)\n"
        "sys.exit(frame.main(['version']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 1 and err.endswith("pyllm: interrupted\n")
    assert time.monotonic() - sent < 1.0  # 0.1 s on a quiet machine; ten times that on a shared one


def test_broken_pipe_is_quiet(tmp_path):
    code = (
        "import argparse, sys\n"
        "from pyllm.cli import main as frame\n"
        "def run(args):\n"
        "    for _ in range(100000): print('word ' * 20)\n"
        "    return 0\n"
        "sys.modules['pyllm.cli.version'] = argparse.Namespace(__doc__='', add_arguments=lambda p: None, run=run)\n"
        "sys.exit(frame.main(['version']))\n"
    )
    argv = [sys.executable, "-c", code]
    process = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=30) == 1


def test_colour_only_on_a_terminal(monkeypatch):
    class Terminal:
        def __init__(self, tty):
            self.isatty = lambda: tty

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.paint("a", "1", Terminal(True)) == "\x1b[1ma\x1b[0m"
    assert output.paint("a", "1", Terminal(False)) == "a"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.paint("a", "1", Terminal(True)) == "a"


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 bytes"), (999, "999 bytes"), (98_362_432, "98.4 MB"), (2.5e12, "2.5 TB")]
)
def test_sizes_as_people_read_them(nbytes, text):
    assert output.size(nbytes) == text


def test_bar_has_the_length_of_its_share(monkeypatch):
    monkeypatch.setattr(sys, "stdout", argparse.Namespace(encoding="utf-8"))
    assert output.bar(0.5, 10) == "█████" and output.bar(0.0, 10) == "" and output.bar(2.0, 10) == "█" * 10
    assert output.bar(0.05, 10) == "▌"
    monkeypatch.setattr(sys, "stdout", argparse.Namespace(encoding="ascii"))
    assert output.bar(0.5, 10) == "#####"


def test_table_lines_up():
    assert output.table([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"
