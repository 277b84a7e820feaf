"""Models and tokenizers from folders to GGUF and back: the same bits, the same ids."""

import json

import gguf
import numpy as np
import pytest
import text_cases as cases
import tiny_models
import tiny_tokenizers
import tokenizers
from test_parity import NO_GGUF, VARIANTS, tokens
from test_saving import load, stored
from test_tokenizer_peers import CASED, REST, by_pattern, level, trained  # noqa: F401

import pyllm
from pyllm.cli import main
from pyllm.errors import ModelFileError, TokenizerError
from pyllm.text.pre_tokenizers import ALIASES, STAGES, WHOLE_WORDS, description_of, name_of

TEXTS = [cases.mixed_text(60, seed).decode() for seed in range(60)] + [
    "", " ", "   ", "a", "▁", "    x", " the quick  brown\n\n fox", "aaaaaaaaaaaa", "éé ☃", "<s>the</s> dog",
]  # fmt: skip


ASCII = ["".join(c for c in text if c.isascii()) for text in TEXTS]

IN_GGUF = [name for name in VARIANTS if name not in NO_GGUF]


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("name", IN_GGUF)
def test_folder_to_gguf_to_folder_is_bit_exact(tmp_path, name, dtype):
    config = VARIANTS[name]
    path = tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config, seed=8), dtype)
    pyllm.convert(path, tmp_path / "m.gguf")
    pyllm.convert(tmp_path / "m.gguf", tmp_path / "out")
    assert stored(tmp_path / "out") == stored(path)
    one, other = (pyllm.AutoTokenizer.from_pretrained(each) for each in (path, tmp_path / "out"))
    assert [one.encode(text) for text in TEXTS] == [other.encode(text) for text in TEXTS]
    expected, found = (load(each)(tokens(30)[None]).logits for each in (path, tmp_path / "m.gguf"))
    # norms are float32 in GGUF, and a file's divisors are rounded
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def fields(path):
    return {key: value.contents() for key, value in gguf.GGUFReader(path).fields.items() if not key.startswith("GGUF.")}


@pytest.mark.parametrize("name", NO_GGUF)
def test_what_a_gguf_file_cannot_say_is_refused(tmp_path, name):
    """Before a byte is written; the file would be read as another model."""
    path = tiny_models.write_folder(tmp_path / "m", VARIANTS[name], tiny_models.random_weights(VARIANTS[name]))
    with pytest.raises(ValueError, match=r"layer_types|hidden_act"):
        pyllm.convert(path, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize("name", IN_GGUF)
def test_metadata_and_tensors_are_those_of_a_peer(tmp_path, name):
    config = VARIANTS[name]
    weights = tiny_models.random_weights(config, seed=9)
    pyllm.convert(tiny_models.write_folder(tmp_path / "m", config, weights), tmp_path / "ours.gguf")
    theirs = tiny_models.write_gguf(tmp_path / "theirs.gguf", config, weights)
    one, other = fields(tmp_path / "ours.gguf"), fields(theirs)
    for key, value in other.items():
        if key != "tokenizer.ggml.token_type":
            assert one[key] == pytest.approx(value) if isinstance(value, float) else one[key] == value, key
    ours, expected = (
        {t.name: (t.tensor_type, np.array(t.data)) for t in gguf.GGUFReader(p).tensors}
        for p in (tmp_path / "ours.gguf", theirs)
    )
    assert set(ours) == set(expected)
    for each, (kind, data) in expected.items():
        assert ours[each][0] == kind and np.allclose(ours[each][1], data, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0", "Q4_1"])
def test_a_folder_becomes_what_quantize_makes_of_it(tmp_path, dtype):
    config = tiny_models.llama_config(intermediate_size=97)
    path = tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config, seed=10))
    pyllm.convert(path, tmp_path / "once.gguf", dtype)
    pyllm.convert(path, tmp_path / "f32.gguf", "F32")
    pyllm.quantize(tmp_path / "f32.gguf", tmp_path / "twice.gguf", dtype)
    once, twice = (gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors for name in ("once", "twice"))
    assert [(t.name, t.tensor_type) for t in once] == [(t.name, t.tensor_type) for t in twice]
    assert all(np.array_equal(a.data, b.data) for a, b in zip(once, twice, strict=True))
    assert {t.tensor_type.name for t in once} == {"F32", "F16", "Q8_0", dtype}


