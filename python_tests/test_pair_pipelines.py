"""Texts in, texts out: tokenizers of folders, tasks with their prefixes, the verb translate, bench translate."""

import json

import pair_models
import pytest
import tiny_tokenizers
import torch
from test_cli_pairs import copies
from test_cli_training import run
from transformers import AutoTokenizer

import pyllm
from pyllm.evaluate.translation import source_of, translate
from pyllm.generate import GenerationError

TASKS = {
    "translation_en_to_de": {"prefix": "translate: ", "max_length": 9, "num_beams": 2, "early_stopping": True},
    "summarization": {"prefix": "sum: ", "max_length": 7, "min_length": 3, "length_penalty": 2.0},
}
END = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}},
       {"SpecialToken": {"id": "</s>", "type_id": 0}}], "pair": [], "special_tokens": {
       "</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A T5 with the tokenizer of a folder that ends its texts, as T5's does."""
    place = tmp_path_factory.mktemp("t5")
    pair_models.save("t5", place, spread=0.5, vocab_size=317, eos_token_id=1)
    tiny_tokenizers.write_json(place, 317)
    document = json.loads((place / "tokenizer.json").read_text())
    (place / "tokenizer.json").write_text(json.dumps(document | {"post_processor": END}))
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"task_specific_params": TASKS}))
    return place


@pytest.fixture(scope="module")
def loaded(folder):
    return pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder), pyllm.AutoTokenizer.from_pretrained(folder)


def theirs(folder, text, **options):
    """What transformers says for a text."""
    from transformers import T5ForConditionalGeneration

    model, tokenizer = T5ForConditionalGeneration.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer(text).input_ids])
    out = model.generate(ids, do_sample=False, **options)
    return tokenizer.decode(out[0], skip_special_tokens=True).strip()


def test_sources_are_what_the_tokenizer_makes_of_texts(folder, loaded):
    _, tokenizer = loaded
    wanted = AutoTokenizer.from_pretrained(folder)
    for text in ("the quick brown fox", "a", " odd  spaces "):
        assert source_of(tokenizer, text) == wanted(text).input_ids and wanted(text).input_ids[-1] == 1


def test_a_task_brings_its_prefix_and_settings(folder, loaded):
    model, tokenizer = loaded
    text, other = "the lazy dog", "a fox jumps over the town"
    german = pyllm.pipeline("translation_en_to_de", str(folder), dtype="float32")
    options = {"max_length": 9, "num_beams": 2, "early_stopping": True}
    assert german(text) == [{"translation_text": theirs(folder, "translate: " + text, **options)}]
    assert german([text, other])[1] == {"translation_text": theirs(folder, "translate: " + other, **options)}
    short = pyllm.pipeline("summarization", model, tokenizer)
    options = {"max_length": 7, "min_length": 3, "length_penalty": 2.0}
    assert short(text) == [{"summary_text": theirs(folder, "sum: " + text, **options)}]
    plain = pyllm.pipeline("text2text-generation", model, tokenizer, max_new_tokens=6)
    assert plain(text) == [{"generated_text": theirs(folder, text, max_new_tokens=6)}]
    several = plain([text, other], num_beams=3, num_return_sequences=2, batch_size=1, return_tensors=True)
    assert [len(each) for each in several] == [2, 2] and set(several[0][0]) == {"generated_text", "generated_token_ids"}
    said = next(translate(model, tokenizer, [text], 2, task="translation_en_to_de"))[0].text
    assert said == german(text)[0]["translation_text"]


def test_what_a_pipeline_cannot_do_is_refused(loaded):
    model, tokenizer = loaded
    with pytest.raises(ValueError, match=r"task 'nothing' is not known; known are fill-mask, .*translation_xx_to_yy"):
        pyllm.pipeline("nothing", model, tokenizer)
    call = pyllm.pipeline("translation", model, tokenizer)
    with pytest.raises(ValueError, match="input 1 is int"):
        call(["a", 3])
    with pytest.raises(ValueError, match="input 0 is dict"):  # whose keys are no texts
        call({"text": "a"})
    with pytest.raises(ValueError, match="input 0 is NoneType"):
        call(None)
    assert call("a", padding=True, max_new_tokens=3) == call("a", max_new_tokens=3)
    with pytest.raises(GenerationError, match="did you mean 'num_beams'"):
        call("a", num_beam=2)
    with pytest.raises(ValueError, match="task 'x' is not known; this model's are: translation_en_to_de, summ"):
        next(translate(model, tokenizer, ["a"], task="x"))


