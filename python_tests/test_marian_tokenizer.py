"""MarianMT's tokenizers, source.spm, target.spm and vocab.json, beside transformers' of the same files."""

import json
import struct
import sys

import numpy as np
import pair_models
import pytest
import sentencepiece
import transformers
from sentencepiece import sentencepiece_model_pb2
from test_cli_training import run
from tiny_sentence_pieces import TEXTS, lines, trained, write_marian

import pyllm
from pyllm.data import Pairs
from pyllm.errors import ModelFileError, TokenizerError
from pyllm.text import sentence_piece
from pyllm.text.cutting import SentencePiece

MODELS = {
    "unigram": ({}, {"vocab_size": 500}, {}),
    "separate": ({}, {"vocab_size": 500}, {"separate": True}),
    "bpe": ({"model_type": "bpe"}, {"model_type": "bpe", "vocab_size": 500}, {}),
    "bytes": ({"byte_fallback": True, "character_coverage": 0.98}, {"byte_fallback": True, "vocab_size": 700}, {}),
    "identity": ({"normalization_rule_name": "identity"}, {"remove_extra_whitespaces": False}, {}),
}


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    source, target, more = MODELS[request.param]
    return write_marian(tmp_path_factory.mktemp("marian"), trained(**source), trained(**target), **more)


@pytest.fixture(scope="module")
def both(folder):
    """(transformers' tokenizer, ours)."""
    with pytest.warns(UserWarning, match="sacremoses"):
        theirs = transformers.MarianTokenizer.from_pretrained(folder)
    return theirs, pyllm.AutoTokenizer.from_pretrained(folder)


SETTINGS = {
    "normalization": [{}, {"normalization_rule_name": "nfkc"}, {"normalization_rule_name": "nmt_nfkc_cf"},
                      {"normalization_rule_name": "identity"}],
    "spaces": [{"remove_extra_whitespaces": False}, {"add_dummy_prefix": False}, {"treat_whitespace_as_suffix": True},
               {"split_by_whitespace": False}],
    "kinds": [{"model_type": "bpe"}, {"byte_fallback": True, "character_coverage": 0.98},
              {"model_type": "bpe", "byte_fallback": True}, {"user_defined_symbols": ("<x>", "Emma")},
              {"model_type": "bpe", "user_defined_symbols": ("<x>", "Emma"), "treat_whitespace_as_suffix": True}],
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_pieces_are_those_of_sentencepiece(name):
    """The texts, thousands of random ones of characters that maps replace or join, and runs whose sums are equal."""
    draw = np.random.default_rng(3)
    alphabet = list("abe XY  éä.!-e\u0301\u0323\u0302ﬁ①㍿\u00a0\u3000\u200b\t\x01▁<x>가ᄀ\u1161\u11a8ｱﾞ\u3099😀½ǅ")
    marks = [chr(i) for i in (*range(0x300, 0x370), *range(0x1E00, 0x1F00), *range(0xFB00, 0xFB50))]
    rows = ["".join(draw.choice(alphabet + marks[::9], draw.integers(0, 14))) for _ in range(1500)]
    rows += ["".join(draw.choice(list("aa.h"), draw.integers(0, 90))) for _ in range(150)]
    for settings in SETTINGS[name]:
        data = trained(**settings)
        theirs = sentencepiece.SentencePieceProcessor(model_proto=data)
        mine = SentencePiece(sentence_piece.read("x", data))
        some = rows[:1500] if "user_defined_symbols" in settings else rows
        for text in (*TEXTS, *lines()[::40], *some):
            assert mine(text) == theirs.encode(text, out_type=str), (settings, text)
            assert mine.normal(text) == theirs.normalize(text), (settings, text)


def test_ids_are_those_of_transformers(both):
    theirs, mine = both
    texts = [*TEXTS, *lines()[::50]]
    for text in texts:
        assert mine(text, allow_special=True).input_ids == theirs(text).input_ids, text
        assert mine(text_target=text, allow_special=True).input_ids == theirs(text_target=text).input_ids, text
        plain = theirs(text, split_special_tokens=True).input_ids
        assert mine.encode(text) == plain
        ids = theirs(text_target=text, split_special_tokens=True).input_ids
        tokens = mine.target.convert_ids_to_tokens(ids)
        assert tokens == theirs.convert_ids_to_tokens(ids)
        plain = [token for token in tokens if token not in theirs.all_special_tokens]
        assert mine.target.convert_tokens_to_string(plain) == theirs.convert_tokens_to_string(plain)
        known = [token for token in theirs.tokenize(text) if token in mine.coder.ids]
        assert mine.convert_ids_to_tokens(mine.convert_tokens_to_ids(known)) == known
        bare = theirs(text, split_special_tokens=True, add_special_tokens=False).input_ids
        assert mine(text, add_special_tokens=False).input_ids == bare
    assert mine.vocab_size == theirs.vocab_size
    for name in ("eos", "pad", "unk"):
        assert getattr(mine, f"{name}_token_id") == getattr(theirs, f"{name}_token_id") is not None
    assert set(mine.all_special_ids) >= {mine.eos_token_id} and mine.model_max_length == theirs.model_max_length == 512


def test_batches_with_targets_are_those_of_transformers(both):
    theirs, mine = both
    texts, targets = TEXTS[:2] + TEXTS[12:13], TEXTS[1:3] + TEXTS[6:7]
    cut = {"padding": True, "truncation": True, "max_length": 12, "return_tensors": "np"}
    plain = {"split_special_tokens": True}
    wanted, found = theirs(texts, text_target=targets, **cut, **plain), mine(texts, text_target=targets, **cut)
    assert set(found) == set(wanted) == {"input_ids", "attention_mask", "labels"}
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert found.input_ids.shape == (3, 12) and (found.input_ids == mine.eos_token_id).sum(axis=1).tolist() == [1, 1, 1]
    more = {"return_special_tokens_mask": True}
    assert dict(mine(TEXTS[0], **more)) == dict(theirs(TEXTS[0], **more))


def test_ids_are_decoded_as_transformers_does(both):
    theirs, mine = both
    for text in (*TEXTS, *lines()[::100]):
        ids = theirs(text_target=text).input_ids
        wanted = theirs.decode(ids, skip_special_tokens=True)
        assert mine.decode(ids, skip_special_tokens=True).strip() == wanted, text
    assert mine.target.decode(mine(text_target="clever and rich").input_ids, skip_special_tokens=True)


def test_saved_files_are_the_same_bytes(folder, tmp_path):
    tokenizer = pyllm.AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path / "again")
    assert {each.name: each.read_bytes() for each in (tmp_path / "again").iterdir()} == {
        each.name: each.read_bytes() for each in folder.iterdir()
    }
    again = pyllm.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again(TEXTS, text_target=TEXTS) == tokenizer(TEXTS, text_target=TEXTS)


