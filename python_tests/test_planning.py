"""`pyllm plan` and the arithmetic behind it: published figures, sums that add up, refusals that say what would fit."""

from __future__ import annotations

import json
import pickle
from importlib import import_module

import pytest
import tiny_families
from hostile import gguf_writer
from hypothesis import given
from hypothesis import strategies as st

from pyllm import _core
from pyllm.cli import main as frame
from pyllm.cli import plan as verb
from pyllm.errors import DoesNotFitError, ModelFileError
from pyllm.formats import memory as machine_memory
from pyllm.formats.config import check_config
from pyllm.models import fitting, planning
from pyllm.models.counting import count_preset
from pyllm.models.planning import Plan, memory, sizes, tokens_in, training_flop, work
from pyllm.models.presets import PRESETS, from_config

LLAMA = sizes(PRESETS["llama-7b"])
GPT2_CONFIG = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 100}


def plan(name="gpt2", **more) -> Plan:
    """A plan for a published size."""
    return Plan(name, sizes(PRESETS[name]), **more)


def amounts(found) -> dict[str, int]:
    return {row.name: row.amount for row in found.rows}


def test_llama_7b_on_50_terabytes():
    assert LLAMA.parameters == 6_738_415_616
    assert LLAMA.multiplied == 6_738_415_616 - 32_000 * 4096
    count = tokens_in(50e12)
    assert f"{count:.1e}" == "1.1e+13"
    assert f"{training_flop(plan('llama-7b'), count):.1e}" == "4.6e+23"
    assert amounts(work(plan("llama-7b")))["attention"] == 6 * 32 * 4096 * 2048


def test_gpt2_counts_its_embedding_once():
    assert plan().sizes.looked_up == 1024 * 768
    assert amounts(work(plan()))["weights"] == 6 * (124_439_808 - 1024 * 768) == 741_920_256
    assert plan().sizes.vocabulary == 50_257


def test_an_mlp_by_hand():
    mlp = Plan("mlp", sizes([5, 4, 3, 2, 1]), batch=10, context=1)
    assert work(mlp).total == 6 * 50 and training_flop(mlp, 1e6) == 3e8
    found = amounts(memory(mlp))
    assert found == {"weights": 200, "gradients": 200, "moments": 400, "activations": 10 * (9 + 7 + 5 + 3) * 4}
    with pytest.raises(ValueError, match="batch is 0, at least 1"):
        memory(mlp._replace(batch=0))
    with pytest.raises(ValueError, match="dtype is 'fp8', allowed are fp32, bf16"):
        memory(mlp._replace(dtype="fp8"))
    with pytest.raises(ValueError, match="a share from 0 to 1"):
        work(mlp._replace(trainable=1.5))


def test_training_takes_16_bytes_a_parameter():
    n = LLAMA.parameters
    found = amounts(memory(plan("llama-7b", batch=2, context=100)))
    assert found["weights"] + found["gradients"] + found["moments"] == 16 * n
    layer = 4 * (4096 + 4096) + 3 * (4096 + 11_008)
    assert found["activations"] == 200 * 32 * layer * 4
    assert found["logits"] == 200 * 32_000 * 2 * 4
    half = amounts(memory(plan("llama-7b", batch=2, context=100, dtype="bf16")))
    assert half["bf16 copies"] == 2 * n and 2 * half["activations"] == found["activations"]
    part = amounts(memory(plan("llama-7b", trainable=0.25)))
    assert part["gradients"] == n == part["moments"] // 2


def test_lora_trains_rank_times_inputs_and_outputs():
    adapters = 8 * 32 * (4 * (4096 + 4096) + 3 * (4096 + 11_008))
    found = amounts(memory(plan("llama-7b", lora=8, dtype="bf16")))
    assert found["weights"] == 2 * LLAMA.parameters and found["adapters"] == 16 * adapters
    assert [row.amount for row in work(plan("llama-7b", lora=8)).rows[:2]] == [4 * LLAMA.multiplied, 6 * adapters]
    assert work(plan("gpt2", trainable=0.0)).rows[0].amount == 4 * 123_653_376