def test_long_texts_are_refused_or_cut(tmp_path):
    pair_models.save("bart", tmp_path, vocab_size=317, max_position_embeddings=12)
    tiny_tokenizers.write_json(tmp_path, 317)
    model = pyllm.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    call = pyllm.pipeline("summarization", model, pyllm.AutoTokenizer.from_pretrained(tmp_path), max_new_tokens=3)
    with pytest.raises(pyllm.ContextError, match=r"input 0: 4\d tokens, the model's context has 12"):
        call("abcdefgh" * 5)
    assert set(call("abcdefgh" * 5, truncation=True)[0]) == {"summary_text"}


def test_the_verb_translates_with_a_folder(folder, loaded, capsys):
    model, tokenizer = loaded
    wanted = pyllm.pipeline("translation_en_to_de", model, tokenizer, num_beams=3)("the lazy dog")
    words = ["--beam", "3", "--task", "translation_en_to_de"]
    assert run(folder, "translate", str(folder), "the lazy dog", *words) == 0
    assert capsys.readouterr().out.strip() == " ".join(wanted[0]["translation_text"].split())
    assert run(folder, "translate", str(folder), "the lazy dog", "--task", "nothing") == 1
    assert "this model's are: translation_en_to_de, summarization" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("t5", "d_model=32,d_kv=8,d_ff=64,num_layers=1,num_heads=4,dropout_rate=0"),
        ("bart", "d_model=32,encoder_layers=1,decoder_layers=1,encoder_ffn_dim=64,decoder_ffn_dim=64,dropout=0,"
                 "encoder_attention_heads=4,decoder_attention_heads=4,max_position_embeddings=16"),
    ],
)  # fmt: skip
def test_new_ones_learn_from_pairs(tmp_path, capsys, family, fields):
    (tmp_path / "pairs.tsv").write_text(copies(1000, 0))
    assert run(tmp_path, "tokenizer", "train", "@pairs.tsv", "--kind", "word", "--vocab", "20", "-o", "@tok") == 0
    flags = ["--data", "@pairs.tsv", "--tokenizer", "@tok", "--out", "@run", "--steps", "120", "--batch", "32"]
    more = ["--lr", "8e-3", "--warmup", "10", "--dtype", "fp32", "--model", family, "--config", fields]
    capsys.readouterr()
    assert run(tmp_path, "pretrain", *flags, *more) == 0
    assert float(capsys.readouterr().out.split("validation loss ")[-1].split(";")[0]) < 1.5  # at random it is 2.2
    assert run(tmp_path, "translate", "@run", "c f") == 0
    assert set(capsys.readouterr().out.split()) <= set("abcdefgh")
    assert run(tmp_path, "finetune", "@run", "--data", "@pairs.tsv", "--out", "@more", "--steps", "2") == 0
    for verb in (["params", "@run"], ["info", "@run"], ["report", "@run"]):
        assert run(tmp_path, *verb) == 0, verb


def test_the_speed_of_targets_is_measured(tmp_path, capsys, monkeypatch):
    from pyllm.auto import new

    small = {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 16, "vocab_size": 60}
    monkeypatch.setitem(new.SHAPES, "t5-small", new.SHAPES["t5-small"] | small)
    for dtype, name in (("fp32", "float32"), ("bf16", "bfloat16"), ("int8", "int8")):
        words = ["--batch", "2", "--source", "5", "--new", "4", "--beam", "3", "--dtype", dtype, "--json"]
        assert run(tmp_path, "bench", "translate", "--model", "t5-small", *words) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["batch"], found["source"], found["new"], found["beam"], found["dtype"]) == (2, 5, 4, 3, name)
        assert found["tok_s"] == pytest.approx(8 / found["seconds"]) and found["parameters"] > 1000
    assert run(tmp_path, "bench", "translate", "--model", "nothing") != 0
    assert "known are" in capsys.readouterr().err
