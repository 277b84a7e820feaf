"""Sentences as vectors: pooled as sentence-transformers' files say, the same bits in any company; the nearest."""

import copy
import json
import pickle
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import safetensors.torch
import tiny_tokenizers
import torch
import transformers
from kernel_checks import same_bits
from tiny_encoders import theirs

import pyllm
from pyllm.errors import ModelFileError
from pyllm.evaluate.sentences import cosines, search

TEXTS = ["Paris is the capital of France.", "Messi", "", "my name is John and I am a data scientist", "very exciting!"]
KINDS = "sentence_transformers.models."


def write(path, name, value):
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_text(json.dumps(value))


def folder(path, modes=("mean_tokens",), normalize=False, variant="bert"):
    """A small encoder with BERT's tokenizer and sentence-transformers' files. Gives transformers' model."""
    reference = theirs(variant, "Model")
    reference.save_pretrained(path)
    tiny_tokenizers.write_vocabulary(path)
    kinds = ["Transformer", "Pooling"] + ["Normalize"] * normalize
    paths = ["", "1_Pooling", "2_Normalize"]
    write(path, "modules.json", [{"idx": i, "path": paths[i], "type": KINDS + kind} for i, kind in enumerate(kinds)])
    known = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    every = {f"pooling_mode_{mode}": mode in modes for mode in known}
    write(path, "1_Pooling/config.json", {"word_embedding_dimension": 32} | every)
    write(path, "sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": False})
    return reference


def reference_vectors(reference, path, texts, modes, longest=9):
    tokenizer = transformers.BertTokenizer.from_pretrained(path)
    found = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            rows = reference(**inputs).last_hidden_state[0]
        pooled = {
            "cls_token": rows[0],
            "max_tokens": rows.max(dim=0).values,
            "mean_tokens": rows.mean(dim=0),
            "mean_sqrt_len_tokens": rows.sum(dim=0) / len(rows) ** 0.5,
            "weightedmean_tokens": torch.arange(1.0, len(rows) + 1) @ rows / sum(range(1, len(rows) + 1)),
            "lasttoken": rows[-1],
        }
        found.append(torch.cat([each for name, each in pooled.items() if name in modes]).numpy())
    return np.stack(found)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_an_encoder_is_copied_and_pickled_with_its_tokenizer(tmp_path, copied):
    folder(tmp_path)
    encoder = pyllm.SentenceEncoder(tmp_path)
    other = copied(encoder)
    assert same_bits(other.encode(TEXTS), encoder.encode(TEXTS))
    assert other.tokenizer.files() == encoder.tokenizer.files()


@pytest.mark.parametrize(
    ("modes", "variant"),
    [
        (("mean_tokens",), "bert"),
        (("cls_token",), "albert"),
        (("max_tokens",), "distilbert"),
        (("mean_sqrt_len_tokens",), "bert"),
        (("mean_tokens", "cls_token"), "bert"),
        (("weightedmean_tokens", "lasttoken"), "bert"),
    ],
)
def test_rows_are_pooled_as_the_folder_says(tmp_path, modes, variant):
    reference = folder(tmp_path, modes, variant=variant)
    if variant == "distilbert":
        write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "DistilBertTokenizer"})
    encoder = pyllm.SentenceEncoder(tmp_path)
    wanted = reference_vectors(reference, tmp_path, TEXTS, modes)
    found = encoder.encode(TEXTS, batch_size=2)
    assert found.dtype == np.float32 and found.shape == (5, 32 * len(modes))
    assert encoder.get_sentence_embedding_dimension() == 32 * len(modes)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    alone = np.stack([encoder.encode(text) for text in TEXTS])
    assert same_bits(alone, encoder.encode(TEXTS)) and same_bits(alone, encoder.encode(TEXTS[::-1], batch_size=3)[::-1])
    listed = encoder.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(listed, list) and same_bits(np.stack(listed), alone)
    assert torch.equal(encoder.encode(TEXTS, convert_to_tensor=True), torch.from_numpy(alone))


@pytest.mark.parametrize(
    ("given", "modes"),
    [("cls", ("cls_token",)), (["mean", "mean_sqrt_len_tokens"], ("mean_tokens", "mean_sqrt_len_tokens"))],
)
def test_later_versions_name_the_pooling(tmp_path, given, modes):
    reference = folder(tmp_path)
    write(tmp_path, "1_Pooling/config.json", {"embedding_dimension": 32, "pooling_mode": given, "include_prompt": True})
    wanted = reference_vectors(reference, tmp_path, TEXTS, modes)
    assert np.abs(pyllm.SentenceEncoder(tmp_path).encode(TEXTS) - wanted).max() <= 1e-5 * np.abs(wanted).max()