def test_layers_that_are_run_again_keep_what_they_read():
    kept, again = plan(batch=2, context=100), plan(batch=2, context=100, checkpointing=True)
    found, all_of_them = amounts(memory(again)), amounts(memory(kept))
    layer = 768 + 3 * 768 + 2 * 768 + 2 * 5 * 768
    assert found.pop("layer inputs") == 200 * 12 * 768 * 4 and found["activations"] == 200 * layer * 4
    assert all_of_them.pop("activations") == 12 * found.pop("activations") and found == all_of_them
    half = amounts(memory(again._replace(dtype="bf16")))
    assert half["layer inputs"] == 200 * 12 * 768 * 4 and half["activations"] == 200 * layer * 2
    more = work(again).total - work(kept).total
    assert more == 2 * 12 * (12 * 768 * 768 + 13 * 768) + 4 * 12 * 768 * 50
    both = plan("t5-small", checkpointing=True)
    assert amounts(memory(both))["layer inputs"] == 2048 * 12 * 512 * 4
    with pytest.raises(ValueError, match="gradient checkpointing of net, which has no layers to run again"):
        memory(Plan("net", sizes([5, 4]), checkpointing=True))


def test_a_run_that_fits_with_layers_run_again_is_told_so():
    asked = plan("gpt2", batch=8, context=1024)
    again = asked._replace(checkpointing=True)
    free = memory(again).total
    with pytest.raises(DoesNotFitError, match="would fit: gradient checkpointing with the same batch and context; a b"):
        fitting.refuse_unless_fits(asked, free)
    fitting.refuse_unless_fits(again, free)
    assert fitting.advice(asked, free - 1)[0] == "gradient checkpointing with a batch of 7"
    assert not any("checkpointing" in each for each in fitting.advice(again, free - 1))
    assert not any("checkpointing" in each for each in fitting.advice(asked, 10**9))
    lora = plan("llama-7b", lora=8, dtype="bf16", batch=16)
    assert fitting.advice(lora, memory(lora._replace(checkpointing=True)).total)[0].startswith("gradient checkpointing")


def test_running_takes_weights_and_cache():
    found = amounts(memory(plan("llama2-70b", running=True, dtype="bf16", batch=3, context=1000)))
    assert found == {"weights": 2 * 68_976_648_192, "cache": 3 * 1000 * 2 * 80 * 8 * 128 * 2}
    assert memory(plan(running=True, weights=7, context=1)).rows[0].amount == 7
    assert len(memory(plan("bert-base", running=True, context=1)).rows) == 1


def test_encoder_and_decoder_share_the_tokens():
    t5 = plan("t5-small", context=512)
    assert [each.name for each in t5.sizes.attention] == ["encoder", "decoder", "cross attention"]
    assert training_flop(t5, 1000) == 500 * work(t5).total
    assert amounts(work(t5))["encoder"] == 2 * amounts(work(t5))["decoder"] == 12 * 6 * 512 * 512


@pytest.mark.parametrize("name", PRESETS)
def test_every_published_size_can_be_planned(name):
    found = plan(name)
    assert 0 <= found.sizes.looked_up < 0.5 * found.sizes.parameters
    assert found.sizes.inputs_and_outputs() > 0 and found.sizes.vocabulary > 1000
    assert memory(found).total > 16 * found.sizes.parameters
    assert found.sizes.attention[0].width % 64 == 0