def test_labels_are_filled_up_with_their_own_vocabulary(tmp_path):
    write_marian(tmp_path, trained(), trained(vocab_size=500), separate=True)
    for name, end in (("vocab.json", 900), ("target_vocab.json", 800)):
        ids = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps(ids | {"<pad>": end}))
    found = pyllm.AutoTokenizer.from_pretrained(tmp_path)(["a", "a b c"], text_target=["a", "a b c"], padding=True)
    assert found.input_ids[0][-1] == 900 and found.labels[0][-1] == 800


def test_what_transformers_saves_is_read(both, tmp_path):
    theirs, mine = both
    theirs.save_pretrained(tmp_path / "theirs")
    again = pyllm.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    assert again(TEXTS, text_target=TEXTS) == mine(TEXTS, text_target=TEXTS)


@pytest.fixture
def model(tmp_path):
    """A folder with a tiny MarianMT beside its tokenizer."""
    write_marian(tmp_path, trained(), trained(vocab_size=500))
    size = len(json.loads((tmp_path / "vocab.json").read_text()))
    ids = {"vocab_size": size, "eos_token_id": 0, "pad_token_id": size - 1, "decoder_start_token_id": size - 1}
    pair_models.save("marian", tmp_path, spread=0.6, forced_eos_token_id=0, **ids)
    return tmp_path


def test_a_folder_translates_as_with_transformers(model, capsys):
    with pytest.warns(UserWarning, match="sacremoses"):
        tokenizer = transformers.MarianTokenizer.from_pretrained(model)
    theirs = transformers.MarianMTModel.from_pretrained(model)
    options = {"max_new_tokens": 12, "num_beams": 3, "do_sample": False}
    texts = [">>fra<< Emma is handsome.", "clever and rich"]
    wanted = []
    for text in texts:
        ids = theirs.generate(**tokenizer(text, return_tensors="pt"), **options)
        wanted.append(tokenizer.decode(ids[0], skip_special_tokens=True))
    call = pyllm.pipeline("translation", str(model), dtype="float32")
    assert [each["translation_text"] for each in call(texts, **options)] == wanted and all(wanted)
    assert run(model, "translate", str(model), texts[1], "--beam", "3", "-n", "12") == 0
    assert capsys.readouterr().out.strip()