def with_dense(path, sizes, act, bias, dtype=torch.float32):
    """Dense modules over the mean; gives torch's layers."""
    modules = json.loads((path / "modules.json").read_text())
    layers = torch.nn.Sequential()
    for i, (inputs, outputs) in enumerate(pairwise(sizes), 2):
        linear = torch.nn.Linear(inputs, outputs, bias=bias).to(dtype)
        modules.insert(i, {"idx": i, "path": f"{i}_Dense", "type": KINDS + "Dense"})
        sort = f"torch.nn.modules.activation.{type(act).__name__}"
        about = {"in_features": inputs, "out_features": outputs, "bias": bias, "activation_function": sort}
        write(path, f"{i}_Dense/config.json", about)
        tensors = {f"linear.{name}": tensor for name, tensor in linear.state_dict().items()}
        safetensors.torch.save_file(tensors, path / f"{i}_Dense/model.safetensors")
        layers += torch.nn.Sequential(linear.float(), act)
    write(path, "modules.json", modules)
    return layers


@pytest.mark.parametrize(
    ("sizes", "act", "bias", "normalize", "dtype"),
    [
        ((32, 12), torch.nn.Tanh(), True, False, torch.float32),
        ((32, 48), torch.nn.Identity(), False, True, torch.bfloat16),
        ((32, 20, 7), torch.nn.GELU(), True, True, torch.float16),
    ],
)
def test_dense_layers_over_the_vector(tmp_path, sizes, act, bias, normalize, dtype):
    reference = folder(tmp_path, normalize=normalize)
    layers = with_dense(tmp_path, sizes, act, bias, dtype)
    wanted = layers(torch.tensor(reference_vectors(reference, tmp_path, TEXTS, ("mean_tokens",))))
    wanted = (torch.nn.functional.normalize(wanted) if normalize else wanted).detach().numpy()
    encoder = pyllm.SentenceEncoder(tmp_path)
    found = encoder.encode(TEXTS, batch_size=3)
    assert encoder.get_sentence_embedding_dimension() == found.shape[1] == sizes[-1]
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert same_bits(found, np.stack([encoder.encode(text) for text in TEXTS]))


def test_a_norm_over_the_vector_and_dropout(tmp_path):
    reference = folder(tmp_path, normalize=True)
    dense = with_dense(tmp_path, (32, 12), torch.nn.Tanh(), True)
    norm = torch.nn.LayerNorm(12)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    (tmp_path / "4_LayerNorm").mkdir()
    tensors = {f"norm.{name}": tensor for name, tensor in norm.state_dict().items()}
    safetensors.torch.save_file(tensors, tmp_path / "4_LayerNorm/model.safetensors")
    modules = json.loads((tmp_path / "modules.json").read_text())
    kinds = [{"path": f"{i}_{kind}", "type": KINDS + kind} for i, kind in ((3, "Dropout"), (4, "LayerNorm"))]
    write(tmp_path, "modules.json", [*modules[:3], *kinds, *modules[3:]])
    write(tmp_path, "4_LayerNorm/config.json", {"dimension": 0})
    with pytest.raises(ModelFileError, match="'dimension': 0; 1 to"):
        pyllm.SentenceEncoder(tmp_path)
    write(tmp_path, "4_LayerNorm/config.json", {"dimension": 32})
    with pytest.raises(ModelFileError, match=r"'norm.weight' is \[12\], expected \[32\]"):
        pyllm.SentenceEncoder(tmp_path)
    write(tmp_path, "4_LayerNorm/config.json", {"dimension": 12})
    wanted = norm(dense(torch.tensor(reference_vectors(reference, tmp_path, TEXTS, ("mean_tokens",)))))
    wanted = torch.nn.functional.normalize(wanted).detach().numpy()
    found = pyllm.SentenceEncoder(tmp_path).encode(TEXTS)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_dense_layers_that_do_not_fit_are_named(tmp_path):
    folder(tmp_path, modes=("mean_tokens", "cls_token"))
    with_dense(tmp_path, (32, 12), torch.nn.Tanh(), True)
    with pytest.raises(ValueError, match="a Dense layer of 32 inputs over vectors of 64 numbers"):
        pyllm.SentenceEncoder(tmp_path)
    about = json.loads((tmp_path / "2_Dense/config.json").read_text())
    for change, message in (
        ({"out_features": 13}, r"'linear.weight' is \[12, 32\], expected \[13, 32\]; 'linear.bias' is \[12\]"),
        ({"in_features": 0}, "'in_features': 0; 1 to"),
        ({"activation_function": "torch.nn.Mish"}, "'activation_function': Mish; Identity, Tanh, ReLU"),
    ):
        write(tmp_path, "2_Dense/config.json", about | change)
        with pytest.raises(ModelFileError, match=message):
            pyllm.SentenceEncoder(tmp_path)


