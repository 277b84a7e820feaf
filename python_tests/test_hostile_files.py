"""Every hostile file gives one typed error that says what and where; none runs code, hangs or eats memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import folder_cases, gguf_cases, gguf_writer, safetensors_cases

import pyllm

PACKAGE = str(Path(pyllm.__file__).parent.parent)
HERE = Path(__file__).parent
GGUF_CASES = {name: (data, fragments) for name, data, fragments in gguf_cases.all_cases()}
SAFETENSORS_CASES = {name: (data, fragments) for name, data, fragments in safetensors_cases.all_cases()}
FOLDER_CASES = {case.name: case for case in folder_cases.all_cases()}
LONGEST = 1.0  # seconds for one file


def write_folder(path: Path, files: dict, links: dict[str, str]) -> None:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    for name, target in links.items():
        (path / name).symlink_to(target)


def run_child(good: list[str], paths: list[str]) -> dict[str, dict]:
    """What the watched process says about each path."""
    text = "\n".join(["\t".join(good), *paths])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([PACKAGE, *sys.path])}
    command = [sys.executable, str(HERE / "hostile" / "child.py")]
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"exit {done.returncode} after {lines[-1:]}: {done.stderr[-2000:]}"
    return {line["path"]: line for line in lines}


@pytest.fixture(scope="module")
def good_files(tmp_path_factory) -> list[str]:
    """One valid file of each format."""
    root = tmp_path_factory.mktemp("good")
    (root / "llama.gguf").write_bytes(gguf_writer.tiny_llama().pack())
    (root / "gpt2.gguf").write_bytes(gguf_writer.tiny_gpt2().pack())
    (root / "tiny.safetensors").write_bytes(safetensors_cases.tiny())
    side = {"tokenizer.json": {}, "tokenizer_config.json": {"chat_template": "x"}, "generation_config.json": {}}
    write_folder(root / "llama", folder_cases.folder(**side), {})
    write_folder(root / "gpt2", folder_cases.folder(folder_cases.GPT2), {})
    return [str(path) for path in sorted(root.iterdir())]


@pytest.fixture(scope="module")
def results(tmp_path_factory, good_files) -> dict[str, dict]:
    """Case -> what loading it did; all of them in one process."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "outside").write_bytes(b"{}")
    paths: dict[str, str] = {}
    for index, (name, (data, _)) in enumerate(GGUF_CASES.items()):
        paths[f"gguf {name}"] = str(root / f"{index}.gguf")
        (root / f"{index}.gguf").write_bytes(data)
    for index, (name, (data, _)) in enumerate(SAFETENSORS_CASES.items()):
        paths[f"safetensors {name}"] = str(root / f"{index}.safetensors")
        (root / f"{index}.safetensors").write_bytes(data)
    for index, (name, case) in enumerate(FOLDER_CASES.items()):
        paths[f"folder {name}"] = str(root / f"folder{index}")
        write_folder(root / f"folder{index}", case.files, case.links)
    found = run_child(good_files, list(paths.values()))
    return {name: found[path] for name, path in paths.items()}


def check(result: dict, fragments: tuple[str, ...]) -> None:
    assert result["kind"] == "ModelFileError", result
    missing = [fragment for fragment in fragments if fragment not in result["error"]]
    assert not missing, (missing, result["error"])
    assert result["error"].isprintable() and len(result["error"]) < 5000
    assert result["forbidden"] == []
    assert result["seconds"] < LONGEST


def test_good_files_load(good_files):
    assert [each["kind"] for each in run_child(good_files, good_files).values()] == ["loaded"] * 5


@pytest.mark.parametrize("name", GGUF_CASES)
def test_gguf(results, name):
    check(results[f"gguf {name}"], GGUF_CASES[name][1])


@pytest.mark.parametrize("name", SAFETENSORS_CASES)
def test_safetensors(results, name):
    check(results[f"safetensors {name}"], SAFETENSORS_CASES[name][1])


@pytest.mark.parametrize("name", FOLDER_CASES)
def test_folder(results, name):
    check(results[f"folder {name}"], FOLDER_CASES[name].fragments)


def test_enough_files_were_tried(results):
    assert len(results) >= 600


def test_names_of_cases_are_unique():
    assert len(GGUF_CASES) == len(gguf_cases.all_cases())
    assert len(SAFETENSORS_CASES) == len(safetensors_cases.all_cases())
    assert len(FOLDER_CASES) == len(folder_cases.all_cases())


def test_the_watch_notices_code_and_files_outside(tmp_path):
    """The audit hook itself: a loader that imports, compiles or reads elsewhere would be caught."""
    script = "import child, sys; sys.addaudithook(child.hook); child.watched = '/nowhere/'\n"
    script += "compile('1', 'x', 'eval'); open('/etc/hostname').close(); import wave\n"
    script += "child.watched = ''; print(sorted({each.split()[0] for each in child.events}))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE / "hostile"), PACKAGE, *sys.path])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip().startswith("['compile', 'exec', 'import', ") and "'open'" in done.stdout