def test_a_folder_learns_from_pairs_and_keeps_its_tokenizer(model):
    rows = [(f"the {a} house", f"das {b} Haus") for a, b in (("great", "große"), ("old", "alte"))] * 20
    (model / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    assert run(model, "finetune", "@", "--data", "@pairs.tsv", "--out", "@run", "--steps", "2") == 0
    for name in ("source.spm", "target.spm", "vocab.json", "tokenizer_config.json"):
        assert (model / "run" / name).read_bytes() == (model / name).read_bytes()
    assert run(model, "translate", "@run", "the old house", "-n", "3") == 0
    with pytest.warns(UserWarning, match="sacremoses"):
        theirs = transformers.MarianTokenizer.from_pretrained(model)
    found = Pairs(rows, pyllm.AutoTokenizer.from_pretrained(model), 64, 5)
    source, target = found.sides(0)
    wanted = theirs(rows[0][0], text_target=rows[0][1])
    assert source.tolist() == wanted.input_ids and target.tolist() == wanted.labels


def test_it_needs_no_other_package(folder, monkeypatch):
    for name in ("tokenizers", "sentencepiece", "google.protobuf", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    assert pyllm.AutoTokenizer.from_pretrained(folder).encode("clever")[-1] == 0


def broken(change):
    """vocab.json after a change of its entries."""

    def write(folder):
        path = folder / "vocab.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return write


def replaced(name, change):
    """A file after a change of its bytes."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def gone(name):
    return lambda folder: (folder / name).unlink()


def varint(value):
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def chain(length):
    """Units of a double array with one key of so many letters a."""
    units = [0] * (256 * (length + 2))
    units[0] = 256 << 10
    for i in range(1, length + 1):
        units[256 * i ^ 97] = (97 ^ 256 * i ^ 256 * (i + 1)) << 10 | (i == length) << 8 | 97
    units[256 * (length + 1)] = 1 << 31
    return units


def charsmap(units, texts=b"b\0"):
    """A normalizer_spec with a map of characters."""
    table = np.array(units, np.uint32).tobytes()
    whole = len(table).to_bytes(4, "little") + table + texts
    inner = b"\x12" + varint(len(whole)) + whole
    return b"\x1a" + varint(len(inner)) + inner


def test_pieces_are_read_in_any_order_of_their_fields():
    """What protobuf's own package reads, as written by SentencePiece and with the fields of pieces turned around."""
    data = trained(byte_fallback=True, user_defined_symbols=("<x>",))
    wanted = sentencepiece_model_pb2.ModelProto.FromString(data)
    rows = [(each.piece, each.score, each.type) for each in wanted.pieces]
    turned = b""
    for text, score, kind in rows:
        piece = text.encode()
        inner = b"\x18" + varint(kind) + b"\x15" + struct.pack("<f", score) + b"\x0a" + varint(len(piece)) + piece
        turned += b"\x0a" + varint(len(inner) + 3) + inner + b"\xf8\x01\x05"
    del wanted.pieces[:]
    for found in (sentence_piece.read("x", data), sentence_piece.read("x", turned + wanted.SerializeToString())):
        assert list(zip(found.pieces, found.scores, found.kinds, strict=True)) == rows
        assert found.byte_fallback and found.charsmap == wanted.normalizer_spec.precompiled_charsmap


def test_sums_without_bounds_lose_no_text():
    model = sentence_piece.read("x", trained())
    least = model._replace(scores=[-3e38] * len(model.scores))
    assert "".join(SentencePiece(least)("Emma is here")) == "▁Emma▁is▁here"


def test_a_map_written_by_hand_replaces_the_longest_key():
    cut = SentencePiece(sentence_piece.read("x", trained() + charsmap(chain(9))))
    assert cut.normal("a" * 20 + " e") == "▁bbaa▁e" and cut.normal("a" * 8) == "▁" + "a" * 8


HOSTILE = [
    (gone("vocab.json"), r"source.spm without vocab.json; MarianMT"),
    (gone("target.spm"), r"source.spm without target.spm; MarianMT"),
    (replaced("source.spm", lambda data: data[:-3000]), r"source.spm: at 0x[0-9a-f]+: field \d of [\d,]+ bytes"),
    (replaced("source.spm", lambda data: data[:1]), r"source.spm: at 0x1: a number without an end"),
    (replaced("source.spm", lambda data: b""), r"source.spm: 0 pieces, of which 0 are for unknown text; one"),
    (replaced("target.spm", lambda data: b"\x0a\xff\xff\xff\xff\xff\x0f" + data), r"at 0x0: field 1 of 549,"),
    (replaced("target.spm", lambda data: b"\x0a\x7f" + data[1:]), r"target.spm: at 0x"),
    (replaced("source.spm", lambda data: b"\xff" * 64), r"source.spm: at 0x0: a number without an end"),
    (replaced("source.spm", lambda data: data + b"\x0a\x05\x0a\x03a\xff\xfe"), r"source.spm: at .*not UTF-8"),
    (replaced("source.spm", lambda data: data + b"\x0a\x03\x0a\x01e"), r"source.spm: the piece 'e' stands twice; once"),
    (replaced("source.spm", lambda data: data + b"\x12\x02\x18\x03"), r"source.spm: model_type 3; 1 \(unigram\) or 2"),
    (replaced("source.spm", lambda data: data + b"\x12\x03\x98\x02\x01"), r"byte_fallback without a piece for <0x00>"),
    (replaced("source.spm", lambda data: data + b"\x1a\x06\x12\x04\xff\xff\xff\x7f"), "charsmap: a table of 2,147,"),
    (replaced("source.spm", lambda data: data + b"\x0a\x06\x0a\x01\x02\x15\x00\x00"), r"source.spm: at 0x"),
    (replaced("source.spm", lambda data: data + b"\x0a\x83\x08\x0a\x80\x08" + b"y" * 1024), r"of 1,024; at most"),
    (replaced("source.spm", lambda data: data + charsmap(chain(100))), r"charsmap: a key of more than 64 bytes"),
    (replaced("source.spm", lambda data: data + charsmap(chain(9), b"x" * 2000)), r"charsmap: a replacement at 0; "),
    (replaced("source.spm", lambda data: data + charsmap(chain(9), b"\xff\0")), r"replacement at 0 is not UTF-8"),
    (replaced("source.spm", lambda data: data + charsmap([1 << 10, *[0] * 95, 5000 << 10 | 256 | 97])), r"a value at "),
    (broken(lambda ids: {k: v for k, v in ids.items() if k != "<unk>"}), r"vocab.json: no <unk>; an id for each"),
    (broken(lambda ids: {k: v for k, v in ids.items() if k != "</s>"}), r"vocab.json: no </s>; an id for each"),
    (broken(lambda ids: {k: v for k, v in ids.items() if k.startswith("<")}), r"none of the pieces of source.spm"),
    (broken(lambda ids: [*ids]), r"vocab.json: a list; an object: token -> id"),
    (broken(lambda ids: ids | {"x": -1}), r"vocab.json: 'x': -1; an id below 4,194,304"),
    (broken(lambda ids: ids | {"x": 1 << 40}), r"vocab.json: 'x': 1099511627776; an id below"),
    (broken(lambda ids: ids | {"x": "3"}), r"vocab.json: 'x': 3; an id below"),
    (broken(lambda ids: ids | {"xyzzy": 1}), r"vocab.json: 'xyzzy': id 1, which '<unk>' has; an id of its own"),
    (replaced("vocab.json", lambda data: data[:-9]), r"vocab.json: at 0x.*not JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("break_it", "message"), HOSTILE)
def test_what_is_broken_is_named(tmp_path, break_it, message):
    write_marian(tmp_path, trained(), trained(vocab_size=500))
    break_it(tmp_path)
    with pytest.raises((TokenizerError, ModelFileError), match=message) as caught:
        pyllm.AutoTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_flipped_bytes_end_in_a_tokenizer_or_a_typed_error(tmp_path):
    data, draw = trained(), np.random.default_rng(5)
    at = data.index(b"\x12", len(data) - 300_000 if len(data) > 300_000 else 0)
    good = 0
    for number in range(400):
        changed = bytearray(data)
        place = int(draw.integers(0, len(data))) if number % 2 else int(draw.integers(0, min(at + 4000, len(data))))
        changed[place] ^= 1 << int(draw.integers(0, 8))
        try:
            cut = SentencePiece(sentence_piece.read("x", bytes(changed)))
        except TokenizerError as error:
            assert str(error).startswith("x: ")
        else:
            good += 1
            assert all(isinstance("".join(cut(text)), str) for text in TEXTS[::4])
    assert 0 < good < 400


def test_wrong_calls_say_what_is_allowed(both):
    _, mine = both
    with pytest.raises(TokenizerError, match="know no pairs; text_target"):
        mine("a", "b")
    with pytest.raises(TokenizerError, match="knows no offsets"):
        mine("a", return_offsets_mapping=True)
    with pytest.raises(TokenizerError, match="neither text nor text_target"):
        mine()
    with pytest.raises(TokenizerError, match="max_length is 0"):
        mine("a", truncation=True, max_length=0)
    with pytest.raises(TokenizerError, match="token id 999999"):
        mine.decode([999999])