def test_yarn_in_both_directions(tmp_path):
    rule = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 160, "beta_fast": 24.0,
            "beta_slow": 2.0, "attention_factor": 1.25}  # fmt: skip
    config = tiny_models.llama_config(rope_scaling=rule)
    path = tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config))
    pyllm.convert(path, tmp_path / "m.gguf")
    pyllm.convert(tmp_path / "m.gguf", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "config.json").read_text())["rope_scaling"]
    assert found.pop("rope_type") == rule["rope_type"]
    assert {key: found[key] for key in list(rule)[1:]} == pytest.approx({k: rule[k] for k in list(rule)[1:]}, rel=1e-6)
    config["rope_scaling"] = rule | {"attention_factor": None, "mscale": 0.7, "mscale_all_dim": 1.0}
    (path / "config.json").write_text(json.dumps(config))
    pyllm.convert(path, tmp_path / "scaled.gguf")
    ids = tokens(40)[None]
    one, other = (load(each)(ids).logits for each in (path, tmp_path / "scaled.gguf"))
    assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()
    config["rope_scaling"] = rule | {"truncate": False}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="truncate is false; GGUF can say true only"):
        pyllm.convert(path, tmp_path / "other.gguf")


@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_vocabularies_of_gguf_files_give_the_same_ids_in_tokenizers(tmp_path, kind):
    config = tiny_models.llama_config()
    weights = tiny_models.random_weights(config)
    path = tiny_models.write_gguf(tmp_path / "m.gguf", config, weights, tokenizer=kind)
    ours = pyllm.AutoTokenizer.from_pretrained(path)
    written = ours.save_pretrained(tmp_path / "out")
    assert [each.rpartition("/")[2] for each in written] == ["tokenizer.json", "tokenizer_config.json"]
    peer = tokenizers.Tokenizer.from_file(written[0])
    for text in TEXTS:
        assert peer.encode(text).ids == ours.encode(text, allow_special=True), text
        ids = ours.encode(text)
        assert peer.decode(ids, skip_special_tokens=False) == ours.decode(ids)
    # and back: the fields of a file written from that folder
    tiny_models.write_folder(tmp_path / "out2", config, weights)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "out2" / name).write_bytes((tmp_path / "out" / name).read_bytes())
    pyllm.convert(tmp_path / "out2", tmp_path / "back.gguf")
    again = pyllm.AutoTokenizer.from_pretrained(tmp_path / "back.gguf")
    assert [again.encode(t, allow_special=True) for t in TEXTS] == [ours.encode(t, allow_special=True) for t in TEXTS]
    before, after = fields(path), fields(tmp_path / "back.gguf")
    if kind == "bpe":  # nothing is unknown to bytes: as llama.cpp's converter, a control token
        before["tokenizer.ggml.token_type"][2] = 3
    same = ["model", "tokens", "token_type", "bos_token_id", "eos_token_id", "unknown_token_id", "add_bos_token"]
    for key in [*(f"tokenizer.ggml.{name}" for name in same), "tokenizer.chat_template"]:
        assert after[key] == before[key], key


def test_a_bos_token_before_texts_is_kept(tmp_path):
    config = tiny_models.llama_config()
    path = tiny_models.write_gguf(tmp_path / "m.gguf", config, tiny_models.random_weights(config), tokenizer="spm")
    tokenizer = pyllm.AutoTokenizer.from_pretrained(path)
    tokenizer.coder.before, tokenizer.coder.after = [0], [1]
    peer = tokenizers.Tokenizer.from_file(tokenizer.save_pretrained(tmp_path / "out")[0])
    assert peer.encode("the dog").ids == tokenizer.encode("the dog")
    assert peer.encode("the dog").ids[0] == 0 and peer.encode("the dog").ids[-1] == 1


PEERS = {
    "gpt-2": level(True),
    "dbrx": by_pattern(CASED.replace("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
                                     "(?i:'s|'t|'re|'ve|'m|'ll|'d)") + r"\p{N}{1,3}" + REST),
}  # fmt: skip


