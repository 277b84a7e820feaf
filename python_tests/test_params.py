"""`pyllm params` and `pyllm models`: counts as published, written as a person would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hostile import folder_cases, gguf_writer

from pyllm.cli import main as frame
from pyllm.formats import memory
from pyllm.models.catalogue import FAMILIES, LATER
from pyllm.models.counting import count_preset
from pyllm.models.presets import ALIASES, PRESETS

# Counts of the published checkpoints (of the base models where heads are separate; of Gemma 3 the text).
PUBLISHED = {
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-30b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt-neox-20b": 20_554_567_680,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mistral-nemo-12b": 12_247_782_400,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "gemma-3-4b": 3_880_263_168,
    "gemma-3-12b": 11_766_034_176,
    "gemma-3-27b": 27_009_346_304,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "transformer-base": 63_084_544,  # torch.nn.Transformer's 44,140,544 and the table; the paper rounds to 65 million
    "transformer-big": 214_249_472,  # "213 million"
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "all-minilm-l6-v2": 22_713_216,
    "all-minilm-l12-v2": 33_360_000,
    "roberta-base": 124_645_632,
    "distilbert-base": 66_362_880,
    "albert-base": 11_683_584,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "flan-t5-small": 76_961_152,
    "flan-t5-base": 247_577_856,
    "bart-base": 139_420_416,
    "bart-large": 406_291_456,
    "marian-base": 73_886_208,
    "mpnet-base": 109_486_464,
    "all-mpnet-base-v2": 109_486_464,
    "electra-small": 13_483_008,
    "electra-base": 108_891_648,
    "mt5-small": 300_176_768,
    "mt5-base": 582_401_280,
    "pegasus-large": 568_699_904,
    "m2m100-418m": 483_905_536,
    "nllb-200-600m": 615_073_792,
}


def params(capsys, *words: str) -> tuple[int, str, str]:
    code = frame.main(["params", *words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def facts(capsys, *words: str) -> dict:
    code, out, _ = params(capsys, *words, "--json")
    assert code == 0
    return json.loads(out)


def test_every_preset_has_its_published_count():
    assert {name: count_preset(preset).total for name, preset in PRESETS.items()} == PUBLISHED
    assert set(ALIASES.values()) <= set(PRESETS)


def test_an_mlp_is_written_out(capsys):
    code, out, _ = params(capsys, "mlp", "5", "4", "3", "2", "1")
    assert code == 0
    assert out.splitlines() == [
        "layer 1: 5 x 4 = 20 weights + 4 biases = 24",
        "layer 2: 4 x 3 = 12 weights + 3 biases = 15",
        "layer 3: 3 x 2 = 6 weights + 2 biases = 8",
        "layer 4: 2 x 1 = 2 weights + 1 bias = 3",
        "24 + 15 + 8 + 3 = 50",
    ]
    assert facts(capsys, "mlp", "5", "4", "3", "2", "1")["total"] == 50


def test_a_preset_is_written_out(capsys):
    _, out, _ = params(capsys, "llama-7b")
    assert "attention key, value: 2 x 4,096 x 4,096 = 33,554,432 weights" in out
    assert "32 layers x 202,383,360 = 6,476,267,520" in out
    assert "131,072,000 + 6,476,267,520 + 4,096 + 131,072,000 = 6,738,415,616" in out
    _, out, _ = params(capsys, "gpt2")
    assert "feed-forward up: 768 x 3,072 = 2,359,296 weights + 3,072 biases = 2,362,368" in out


@pytest.mark.parametrize("name", [*PRESETS, *ALIASES])
def test_groups_and_parts_add_up(capsys, name):
    found = facts(capsys, name)
    assert found["total"] == PUBLISHED[ALIASES.get(name, name)] == sum(group["total"] for group in found["groups"])
    for group in found["groups"]:
        assert group["total"] == group["repeat"] * sum(part["size"] for part in group["parts"])
    assert found["bytes"]["fp32"] == 4 * found["total"] == 2 * found["bytes"]["bf16"]
    assert 0 <= found["bytes"]["Q4_0"] < found["bytes"]["Q8_0"] < found["bytes"]["bf16"]


def test_bytes_and_cache_of_llama_7b(capsys):
    found = facts(capsys, "llama-7b")
    vectors = 65 * 4096
    matrices = found["total"] - vectors
    assert found["bytes"]["Q8_0"] == matrices // 32 * 34 + 4 * vectors
    assert found["bytes"]["Q4_0"] == matrices // 32 * 18 + 4 * vectors
    assert found["cache_bytes_per_1000_tokens"] == 1000 * 2 * 32 * 4096 * 2
    assert facts(capsys, "llama2-70b")["cache_bytes_per_1000_tokens"] == 1000 * 2 * 80 * 8 * 128 * 2
    assert facts(capsys, "bert-base")["cache_bytes_per_1000_tokens"] is None


def test_whether_it_fits_depends_on_memory(capsys, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 14_500_000_000)
    assert facts(capsys, "llama-7b")["fits"] == {"fp32": False, "bf16": True, "Q8_0": True, "Q4_0": True}
    _, out, _ = params(capsys, "llama-7b")
    assert "does not fit" in out and "14.5 GB" in out
    monkeypatch.setattr(memory, "available", lambda: None)
    assert facts(capsys, "llama-7b")["fits"]["fp32"] is None


def test_a_size_that_never_was(capsys):
    code, out, error = params(capsys, "llama-20b")
    assert code == 2 and out == ""
    assert "LLaMA was released as llama-7b, llama-13b, llama-30b, llama-65b;" in error
    assert "20 billion parameters: gpt-neox-20b" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bert-bse"], "did you mean bert-base?"),
        (["qqqq"], "known are: mlp, llama-7b"),
        (["mlp"], "at least two sizes"),
        (["mlp", "5", "0"], "a whole number from 1"),
        (["gpt2", "7"], "sizes are for mlp only"),
        (["a\x1b[2Jb"], "a\\x1b[2Jb: unknown model"),
        ([], "required: model"),
    ],
)
def test_wrong_usage_ends_with_2(capsys, words, said):
    code, out, error = params(capsys, *words)
    assert code == 2 and out == "" and said in error


def test_a_missing_file_ends_with_1(capsys, tmp_path):
    code, _, error = params(capsys, str(tmp_path / "no.gguf"))
    assert code == 1 and "no.gguf: cannot be opened: No such file" in error


def test_files_are_counted_as_they_are(capsys, tmp_path):
    model = gguf_writer.tiny_llama()
    (tmp_path / "m.gguf").write_bytes(model.pack())
    found = facts(capsys, str(tmp_path / "m.gguf"))
    matrices = 5 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 32
    assert found["total"] == matrices + 3 * 32
    assert found["cache_bytes_per_1000_tokens"] == 1000 * 2 * 1 * 1 * 16 * 2
    rows = {group["name"]: group for group in found["groups"]}
    assert rows["blk.*.attn_q.weight"]["type"] == "Q4_0" and rows["token_embd.weight"]["type"] == "F32"
    other = model.with_metadata("general.architecture", gguf_writer.value(gguf_writer.STRING, "mamba"))
    (tmp_path / "other.gguf").write_bytes(other.pack())
    assert facts(capsys, str(tmp_path / "other.gguf"))["total"] == found["total"]


@pytest.mark.parametrize("config", [folder_cases.LLAMA, folder_cases.GPT2])
def test_folders_are_counted(capsys, tmp_path, config):
    for name, content in folder_cases.folder(config).items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    found = facts(capsys, str(tmp_path))
    assert found["total"] == 6
    assert found["cache_bytes_per_1000_tokens"] == 1000 * 2 * 2 * (16 if config is folder_cases.LLAMA else 32)


def test_models_lists_every_family(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PYLLM_HOME", str(tmp_path))
    (tmp_path / "x.gguf").write_bytes(b"12345")
    assert frame.main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [family["name"] for family in found["families"]]
    wanted = "MLP RNN LSTM GRU seq2seq Transformer ULMFiT AWD-LSTM BERT GPT GPT-2 T5 BART LLaMA GPT-NeoX InstructGPT"
    wanted += " MPNet ELECTRA mT5 UMT5 Pegasus M2M100 NLLB"
    wanted += " ChatGPT Pythia Mistral Gemma Qwen2 Qwen2.5 Qwen3 Marian mBART RoBERTa ALBERT DistilBERT ViT"
    assert set(wanted.split()) | {"Llama 2", "Llama 3", "Gemma 2", "Gemma 3", "seq2seq + attention"} == set(names)
    assert [family["year"] for family in found["families"]] == sorted(family["year"] for family in found["families"])
    assert found["files"] == [{"path": str(tmp_path / "x.gguf"), "bytes": 5}]
    assert frame.main(["models"]) == 0
    shown = capsys.readouterr().out
    for family in FAMILIES:
        assert f"{family.year}  {family.name} " in shown and family.paper[:60] in shown


def test_only_families_that_exist_are_claimed():
    claimed = {family.name: family.file for family in FAMILIES if family.file != LATER}
    later = {"GPT", "InstructGPT", "ChatGPT"}
    assert set(claimed) == {family.name for family in FAMILIES} - later
    root = Path(__file__).parent.parent
    assert all((root / file).is_file() for file in claimed.values())
