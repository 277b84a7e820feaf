"""`pyllm plan` and `pyllm params` of encoders and encoder-decoders: numbers and operations as transformers has them."""

import json
from dataclasses import asdict

import pair_models
import pytest
import tiny_encoders
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from pyllm import _core
from pyllm.auto.new import SHAPES, new_config
from pyllm.cli import main as frame
from pyllm.formats.config import check_config
from pyllm.models.planning import Plan, memory, sizes, work
from pyllm.models.presets import PRESETS, from_config

WIDE = {"vocab_size": 512, "max_position_embeddings": 80}
LARGER = {
    "bert": {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 320},
    "distilbert": {"dim": 128, "n_layers": 3, "n_heads": 4, "hidden_dim": 320},
}
UNTIED = [f"{family} untied" for family in ("bart", "mbart", "marian", "pegasus", "m2m100")]
LARGER["roberta"] = LARGER["mpnet"] = LARGER["bert"]
LARGER["electra"] = LARGER["bert"] | {"embedding_size": 64}
LARGER["albert"] = LARGER["bert"] | {"embedding_size": 64, "num_hidden_layers": 7, "num_hidden_groups": 2}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Speeds that nobody measures."""
    limits = {"fp32_GFLOPs": 200.0, "bf16_GFLOPs": 400.0}
    monkeypatch.setattr(_core, "measure_limits", lambda: limits)


def said(capsys, verb, *words):
    assert frame.main([verb, *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def counted(family, fields):
    """The sizes of a family with these fields of transformers' configuration."""
    return sizes(from_config(check_config({"model_type": family, **fields}, "config.json")))


@pytest.mark.parametrize("variant", tiny_encoders.VARIANTS)
def test_an_encoder_has_as_many_numbers_as_transformers(variant):
    family, fields = tiny_encoders.VARIANTS[variant]
    theirs = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(family, **fields))
    assert counted(family, fields).parameters == sum(each.numel() for each in theirs.parameters())


@pytest.mark.parametrize("family", LARGER)
def test_operations_are_those_that_torch_counts(family):
    config = transformers.AutoConfig.for_model(family, **(WIDE | LARGER[family]), attn_implementation="eager")
    with torch.device("meta"):
        model = transformers.AutoModelForMaskedLM.from_config(config)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros((1, 64), dtype=torch.long))
    plan = Plan(family, counted(family, WIDE | LARGER[family]), context=64)
    head = 2 * 64 * model.get_output_embeddings().in_features * 128  # ours is planned without, but with its pooler
    pooler = 0 if family in ("distilbert", "electra") else 2 * 64 * 128 * 128
    assert work(plan).total / 3 * 64 == pytest.approx(counter.get_total_flops() - head + pooler, rel=0.01)


@pytest.mark.parametrize("name", SHAPES)
def test_names_of_shapes_are_planned_as_their_configurations(name, capsys):
    config = new_config(name)
    family = type(config).__module__.rpartition(".")[2]
    assert sizes(PRESETS[name]) == sizes(from_config(asdict(config) | {"model_type": family}))
    plan = said(capsys, "plan", name)
    assert plan["parameters"] == said(capsys, "params", name)["total"] and plan["seconds"] > 0
    assert plan["memory"]["training"]["total"] > 16 * plan["parameters"]


def test_layers_that_share_their_weights_run_as_often(capsys):
    shared = counted("albert", WIDE | LARGER["albert"])
    own = counted("bert", WIDE | LARGER["bert"] | {"num_hidden_layers": 7})
    layer = 4 * (128 * 128 + 128) + 2 * 128 * 320 + 320 + 128 + 4 * 128
    assert shared.parameters - (own.parameters - 5 * layer) == -(512 + 80 + 2 + 2) * 64 + (128 * 64 + 128)
    found, wanted = (memory(Plan("a", each, batch=2, context=64)) for each in (shared, own))
    kept = {row.name: row.amount for row in wanted.rows}
    assert next(row.amount for row in found.rows if row.name == "activations") == kept["activations"] + 128 * 192 * 4
    found, wanted = (work(Plan("a", each, context=64)) for each in (shared, own))
    assert found.rows[1] == wanted.rows[1] and "12 x 7 layers" in found.rows[1].how
    again = {row.name: row.amount for row in work(Plan("a", shared, context=64, checkpointing=True)).rows}
    assert again["layers again"] == 2 * 7 * layer
    lora = [row.amount for row in work(Plan("a", shared, context=64, lora=4)).rows]
    assert lora[1] == 6 * 4 * (2 * (4 * 256 + 2 * 448) + 192 + 256)
    assert frame.main(["params", "albert-base"]) == 0
    assert "layers, run 12 times: 4 x 768 x 768" in capsys.readouterr().out


@pytest.mark.parametrize("variant", [*tiny_encoders.VARIANTS, *pair_models.VARIANTS])
def test_folders_are_planned_and_counted(variant, tmp_path, capsys):
    if variant in tiny_encoders.VARIANTS:
        family, fields = tiny_encoders.VARIANTS[variant]
        theirs = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(family, **fields))
        theirs.save_pretrained(tmp_path)
    else:
        theirs, _ = pair_models.save(variant, tmp_path)
    numbers = sum(each.numel() for each in theirs.parameters())
    plan = said(capsys, "plan", tmp_path, "--tokens", "1000")
    computed = [each for name, each in theirs.named_parameters() if "_positions" in name and not each.requires_grad]
    fixed = sum(each.numel() for each in computed)
    spare = 53 * 32 if variant in UNTIED else 0  # a table that nothing reads
    ours = numbers - fixed - spare
    assert plan["parameters"] == ours and plan["training_flop"] > 3 * 1000 * ours
    usual = 39 if variant == "roberta relu" else 38 if variant.startswith(("roberta", "mpnet")) else 40
    assert plan["context"] == (2048 if "t5" in variant else usual)
    running = plan["memory"]["running"]["rows"][0]["amount"]
    assert abs(running - 4 * numbers) <= 4 * 61 + 4 * fixed  # a constant bias of logits is in files too
    found = said(capsys, "params", tmp_path)
    written = fixed if "pegasus" in variant else 0  # sines that are in its files
    assert 0 <= found["total"] - (numbers - fixed + written) <= 61
    assert (found["cache_bytes_per_1000_tokens"] is None) == (variant in tiny_encoders.VARIANTS)
    assert frame.main(["plan", str(tmp_path)]) == 0 and f"{ours:,} parameters" in capsys.readouterr().out


def test_a_context_beyond_the_positions_is_refused(tmp_path, capsys):
    family, fields = tiny_encoders.VARIANTS["roberta"]
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(family, **fields)).save_pretrained(tmp_path)
    assert frame.main(["plan", str(tmp_path), "--context", "39"]) == 2
    assert "knows 38 positions" in capsys.readouterr().err
    assert frame.main(["plan", "albert-base", "--context", "513"]) == 2
    assert frame.main(["plan", "vit", "--config", "hidden_size=48"]) == 1
    assert "counted are: llama" in capsys.readouterr().err
    found = said(capsys, "plan", "albert", "--config", "hidden_size=128,num_attention_heads=4,intermediate_size=256")
    assert found["parameters"] < 6_000_000 and found["context"] == 512
