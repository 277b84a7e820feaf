"""Adapters of low rank: the same numbers in every form, PEFT's format, memory, the command.

PEFT's format, as the tests hold it: adapter_config.json says r, lora_alpha, target_modules (last parts of Hugging
Face's module paths) and base_model_name_or_path; adapter_model.safetensors has base_model.model.PATH.lora_A.weight
(r, inputs) and lora_B.weight (outputs, r) of each module, so that W + lora_alpha / r B A is Hugging Face's own matrix
with what was learned; of GPT-2, which keeps matrices transposed, its transpose.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lora_cases import IDS, distance, learned, tiny
from safetensors.numpy import load_file, save_file

import pyllm
from pyllm import nn
from pyllm.auto import AutoModelForCausalLM, new_config, new_model
from pyllm.auto.adapters import save_adapter
from pyllm.cli.main import main
from pyllm.data import Conversations
from pyllm.errors import ModelFileError
from pyllm.train import LoraConfig, Trainer, TrainingArguments, add_adapter

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gpt2", "gpt_neox")


# --- models ---


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_b_changes_no_bit(family, tmp_path):
    for dtype in (None, "Q8_0"):
        model = tiny(tmp_path, family, dtype)
        before = model(IDS).logits
        add_adapter(model, LoraConfig(r=4))
        np.testing.assert_array_equal(model(IDS).logits, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_programs_learning_and_merged_weights_give_one_answer(family, tmp_path):
    model = tiny(tmp_path, family)
    base = model(IDS).logits
    adapted = learned(model)(IDS).logits
    assert distance(adapted, base) > 0.05
    state, rows = model.new_state(), []
    for token in IDS[0]:
        rows.append(model.step([(state, [token])])[0])
    np.testing.assert_array_equal(np.stack(rows), adapted[0])  # step by step, the same bits
    model.train()
    assert distance(model.forward(IDS).data, adapted) < 1e-4
    model.set_adapter(None)
    np.testing.assert_array_equal(model(IDS).logits, base)
    model.set_adapter("default")
    merged = model.merge_and_unload()
    assert distance(merged(IDS).logits, adapted) < 1e-4 and not merged.adapters
    assert len(merged.train().parameters()) == len(merged.own_parameters())


def test_merging_quantised_matrices_leaves_the_rest_and_keeps_the_answer(tmp_path):
    model = learned(tiny(tmp_path, dtype="Q8_0"), LoraConfig(r=4, target_modules=["q", "down"]))
    adapted = model(IDS).logits
    model.merge_and_unload()
    layer = model.layers[0]
    assert layer.attention.q.weight.value.dtype == "F32" and layer.attention.k.weight.value.dtype == "Q8_0"
    # Q8_0 takes its inputs in int8 with steps of a 127th of the largest of 32, F32 does not: random layers, whose
    # inputs cancel, make one percent of that six of the logits.
    assert distance(model(IDS).logits, adapted) < 0.1
    with pytest.raises(ValueError, match="an adapter in use"):
        model.merge_and_unload()


@pytest.mark.parametrize("family", FAMILIES)
def test_folders_are_pefts(family, tmp_path):
    model = learned(tiny(tmp_path, family), LoraConfig(r=4, lora_alpha=8))
    adapted = model(IDS).logits
    model.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["task_type"] == "CAUSAL_LM" and config["r"] == 4
    assert Path(config["base_model_name_or_path"]) == tmp_path / "base"
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    before = load_file(tmp_path / "base" / "model.safetensors")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    np.testing.assert_array_equal(again(IDS).logits, adapted)
    model.merge_and_unload().save_pretrained(tmp_path / "merged", dtype="float32")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    modules = {name.removeprefix("base_model.model.").rsplit(".lora_", 1)[0] for name in tensors}
    assert {module.rpartition(".")[2] for module in modules} == set(config["target_modules"])
    for name, matrix in before.items():
        module = name.removesuffix(".weight")
        if module not in modules:
            np.testing.assert_allclose(after[name], matrix, rtol=0, atol=2e-7)  # Gemma's norms are stored less one
            continue
        a, b = (tensors[f"base_model.model.{module}.lora_{each}.weight"] for each in "AB")
        rank = config["rank_pattern"].get(module, 4)
        scale = config["alpha_pattern"].get(module, 8) / rank
        assert len(a) == rank == b.shape[1]
        change = scale * b @ a
        change = change.T if config["fan_in_fan_out"] else change
        np.testing.assert_allclose(after[name], matrix + change, rtol=1e-4, atol=1e-5)


def test_several_adapters_take_turns(tmp_path):
    model = learned(tiny(tmp_path))
    first = model(IDS).logits
    learned(model, LoraConfig(r=2, target_modules=["v_proj"]), spread=1.0, name="second")
    second = model(IDS).logits
    assert set(model.learned()) == {f"layers.{i}.attention.v.lora_{each}" for i in range(2) for each in "AB"}
    model.set_adapter("default")
    np.testing.assert_array_equal(model(IDS).logits, first)
    save_adapter(model, tmp_path / "second", "second")
    other = tiny(tmp_path).load_adapter(tmp_path / "second", "mine")
    np.testing.assert_array_equal(other(IDS).logits, second)


@pytest.mark.parametrize(("family", "names"), [("llama", ["q_proj", "model.norm"]), ("gemma2", ["input_layernorm"]),
                                               ("gpt2", ["c_attn"]), ("gpt_neox", ["query_key_value"])])  # fmt: skip
def test_modules_that_learn_whole_are_hugging_faces_tensors(family, names, tmp_path):
    """Turned into halves, transposed, mixed head by head, less one: the adapter's file as the merged model's."""
    model = tiny(tmp_path, family)
    base = model(IDS).logits
    add_adapter(model, LoraConfig(r=2, modules_to_save=names))
    rng = np.random.default_rng(6)
    for name, parameter in model.learned().items():
        if ".lora_" not in name:
            change = rng.standard_normal(parameter.shape).astype(np.float32) * np.float32(0.3)
            parameter.learn(parameter.array() + change)
    adapted = model.eval()(IDS).logits
    assert distance(adapted, base) > 0.05
    model.save_pretrained(tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    whole = {name.removeprefix("base_model.model."): array for name, array in tensors.items() if ".lora_" not in name}
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert distance(again(IDS).logits, adapted) <= (1e-5 if family == "gemma2" else 0)  # less one, and one again
    again.set_adapter(None)
    np.testing.assert_array_equal(again(IDS).logits, base)
    model.merge_and_unload().save_pretrained(tmp_path / "merged", dtype="float32")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert whole and all(any(part.endswith(n) for n in names) for part in (name.rpartition(".")[0] for name in whole))
    for name, array in whole.items():
        np.testing.assert_array_equal(array, merged[name])
    assert distance(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(IDS).logits, adapted) < 1e-4


def test_an_adapter_becomes_a_gguf_file(tmp_path):
    model = learned(tiny(tmp_path))
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "tokenizer.json").write_bytes((tmp_path / "base" / "tokenizer.json").read_bytes())
    pyllm.convert(tmp_path / "adapter", tmp_path / "merged.gguf", "F32")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged.gguf")(IDS).logits
    assert distance(found, model(IDS).logits) < 1e-4


# --- training ---


def rows(count=12):
    """Random conversations."""
    rng = np.random.default_rng(1)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "then", "thing"]
    return [{"prompt": " ".join(rng.choice(words, 4)), "completion": " " + " ".join(rng.choice(words, 5))}
            for _ in range(count)]  # fmt: skip


def run(folder, out, steps, bf16=False):
    """A run of a quantised model for so many of six steps; the model and its trainer."""
    path = folder / "base.gguf"
    model = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = pyllm.AutoTokenizer.from_pretrained(path)
    add_adapter(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.2), seed=3)
    arguments = TrainingArguments(str(out), per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=6,
                                  learning_rate=1e-2, save_steps=1, bf16=bf16, seed=3)  # fmt: skip
    trainer = Trainer(model, Conversations(rows(), tokenizer, 96), arguments)
    if steps < 6:
        trainer._one_step_before = trainer._one_step

        def stopping():
            values = trainer._one_step_before()
            if trainer.step == steps:
                trainer.stop()
            return values

        trainer._one_step = stopping
    return model, trainer, trainer.train()


@pytest.mark.parametrize("bf16", [False, True])
def test_only_the_adapter_learns_and_a_run_goes_on_to_the_bit(tmp_path, bf16):
    base = tiny(tmp_path, dtype="Q4_1")
    frozen = {name: parameter.array().tobytes() for name, parameter in base.own_parameters().items()}
    whole, trainer, result = run(tmp_path, tmp_path / "a", 6, bf16)
    assert result.complete and len(whole.parameters()) == 2 * 7 * 2
    assert {name: parameter.array().tobytes() for name, parameter in whole.own_parameters().items()} == frozen
    checkpoint = load_file(tmp_path / "a" / "checkpoint-00000006" / "tensors.safetensors")
    assert {n for n in checkpoint if n.startswith("model.")} == {f"model.{n}" for n in whole.learned()}
    assert not run(tmp_path, tmp_path / "b", 3, bf16)[2].complete
    again, _, _ = run(tmp_path, tmp_path / "b", 6, bf16)
    for name, array in whole.state_dict().items():
        assert array.tobytes() == again.state_dict()[name].tobytes(), name
    assert (tmp_path / "a" / "log.jsonl").read_bytes() == (tmp_path / "b" / "log.jsonl").read_bytes()
    losses = [json.loads(line)["loss"] for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    total, trained = whole.num_parameters(), whole.num_parameters(only_trainable=True)
    assert whole.training_flops() == 4 * (total - trained) + 6 * trained == trainer._flops


MEMORY = """
import sys, numpy as np, pyllm
from pyllm import ops
from pyllm.optim import AdamW
from pyllm.train import LoraConfig, add_adapter
def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
model = pyllm.AutoModelForCausalLM.from_pretrained(sys.argv[1])
loaded = peak()
add_adapter(model, LoraConfig(r=4))
optimizer = AdamW(model.train().parameters())
ids = np.arange(33)[None]
with ops.autocast("bf16"):
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
optimizer.step()
print(peak() - loaded)
"""


def test_no_second_copy_of_the_model_is_made(tmp_path):
    sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 12,
             "vocab_size": 16384}  # fmt: skip
    model = new_model(new_config("llama", **sizes)).eval()
    model.save_pretrained(tmp_path, dtype="bfloat16")  # 110 MB
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # 5 MB of adapters and AdamW, 10 MB of activations, 8 MB of slices, OpenBLAS and the code of training.
    assert int(done.stdout) < 60e6 < 4 * model.num_parameters() / 3


# --- the command ---


def test_the_command_ends_with_answers_and_a_folder_that_loads(tmp_path, capsys):
    base = tiny(tmp_path, dtype="Q8_0")
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(60)))
    command = ["finetune", str(tmp_path / "base.gguf"), "--data", str(tmp_path / "chat.jsonl"), "--out",
               str(tmp_path / "run"), "--lora", "4", "--lora-targets", "q,k,v,o", "--lora-dropout", "0.05",
               "--steps", "3", "--lr", "0.01", "--held-out", "6"]  # fmt: skip
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(facts["answers"]) == 5 and facts["answers"] == about["answers"]
    assert all(set(each) == {"prompt", "wanted", "before", "after"} for each in about["answers"])
    assert all(each["prompt"] and each["wanted"] for each in about["answers"])
    targets = base.targets(["q", "k", "v", "o"]).values()
    assert about["trained"] == sum(4 * sum(linear.weight.shape) for linear in targets)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert distance(model(IDS).logits, base(IDS).logits) > 1e-3
    assert main(["generate", "-m", str(tmp_path / "run"), "-p", "the fox", "-n", "4", "--json"]) == 0
    ids = pyllm.AutoTokenizer.from_pretrained(tmp_path / "run").encode("the fox")
    text = json.loads(capsys.readouterr().out)["text"]
    out = model.generate([ids], max_new_tokens=4)[0][len(ids) :]
    assert text.strip() == pyllm.AutoTokenizer.from_pretrained(tmp_path / "base.gguf").decode(out).strip()
    assert main(command) == 0  # done already: the table, from what is there
    shown = capsys.readouterr().out
    assert shown.count("wanted:") == 5 and "before" in shown
    assert main([*command[:5], str(tmp_path / "other"), "--lora-alpha", "4"]) == 2


def test_full_fine_tuning_answers_too(tmp_path, capsys):
    tiny(tmp_path)
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(60)))
    command = ["finetune", str(tmp_path / "base"), "--data", str(tmp_path / "chat.jsonl"), "--out",
               str(tmp_path / "run"), "--steps", "2", "--held-out", "6"]  # fmt: skip
    assert main(command) == 0
    assert capsys.readouterr().out.count("wanted:") == 5
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["answers"]) == 5


# --- errors ---


def test_unknown_targets_name_the_known_ones(tmp_path):
    model = tiny(tmp_path)
    with pytest.raises(ValueError, match=r"'w', 'x' is not known; known are q, k, v, o, gate, up, down"):
        add_adapter(model, LoraConfig(target_modules=["q", "w", "x"]))
    assert not model.adapters
    add_adapter(model, LoraConfig())
    with pytest.raises(ValueError, match="'default' is there already"):
        add_adapter(model, LoraConfig())
    with pytest.raises(ValueError, match="'b' is not known; known are default"):
        model.set_adapter("b")
    with pytest.raises(ValueError, match="merge_and_unload"):
        pyllm.auto.saving.save_folder(model, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "'use_dora': true"),
        ({"peft_type": "IA3"}, "'peft_type': \"IA3\""),
        ({"r": "8"}, "'r': \"8\""),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save'"),
        ({"init_lora_weights": "pissa"}, "'init_lora_weights'"),
        ({"lora_alpha": -1}, "'lora_alpha'"),
        ({"base_model_name_or_path": "not-there"}, "'base_model_name_or_path': not-there: no such file"),
        ({"base_model_name_or_path": None}, "names no model"),
    ],
)
def test_configurations_that_mean_something_else_are_refused(tmp_path, change, message):
    learned(tiny(tmp_path)).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelFileError, match=message):
        AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")


def test_tensors_that_do_not_fit_are_named(tmp_path):
    learned(tiny(tmp_path)).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    sound = load_file(file)
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    wrong = {
        "lora_B.weight': is missing": {n: a for n, a in sound.items() if n != name},
        r"q_proj.lora_B.weight': shape \(63, 4\); \(64, r\)": sound | {name: sound[name][:63].copy()},
        r"q_proj.lora_B.weight': shape \(64, 3\)": sound | {name: sound[name][:, :3].copy()},
        "base_model.model.x.lora_A.weight: the model has no such matrix": sound
        | {"base_model.model.x.lora_A.weight": sound[name]},
    }
    for message, tensors in wrong.items():
        save_file(tensors, file)
        with pytest.raises(ModelFileError, match=message):
            AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")


@pytest.mark.parametrize("wrong", [{"r": 0}, {"lora_alpha": 0}, {"lora_dropout": 1.0}, {"bias": "all"}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"LoraConfig: .*allowed"):
        nn.LoraConfig(**wrong)