def test_queries_documents_and_the_first_numbers(tmp_path):
    folder(tmp_path)
    write(tmp_path, "config_sentence_transformers.json", {"prompts": {"query": "the ", "passage": "a "}})
    encoder = pyllm.SentenceEncoder(tmp_path)
    assert same_bits(encoder.encode_query("capital"), encoder.encode("the capital"))
    assert same_bits(encoder.encode_query("capital", prompt="my "), encoder.encode("my capital"))
    assert same_bits(encoder.encode_document(["capital"]), encoder.encode(["a capital"]))
    whole = encoder.encode(TEXTS)
    assert same_bits(encoder.encode(TEXTS, truncate_dim=5), np.ascontiguousarray(whole[:, :5]))
    short = encoder.encode(TEXTS, truncate_dim=5, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, rtol=1e-6)


def test_vectors_have_length_one_where_it_is_asked_for(tmp_path):
    folder(tmp_path, normalize=True)
    encoder = pyllm.SentenceEncoder(tmp_path)
    np.testing.assert_allclose(np.linalg.norm(encoder.encode(TEXTS), axis=1), 1, rtol=1e-6)
    (tmp_path / "modules.json").unlink()
    plain = pyllm.SentenceEncoder(tmp_path)
    assert abs(np.linalg.norm(plain.encode(TEXTS[0])) - 1) > 0.1
    np.testing.assert_allclose(plain.encode(TEXTS, normalize_embeddings=True), encoder.encode(TEXTS), rtol=1e-5)


def test_rows_of_tokens_prompts_and_no_texts(tmp_path):
    folder(tmp_path)
    write(tmp_path, "config_sentence_transformers.json", {"prompts": {"query": "the "}, "default_prompt_name": None})
    encoder = pyllm.SentenceEncoder(tmp_path)
    rows = encoder.encode(TEXTS, output_value="token_embeddings")
    assert [len(each) for each in rows] == [9, 3, 2, 9, 5]
    assert same_bits(encoder.encode("capital", prompt_name="query"), encoder.encode("the capital"))
    assert same_bits(encoder.encode("capital", prompt="the "), encoder.encode("the capital"))
    assert encoder.encode([]).shape == (0, 32)
    with pytest.raises(ValueError, match="prompt_name 'document', the folder has: query"):
        encoder.encode("a", prompt_name="document")
    with pytest.raises(ValueError, match=r"sentences\[1\] is int"):
        encoder.encode(["a", 3])
    with pytest.raises(ValueError, match="precision 'int4', allowed are float32, int8, uint8, binary, ubinary"):
        encoder.encode("a", precision="int4")
    with pytest.raises(ValueError, match="pooling 'last', allowed are cls, max, mean, mean_sqrt_len"):
        pyllm.SentenceEncoder(tmp_path, pooling="last")


def test_vectors_in_fewer_bits(tmp_path):
    """By their definition, in numbers."""
    folder(tmp_path)
    model = pyllm.SentenceEncoder(tmp_path)
    whole = model.encode(TEXTS)
    least, most = whole.min(axis=0), whole.max(axis=0)
    levels = np.clip(np.floor((whole - least) / ((most - least) / np.float32(255))), 0, 255)
    for precision, shift, dtype in (("uint8", 0, np.uint8), ("int8", 128, np.int8)):
        found = model.encode(TEXTS, precision=precision)
        assert found.dtype == dtype and np.array_equal(found, levels - shift)
    bits = (whole.reshape(len(TEXTS), -1, 8) > 0) @ (2 ** np.arange(7, -1, -1))
    assert np.array_equal(model.encode(TEXTS, precision="ubinary"), bits)
    assert np.array_equal(model.encode(TEXTS, precision="binary"), bits - 128)
    assert model.encode([], precision="int8").dtype == np.int8
    pairs = model.similarity_pairwise(whole[:2], whole[2:4])
    np.testing.assert_allclose(pairs, np.diag(model.similarity(whole[:2], whole[2:4])), atol=1e-6)


def test_a_bar_is_shown_on_stderr_alone(tmp_path, capsys):
    folder(tmp_path)
    pyllm.SentenceEncoder(tmp_path).encode(TEXTS, show_progress_bar=True)
    shown = capsys.readouterr()
    assert not shown.out and "encoded" in shown.err


