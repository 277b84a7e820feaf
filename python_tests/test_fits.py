"""What running a model takes is counted before it is loaded; what memory cannot hold is refused with what would fit."""

import subprocess
import sys

import pytest
import tiny_families
import tiny_models

import pyllm
from pyllm import nn
from pyllm.auto import fits
from pyllm.auto.fits import refuse_unless_runs, running_plan
from pyllm.cli import main as frame
from pyllm.errors import ModelFileError
from pyllm.formats import memory as machine_memory
from pyllm.models.planning import memory

CONFIG = tiny_models.llama_config(head_dim=16)


@pytest.fixture
def model(tmp_path):
    """A GGUF file of 8-bit weights."""
    tiny_models.write_gguf(tmp_path / "m.gguf", CONFIG, tiny_models.random_weights(CONFIG), "Q8_0")
    return tmp_path / "m.gguf"


def said(capsys, *words):
    """(exit code, stdout, stderr) of a command."""
    code = frame.main([*map(str, words)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def amounts(plan):
    return {row.name: row.amount for row in memory(plan).rows}


@pytest.mark.parametrize("verb", ["chat", "generate", "next", "score", "eval", "embed", "bench"])
def test_no_verb_begins_to_load_what_does_not_fit(verb, model, capsys, monkeypatch, tmp_path):
    (tmp_path / "text.txt").write_text("a")
    words = {
        "chat": ["-m", model, "-p", "Hi"], "generate": ["-m", model, "-p", "Hi"], "next": [model, "Hi"],
        "score": [model, "Hi"], "eval": [model, "--data", tmp_path], "embed": [model, "Hi"],
        "bench": ["llm", model],
    }[verb]  # fmt: skip
    total = memory(running_plan(model)).total
    monkeypatch.setattr(machine_memory, "available", lambda: total - 1)
    for owner in (pyllm.AutoTokenizer, pyllm.AutoModelForCausalLM):
        monkeypatch.setattr(owner, "from_pretrained", lambda *words, **named: pytest.fail("it loads"))
    code, out, error = said(capsys, verb, *words)
    lines = error.splitlines()
    assert (code, out) == (1, "")
    assert [line.split("  ")[0] for line in lines[:-1]] == ["weights", "cache", "at work", "sum", "available"]
    assert lines[3].endswith(f" {total:,} bytes") and lines[4].endswith(f" {total - 1:,} bytes")
    assert lines[-1].startswith("pyllm: running m.gguf: weights 0.00 GB + cache 0.00 GB + at work 0.07 GB = ")
    assert "; this would fit: a context of " in lines[-1] and "keys and values of type q8_0" in lines[-1]


def test_what_is_proposed_runs(model, capsys, monkeypatch):
    words = ["generate", "-m", model, "-p", "the", "-n", "2", "-c", "512", "-b", "8"]
    asked = running_plan(model, 512, rows=8)
    for more, other in ((["-c", "300"], running_plan(model, 300, rows=8)),
                        (["--cache-type", "q8_0"], running_plan(model, 512, cache_type="q8_0", rows=8))):  # fmt: skip
        free = memory(other).total
        assert free < memory(asked).total
        monkeypatch.setattr(machine_memory, "available", lambda free=free: free)
        code, _, error = said(capsys, *words)
        assert code == 1 and ("a context of 300 tokens; " in error or "-c" not in more) and "type q8_0" in error
        assert said(capsys, *words, *more)[0] == 0
    for free in (memory(asked).total, None):
        monkeypatch.setattr(machine_memory, "available", lambda free=free: free)
        assert said(capsys, *words)[0] == 0


def test_the_parts_are_those_of_the_file_and_the_settings(model, tmp_path):
    plan = running_plan(model, 100)
    with fits.opened(model) as source:
        stored = sum(info.nbytes for info in source.tensors.values())
    found = amounts(plan)
    assert plan.dtype == "Q8_0" and stored <= found["weights"] - 4 * 2**20 <= 1.04 * stored
    layers, groups, dim = pyllm.AutoModelForCausalLM.from_pretrained(model).cache
    numbers = 100 * 2 * layers * groups * dim
    assert amounts(running_plan(model, 100))["cache"] == numbers * 2
    assert amounts(running_plan(model, 100, precision="high"))["cache"] == numbers * 4
    for kind, size in (("f32", 4), ("bf16", 2), ("q8_0", 1.125)):
        assert amounts(running_plan(model, 100, cache_type=kind))["cache"] == numbers * size
    assert running_plan(model).context == CONFIG["max_position_embeddings"] < fits.CONTEXT
    tiny_models.write_folder(tmp_path / "exact", CONFIG, tiny_models.random_weights(CONFIG))
    exact = running_plan(tmp_path / "exact", 100)
    assert (exact.dtype, exact.cache, exact.name) == ("fp32", "F32", "exact") and amounts(exact)["cache"] == numbers * 4
    learned = pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / "exact")
    learned.add_adapter(nn.LoraConfig(2, 4.0)).save_pretrained(tmp_path / "adapter")
    assert amounts(running_plan(tmp_path / "adapter", 100)) == amounts(exact)
    with pytest.raises(ValueError, match="cache_type: 'q4', allowed are F32, BF16, Q8_0"):
        running_plan(model, cache_type="q4")
    with pytest.raises(ModelFileError, match=r"no\.gguf: "):
        refuse_unless_runs(tmp_path / "no.gguf")


@pytest.mark.parametrize("family", [*tiny_families.OWN, "gpt2"])
def test_every_family_is_counted_from_its_folder(family, tmp_path):
    config = tiny_models.gpt2_config() if family == "gpt2" else tiny_families.config(family)
    tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config))
    model = pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    plan = running_plan(tmp_path / "m", 50)
    layers, groups, dim = model.cache
    assert amounts(plan)["cache"] == 50 * 2 * layers * groups * dim * 4 and plan.cache == model.cache_type
    assert plan.sizes.parameters == model.num_parameters() and amounts(plan)["at work"] > 64 * 2**20


GROWTH = """
import sys
import numpy as np
import pyllm
from pyllm.auto.fits import refuse_unless_runs, running_plan
from pyllm.formats.memory import most_taken
from pyllm.models.planning import memory

before = most_taken()
refuse_unless_runs(sys.argv[1])
tokenizer = pyllm.AutoTokenizer.from_pretrained(sys.argv[1])
model = pyllm.AutoModelForCausalLM.from_pretrained(sys.argv[1])
model.step([(model.new_state(), np.arange(2048, dtype=np.int32) + 100)])
print(memory(running_plan(sys.argv[1])).total / (most_taken() - before))
"""


def test_the_default_model_takes_what_was_counted_and_is_not_refused(smollm2):
    done = subprocess.run([sys.executable, "-c", GROWTH, smollm2], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 0.9 <= float(done.stdout) <= 1.6  # of what loading it and reading 2,048 tokens took