@pytest.mark.parametrize("name", [*STAGES, "llama-bpe"])
def test_every_way_to_cut_text_has_one_name(name, trained):  # noqa: F811
    description, whole = description_of(name)
    assert name_of(description, whole) == name
    if name in PEERS:
        assert description == json.loads(PEERS[name].__getstate__())
    tokens, merges = trained
    pairs = [tuple(each.split(" ")) for each in merges]
    ids = {token: i for i, token in enumerate(tokens)}
    peer = tokenizers.Tokenizer(tokenizers.models.BPE(ids, pairs, ignore_merges=whole))
    document = json.loads(peer.to_str()) | {"pre_tokenizer": description}
    peer = tokenizers.Tokenizer.from_str(json.dumps(document))
    for alias in [name, *ALIASES.get(name, "").split()]:
        if (alias in WHOLE_WORDS) == whole:
            ours = pyllm.text.from_gguf(cases.File(cases.byte_level(tokens, merges, 0, alias)))
            exact = name not in ("gpt-4o", "tekken")  # see the comment at STAGES
            for text in TEXTS[:30] if exact else ASCII:
                assert ours.encode(text, False) == peer.encode(text, add_special_tokens=False).ids, alias


def test_what_cannot_be_said_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer.ggml.pre: 'deepseek-llm' cannot be said"):
        description_of("deepseek-llm")
    with pytest.raises(TokenizerError, match="has no name in GGUF that pyllm knows"):
        name_of({"type": "Whitespace"}, False)
    config = tiny_models.llama_config()
    path = tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config))
    document = json.loads((path / "tokenizer.json").read_text())
    small = tiny_models.llama_config(vocab_size=300)
    for changes, said in (
        ({"normalizer": {"type": "Lowercase"}}, "normalizer .*; none or NFC"),
        ({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}, "model 'WordLevel'; byte-level or"),
    ):
        (path / "tokenizer.json").write_text(json.dumps(document | changes))
        with pytest.raises(TokenizerError, match=said):
            pyllm.convert(path, tmp_path / "m.gguf")
    other = tiny_models.write_folder(tmp_path / "s", small, tiny_models.random_weights(small))
    tiny_tokenizers.write_json(other, 317)
    with pytest.raises(TokenizerError, match="317 tokens, the model has 300 embeddings"):
        pyllm.convert(other, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_missing_tokens_are_padded(tmp_path):
    config = tiny_models.llama_config(vocab_size=320)
    path = tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config))
    tiny_tokenizers.write_json(path, 317)
    pyllm.convert(path, tmp_path / "m.gguf")
    found = fields(tmp_path / "m.gguf")
    assert found["tokenizer.ggml.tokens"][317:] == ["[PAD317]", "[PAD318]", "[PAD319]"]
    assert found["tokenizer.ggml.token_type"][317:] == [5, 5, 5]


def test_the_verb(tmp_path, capsys):
    config = tiny_models.gpt2_config()
    path = tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config))
    file, folder = tmp_path / "m.gguf", tmp_path / "out"
    assert main.main(["convert", str(path), "-o", str(file), "--type", "q8_0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(file), "bytes": file.stat().st_size}
    assert main.main(["convert", str(file), "-o", str(folder), "--type", "bf16"]) == 0
    assert {kind for kind, _, _ in stored(folder).values()} == {"BF16"}
    capsys.readouterr()
    for arguments, code, said in (
        ([str(path), "-o", str(file)], 1, "m.gguf: exists already"),
        ([str(path), "-o", str(folder)], 1, "out: exists already and is not empty"),
        ([str(path), "-o", str(tmp_path / "new"), "--type", "Q4_0"], 1, "allowed here are auto, F32, F16, BF16"),
        ([str(file), "-o", str(tmp_path / "q4.gguf"), "--type", "Q4_0"], 1, "would lose twice"),
        ([str(path)], 2, "-o/--output"),
    ):
        assert main.main(["convert", *arguments]) == code
        assert said in capsys.readouterr().err
    assert main.main(["convert", str(path), "-o", str(folder), "--overwrite"]) == 0


def test_memory_stays_at_a_slice(tmp_path, monkeypatch):
    """Matrices are asked for in slices, and never all of a model's at once."""
    config = tiny_models.llama_config()
    path = tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config))
    monkeypatch.setattr("pyllm.auto.saving.AT_ONCE", 64 * 16)
    largest = []
    read = pyllm.formats.Folder.read

    def watched(self, info, row=0, rows=None):
        data = read(self, info, row, rows)
        largest.append(data.nbytes)
        return data

    monkeypatch.setattr(pyllm.formats.Folder, "read", watched)
    pyllm.convert(path, tmp_path / "m.gguf")
    assert max(largest) == 4 * 64 * 64  # q, whose rows change places; all else comes in slices
    with pytest.raises(ModelFileError, match="exists already"):
        pyllm.convert(path, tmp_path / "m.gguf")