def test_the_nearest_are_those_of_the_greatest_cosines(tmp_path):
    random = np.random.default_rng(0)
    corpus, queries = random.standard_normal((50, 8)), random.standard_normal((3, 8))
    exact = queries @ corpus.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(corpus, axis=1)
    np.testing.assert_allclose(cosines(queries, corpus), exact, rtol=1e-4, atol=1e-6)
    for row, found in zip(exact, search(queries, corpus, top_k=5), strict=True):
        assert [each["corpus_id"] for each in found] == np.argsort(-row)[:5].tolist()
        np.testing.assert_allclose([each["score"] for each in found], np.sort(row)[::-1][:5], rtol=1e-5)
    folder(tmp_path)
    encoder = pyllm.SentenceEncoder(tmp_path)
    best = encoder.search(TEXTS[3], TEXTS, top_k=2)
    assert len(best) == 1 and best[0][0] == {"corpus_id": 3, "score": pytest.approx(1)}
    assert encoder.similarity(encoder.encode(TEXTS), encoder.encode(TEXTS)).shape == (5, 5)
    with pytest.raises(ValueError, match=r"similarity: \(1, 3\) and \(2, 4\)"):
        cosines(np.zeros(3), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="top_k 0"):
        search(queries, corpus, top_k=0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("modules.json", {}, r"modules.json: \{\}; a list of modules"),
        ("modules.json", [{"type": KINDS + "Dense"}], "Dense; Transformer, Pooling, perhaps Dense and perhaps"),
        (
            "modules.json",
            [{"type": "Transformer", "path": ""}, {"type": "Pooling", "path": "../x"}],
            r"'path': ../x; the name",
        ),
        (
            "modules.json",
            [{"type": "Transformer", "path": ""}, {"type": "Pooling"}],
            r"'path': None; the name of a folder",
        ),
        ("1_Pooling/config.json", {"pooling_mode_middle": True}, "middle; some of cls_token, max_tokens"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": False}, "'pooling_mode': none; some of"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "middle"]}, "middle; some of cls, max, mean, mean_s"),
        ("1_Pooling/config.json", [], r"config.json: \[\]; an object"),
        (
            "modules.json",
            [{"type": "Transformer", "path": "a/b"}, {"type": "Pooling", "path": ""}],
            "'path': a/b; the name",
        ),
        ("sentence_bert_config.json", {"max_seq_length": -1}, "'max_seq_length': -1; 1 to"),
        ("config_sentence_transformers.json", {"prompts": {"a": 1}}, "'prompts'"),
        ("config_sentence_transformers.json", {"default_prompt_name": "a"}, "'default_prompt_name': a"),
    ],
)
def test_hostile_files_are_named(tmp_path, name, value, message):
    folder(tmp_path)
    write(tmp_path, name, value)
    with pytest.raises(ModelFileError, match=message):
        pyllm.SentenceEncoder(tmp_path)


def test_the_encoder_may_lie_in_a_folder_of_its_own(tmp_path):
    """As the first folders of sentence-transformers have it."""
    folder(tmp_path / "new")
    wanted = pyllm.SentenceEncoder(tmp_path / "new").encode(TEXTS)
    inner = tmp_path / "old/0_Transformer"
    inner.mkdir(parents=True)
    for each in list((tmp_path / "new").iterdir()):
        if each.name in ("modules.json", "1_Pooling"):
            each.rename(tmp_path / "old" / each.name)
        else:
            each.rename(inner / each.name)
    modules = json.loads((tmp_path / "old/modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write(tmp_path / "old", "modules.json", modules)
    encoder = pyllm.SentenceEncoder(tmp_path / "old")
    assert encoder.max_seq_length == 9 and same_bits(encoder.encode(TEXTS), wanted)
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    (inner / "sentence_bert_config.json").unlink()
    (inner / "sentence_bert_config.json").symlink_to(outside)
    with pytest.raises(ModelFileError, match=r"sentence_bert_config.json: leads out of the folder; a file in it"):
        pyllm.SentenceEncoder(tmp_path / "old")


def test_embed_takes_encoders(tmp_path):
    folder(tmp_path, normalize=True)
    command = [sys.executable, "-m", "pyllm", "embed", str(tmp_path), *TEXTS[:2]]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    vectors = pyllm.SentenceEncoder(tmp_path).encode(TEXTS[:2])
    np.testing.assert_allclose(found["embeddings"], vectors, rtol=1e-6)
    assert found["cosines"][0][1] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
    for pooling, code in (("cls", 0), ("last", 2)):
        done = subprocess.run([*command, "--pooling", pooling], capture_output=True, text=True, check=False)
        assert done.returncode == code
    assert "--pooling last: of an encoder, allowed are mean, cls, max" in done.stderr