@pytest.mark.parametrize("family", [*tiny_families.OWN, "gpt2"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("biases", [False, True])
def test_a_configuration_is_counted_as_the_model_is_built(family, tied, biases):
    raw = dict(GPT2_CONFIG, n_inner=48) if family == "gpt2" else tiny_families.config(family)
    raw |= {"model_type": family, "tie_word_embeddings": tied}
    raw |= {} if family == "gpt2" else {"attention_bias": biases, "mlp_bias": biases and family == "llama"}
    checked = check_config(raw, "config.json")
    module = import_module(f"pyllm.models.{family}")
    names = module.Config.__dataclass_fields__
    model = module.Model(module.Config(**{name: value for name, value in checked.items() if name in names}))
    assert count_preset(from_config(checked)).total == model.num_parameters()


def test_a_family_that_cannot_be_counted_is_refused():
    with pytest.raises(ModelFileError, match="counted are: llama"):
        from_config({"model_type": "mamba"})


def test_machines_are_rounded_up():
    assert planning.machines(30 * 86_400) == 1 and planning.machines(30 * 86_400 + 1) == 2
    assert planning.machines(0.0) == 1 and planning.machines(10 * 86_400, days=1) == 10


@given(st.integers(0, 50), st.integers(0, 60))
def test_the_largest_that_is_good(limit, high):
    assert fitting.largest(lambda n: n <= limit, high) == min(limit, high)


def test_what_does_not_fit_is_refused_with_what_would():
    asked = plan("gpt2", batch=64, context=1024)
    free = memory(asked._replace(batch=5)).total
    fitting.refuse_unless_fits(asked._replace(batch=5), free)
    fitting.refuse_unless_fits(asked, None)
    with pytest.raises(DoesNotFitError) as caught:
        fitting.refuse_unless_fits(asked, free)
    error = caught.value
    assert error.needed == memory(asked).total and error.available == free
    assert "a batch of 5" in error.advice and "with a batch of 10; a batch of 5; LoRA of rank 8 on fp32" in str(error)
    assert "training gpt2: weights 0.50 GB + gradients 0.50 GB + moments 1.00 GB + activations" in str(error)
    assert error.table.splitlines()[0] == "weights      124,439,808 x 4 bytes = 497,759,232 bytes"
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.rows, again.advice) == (str(error), error.rows, error.advice)


def test_a_shorter_context_lora_or_a_smaller_model_is_proposed():
    asked = plan("gpt2-xl", batch=4, context=1024)
    free = memory(asked._replace(batch=1, context=700)).total
    found = fitting.advice(asked, free)
    assert found[0] == "gradient checkpointing with the same batch and context"
    assert found[1] == "a context of 700 tokens with a batch of 1"
    assert found[2].startswith("LoRA of rank 8 on ") and found[-1].endswith(" with the same batch and context")
    smaller = fitting.smaller(asked, free)
    assert memory(plan(smaller, batch=4, context=1024)).total <= free
    tight = fitting.advice(plan("llama-7b", lora=8), 2 * LLAMA.parameters + 2 * 10**9)
    assert tight[-2].startswith("LoRA of rank 8 on bf16 weights with a context of ")
    assert fitting.advice(asked, 1000) == []
    assert PRESETS[fitting.smaller(plan("gpt2-xl", context=2048), 10**10)].shape != "gpt2"  # it knows 1,024 positions
    short, free = plan("gpt2-xl", context=1024), memory(plan("gpt2-large", context=1024)).total
    assert fitting.smaller(short, free) == "gpt2-large"
    assert fitting.smaller(short._replace(context=1025), free + 10**8) != "gpt2-large"


def test_a_model_to_run_gets_other_types():
    asked = plan("llama-7b", running=True, dtype="fp32", context=2048)
    assert "weights as bf16 or Q8_0 or Q4_0" in fitting.advice(asked, 15 * 10**9)
    with pytest.raises(DoesNotFitError, match=r"^running llama-7b: weights 26\.95 GB"):
        fitting.refuse_unless_fits(asked, 15 * 10**9)


@pytest.fixture
def machine(monkeypatch):
    """A machine of 200 GFLOP/s with 20 GB."""
    monkeypatch.setattr(verb, "measured", lambda args: {"peak": 2e11, "threads": 2})
    monkeypatch.setattr(machine_memory, "available", lambda: 20 * 10**9)


def said(capsys, *words: str) -> tuple[int, str, str]:
    code = frame.main(["plan", *words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def facts(capsys, *words: str) -> dict:
    code, out, error = said(capsys, *words, "--json")
    assert code == 0, error
    return json.loads(out)


def test_the_plan_of_llama_7b_is_written_out(capsys, machine):
    code, out, _ = said(capsys, "llama-7b", "--data", "50TB")
    assert code == 0
    for line in (
        "llama-7b: 6,738,415,616 parameters",
        "tokens: 50.0 TB / 4.5 bytes a token = 1.11e+13",
        "6 x N = 6 x 6,607,343,616 =",
        "training: 1.11e+13 tokens x 41.25 GFLOP = 4.58e+23 FLOP",
        "200.0 GFLOP/s in fp32 measured with 2 threads x 0.5 assumed share = 100.0 GFLOP/s",
        "20.0 GB are available: does not fit",
        "training would fit with:",
    ):
        assert line in out
    found = facts(capsys, "llama-7b", "--data", "50TB")
    assert found["seconds"] == found["training_flop"] / 1e11
    assert found["machines_for_30_days"] == planning.machines(found["seconds"]) > 10**6
    fits = {name: each["fits"] for name, each in found["memory"].items()}
    assert fits["training"] is fits["running fp32"] is False and fits["running bf16"] is fits["running Q4_0"] is True
    for each in (*found["memory"].values(), found["flop_per_token"]):
        assert each["total"] == sum(row["amount"] for row in each["rows"])


def test_flags_change_the_plan(capsys, machine):
    base = facts(capsys, "gpt2", "--tokens", "1e9")
    assert base["context"] == 1024 and base["tokens"] == 10**9 and base["advice"] == []
    more = facts(capsys, "gpt2", "--tokens", "1e9", "--share", "0.25", "--batch", "3", "--context", "512")
    assert more["seconds"] > 1.8 * base["seconds"] and (more["batch"], more["context"]) == (3, 512)
    assert facts(capsys, "gpt2")["tokens"] == 20 * 124_439_808
    assert facts(capsys, "gpt2", "--data", "9kB", "--bytes-per-token", "3")["tokens"] == 3000
    low, high = (facts(capsys, "gpt2", "--lora", n)["memory"]["lora"]["rows"][1]["amount"] for n in ("4", "8"))
    assert high == 2 * low
    again = facts(capsys, "gpt2", "--gradient-checkpointing")
    assert again["gradient_checkpointing"] and again["seconds"] > facts(capsys, "gpt2")["seconds"]
    assert again["memory"]["training"]["total"] < facts(capsys, "gpt2")["memory"]["training"]["total"]
    assert "layer inputs" in said(capsys, "gpt2", "--gradient-checkpointing")[1]
    names = [row["name"] for row in facts(capsys, "gpt2", "--dtype", "bf16")["memory"]["training"]["rows"]]
    assert "bf16 copies" in names
    assert "examples: 1,000" in said(capsys, "mlp", "5", "4", "--tokens", "1000")[1]
    assert "a pair, one token of the source" in said(capsys, "t5-small")[1]


def test_a_family_with_its_configuration(capsys, machine):
    text = ",".join(f"{key}={value}" for key, value in GPT2_CONFIG.items())
    found = facts(capsys, "gpt2", "--config", text)
    assert found["context"] == 64
    assert found["parameters"] == 164 * 32 + 2 * (12 * 32 * 32 + 13 * 32) + 64


def test_a_file_is_planned_with_its_own_bytes(capsys, machine, tmp_path):
    (tmp_path / "m.gguf").write_bytes(gguf_writer.tiny_llama().pack())
    found = facts(capsys, str(tmp_path / "m.gguf"))
    assert found["parameters"] > 5 * 32 and set(found["memory"]) == {"training", "lora", "running"}
    assert found["memory"]["running"]["rows"][0]["amount"] < 4 * found["parameters"]
    assert "memory for running, 1 x " in said(capsys, str(tmp_path / "m.gguf"))[1]
    code, _, error = said(capsys, str(tmp_path / "no.gguf"))
    assert code == 1 and "no.gguf: cannot be opened" in error


def test_unknown_memory_is_said(capsys, machine, monkeypatch):
    monkeypatch.setattr(machine_memory, "available", lambda: None)
    assert facts(capsys, "llama-7b")["memory"]["training"]["fits"] is None
    assert "how much memory is available is unknown" in said(capsys, "llama-7b")[1]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["llama-20b"], "LLaMA was released as"),
        (["gpt2", "--data", "1GB", "--tokens", "5"], "one of them is wanted"),
        (["gpt2", "--data", "much"], "an amount such as 50TB"),
        (["gpt2", "--data", "0"], "an amount such as 50TB"),
        (["gpt2", "--data", "9e99"], "an amount such as 50TB"),
        (["gpt2", "--tokens", "nan"], "a finite number"),
        (["gpt2", "--context", "2000"], "knows 1,024 positions"),
        (["gpt2", "5"], "sizes are for mlp only"),
        (["mlp", "5"], "at least two sizes"),
        (["mlp", "5", "4", "--data", "1GB"], "it reads examples, not text"),
        (["mlp", "5", "4", "--gradient-checkpointing"], "is for models of larger layers"),
        (["llama-7b", "--config", "a=1"], "--config wants a family: gpt2"),
        (["gpt2", "--config", "n_layer"], "K=V,K=V is wanted"),
        (["a\x1b[2Jb"], "a\\x1b[2Jb: unknown model"),
    ],
)
def test_wrong_usage_ends_with_2(capsys, machine, words, why):
    code, out, error = said(capsys, *words)
    assert code == 2 and out == "" and why in error


@pytest.mark.parametrize("config", ["n_layer=-1", "n_layer=[[[", "n_layer=NaN", "n_layer=" + "9" * 5000])
def test_a_bad_configuration_ends_with_1(capsys, machine, config):
    rest = ",".join(f"{key}={value}" for key, value in GPT2_CONFIG.items() if key != "n_layer")
    code, out, error = said(capsys, "gpt2", "--config", f"{rest},{config}")
    assert code == 1 and out == "" and "config 'n_layer'" in error


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("50TB", 5e13), ("1.5 GB", 1.5e9), ("10GiB", 10 * 2**30), ("1e9", 1e9), ("3k", 3000), ("2KiB", 2048), ("7B", 7)],
)
def test_amounts(text, nbytes):
    assert verb.amount(text) == nbytes


def test_this_machine_is_measured(capsys):
    before = _core.threads()
    try:
        found = facts(capsys, "mlp", "5", "4", "3", "2", "1", "--threads", "1")
    finally:
        _core.set_threads(before)
    assert found["machine"]["peak"] > 1e8 and found["machine"]["threads"] == 1
