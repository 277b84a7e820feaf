"""spiece.model and sentencepiece.bpe.model alone, beside transformers' tokenizers of the same files."""

import base64
import json

import pair_models
import pytest
import sentencepiece
import tokenizers
import transformers
from test_cli_training import run
from tiny_sentence_pieces import TEXTS, lines, pieces, trained

import pyllm
from pyllm.data import Pairs
from pyllm.errors import ModelFileError, TokenizerError
from pyllm.evaluate.translation import source_of
from pyllm.models.encoder_decoder import EncoderDecoder
from pyllm.text import sentence_piece

T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
ALBERT = {"pad_id": 0, "unk_id": 1, "eos_id": -1, "bos_id": -1, "control_symbols": "[CLS],[SEP],[MASK]"}
# family: (transformers' class, file, settings of the training, of the folder)
FAMILIES = {
    "t5": ("T5Tokenizer", "spiece.model", T5, {}),
    "t5 few": ("T5Tokenizer", "spiece.model", T5, {"extra_ids": 7, "model_max_length": 512}),
    "t5 kept": ("T5Tokenizer", "spiece.model", T5 | {"user_defined_symbols": ("<sep>", "Emma")}, {}),
    "albert": ("AlbertTokenizer", "spiece.model", ALBERT, {}),
    "albert cased": ("AlbertTokenizer", "spiece.model", ALBERT, {"do_lower_case": False, "keep_accents": True}),
    "xlm-r": ("XLMRobertaTokenizer", "sentencepiece.bpe.model", {}, {}),
    "camembert": ("CamembertTokenizer", "sentencepiece.bpe.model", {}, {}),
    "mbart": ("MBartTokenizer", "sentencepiece.bpe.model", {}, {"src_lang": "de_DE", "tgt_lang": "ro_RO"}),
    "mbart alone": ("MBartTokenizer", "sentencepiece.bpe.model", {}, {}),
    "pegasus": ("PegasusTokenizer", "spiece.model", T5, {}),
    "mbart50": ("MBart50Tokenizer", "sentencepiece.bpe.model", {}, {"src_lang": "de_DE", "tgt_lang": "sl_SI"}),
}


def write(family, folder):
    """A folder, and the class of transformers that reads it."""
    kind, file, settings, config = FAMILIES[family]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(trained(**settings))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **config}))
    return getattr(transformers, kind), trained(**settings)


def peer(family, folder):
    """transformers' tokenizer; what its fifth version forgot is given back: the mask takes the space before it, and
    mBART's and Pegasus' normaliser, as the tokenizer.json files of the families have both. mBART-50 drops white space
    at the end of a text and around it, as mBART and SentencePiece do.
    """
    kind, data = write(family, folder)
    spelled = {"albert": "[MASK]", "albert cased": "[MASK]"}.get(family, "<mask>")
    found = kind.from_pretrained(folder)
    whole = json.loads(found._tokenizer.to_str())
    for token in whole["added_tokens"]:
        token["lstrip"] |= token["content"] == spelled
    found._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(whole))
    if family.startswith(("mbart", "pegasus")):
        charsmap = sentence_piece.read("x", data).charsmap
        found._tokenizer.normalizer = tokenizers.normalizers.Precompiled(charsmap)
        found._tokenizer.pre_tokenizer = transformers.MBartTokenizer()._tokenizer.pre_tokenizer
    return found


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tmp_path_factory):
    """(transformers' tokenizer, ours, the folder)."""
    folder = tmp_path_factory.mktemp("pieces")
    return peer(request.param, folder), pyllm.AutoTokenizer.from_pretrained(folder), folder


def test_ids_offsets_and_texts_are_those_of_transformers(both):
    theirs, mine, _ = both
    more = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
    marked = "a <mask> b [MASK] c <extra_id_3> x<extra_id_0> <sep>Emma ro_RO"
    for text in (*TEXTS, marked, "``so'' it Is 1,234", *lines()[::60]):
        wanted, found = theirs(text, **more), mine(text, allow_special=True, **more)
        assert mine.convert_ids_to_tokens(found.input_ids) == theirs.convert_ids_to_tokens(wanted.input_ids), text
        assert found.input_ids == wanted.input_ids
        assert found.offset_mapping == wanted.offset_mapping
        assert found.special_tokens_mask == wanted.special_tokens_mask
        assert mine.decode(wanted.input_ids, True).strip() == theirs.decode(wanted.input_ids, True).strip()
        assert mine.encode(text) == theirs(text, split_special_tokens=True).input_ids
    pair = "a b", "c d e"
    assert mine(*pair, return_token_type_ids=True) == theirs(*pair, return_token_type_ids=True)
    assert mine(*pair, text_target="a b").labels == theirs(*pair, text_target="a b").labels
    for name in ("bos", "eos", "unk", "pad", "cls", "sep", "mask"):
        if getattr(theirs, f"{name}_token", None) is not None and getattr(mine, f"{name}_token") is not None:
            assert getattr(mine, f"{name}_token_id") == getattr(theirs, f"{name}_token_id"), name
    assert mine.vocab_size == len(theirs) and mine.pad_token_id == theirs.pad_token_id is not None


def test_the_ids_of_the_families(tmp_path):
    """fairseq's offsets and what stands around texts, in numbers."""
    emma = sentencepiece.SentencePieceProcessor(model_proto=trained()).encode("Emma")
    wanted = {
        "xlm-r": [0, *(i + 1 for i in emma), 2],
        "camembert": [5, *(i + 4 for i in emma), 6],
        "mbart": [*(i + 1 for i in emma), 2, 601 + 2],
        "mbart50": [601 + 2, *(i + 1 for i in emma), 2],
    }
    for family, ids in wanted.items():
        write(family, tmp_path / family)
        assert pyllm.AutoTokenizer.from_pretrained(tmp_path / family)("Emma").input_ids == ids, family
    write("t5", tmp_path / "t5")
    tokenizer = pyllm.AutoTokenizer.from_pretrained(tmp_path / "t5")
    assert [tokenizer.coder.find(f"<extra_id_{i}>") for i in (0, 1, 99)] == [699, 698, 600]


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "bpe"},
        {"byte_fallback": True, "character_coverage": 0.98},
        {"model_type": "bpe", "byte_fallback": True, "vocab_size": 700},
        {"add_dummy_prefix": False},
        {"normalization_rule_name": "nmt_nfkc_cf"},
    ],
)
def test_other_models_give_sentencepiece_s_ids(tmp_path, settings):
    """Of texts in which SentencePiece and transformers' rules for spaces and characters mean the same."""
    data = trained(**T5, **settings)
    (tmp_path / "spiece.model").write_bytes(data)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    theirs = sentencepiece.SentencePieceProcessor(model_proto=data)
    mine = pyllm.AutoTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS[:5], "Donaudampfschiff Kapitän ﬁ ①", "日本語 😀 mixed 中文 text", *lines()[::30]]
    for text in texts:
        assert mine.encode(text) == [*theirs.encode(text), 1], text
        assert (
            mine.decode(mine.encode(text), skip_special_tokens=True).strip()
            == theirs.decode([i for i in theirs.encode(text) if i != 2]).strip()
        )


def test_saved_again_it_is_the_same(both, tmp_path):
    _, mine, folder = both
    mine.save_pretrained(tmp_path / "again")
    for each in (tmp_path / "again").iterdir():
        assert each.read_bytes() == (folder / each.name).read_bytes()
    assert pyllm.AutoTokenizer.from_pretrained(tmp_path / "again")(TEXTS) == mine(TEXTS)


def test_t5_translates_and_learns_with_its_model_of_pieces(tmp_path, capsys):
    theirs = peer("t5", tmp_path)
    model, _ = pair_models.save("t5", tmp_path, spread=0.5, vocab_size=700, eos_token_id=1)
    call = pyllm.pipeline("translation", str(tmp_path), dtype="float32", max_new_tokens=9, num_beams=2)
    text = "translate: the house"
    out = model.generate(**theirs(text, return_tensors="pt"), max_new_tokens=9, num_beams=2, do_sample=False)
    assert call(text)[0]["translation_text"] == theirs.decode(out[0], skip_special_tokens=True).strip()
    (tmp_path / "pairs.tsv").write_text("".join(f"the house {i}\tdas Haus {i}\n" for i in range(40)))
    assert run(tmp_path, "finetune", "@", "--data", "@pairs.tsv", "--out", "@run", "--steps", "1") == 0
    assert (tmp_path / "run/spiece.model").read_bytes() == (tmp_path / "spiece.model").read_bytes()
    capsys.readouterr()
    assert run(tmp_path, "translate", "@run", "the house", "-n", "3") == 0


@pytest.mark.parametrize("family", ["mbart", "mbart50", "mbart alone"])
def test_sources_of_mbart_bear_their_language(tmp_path, family):
    theirs, mine = peer(family, tmp_path), pyllm.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the house", GERMAN := "Grüße!"):
        assert source_of(mine, text) == theirs(text).input_ids, GERMAN
    assert mine.target.encode("a") == theirs(text_target="a").input_ids


@pytest.mark.parametrize("family", ["mbart alone", "mbart50"])
def test_languages_are_chosen(tmp_path, family, capsys, monkeypatch):
    """As transformers' src_lang and tgt_lang, of a folder's model of pieces and of its tokenizer.json."""
    theirs = peer(family, tmp_path)
    theirs.src_lang, theirs.tgt_lang = "fr_XX", "ro_RO"
    mine = pyllm.AutoTokenizer.from_pretrained(tmp_path, src_lang="fr_XX", tgt_lang="ro_RO")
    mine.save_pretrained(tmp_path / "again")
    theirs.save_pretrained(tmp_path / "fast")
    (tmp_path / "fast" / "tokenizer_config.json").write_text(json.dumps({"src_lang": "fr_XX", "tgt_lang": "ro_RO"}))
    for each in (mine, *(pyllm.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("again", "fast"))):
        assert (each.src_lang, each.tgt_lang) == ("fr_XX", "ro_RO")
        assert each("the house").input_ids == theirs("the house").input_ids
        assert each("a", text_target="das Haus").labels == theirs("a", text_target="das Haus").labels
    assert mine.lang_code_to_id["ro_RO"] == theirs.convert_tokens_to_ids("ro_RO")

    size = len(theirs)
    model, _ = pair_models.save("mbart", tmp_path, spread=0.5, vocab_size=size)
    forced = {"forced_bos_token_id": theirs.convert_tokens_to_ids("de_DE"), "max_new_tokens": 9, "do_sample": False}
    theirs.src_lang = "it_IT"
    wanted = model.generate(**theirs("the house", return_tensors="pt"), num_beams=2, **forced)
    wanted = theirs.decode(wanted[0], skip_special_tokens=True).strip()
    settings = {"dtype": "float32", "max_new_tokens": 9, "num_beams": 2}
    call = pyllm.pipeline("translation", str(tmp_path), src_lang="it_IT", **settings)
    assert call("the house", tgt_lang="de_DE")[0]["translation_text"] == wanted
    words = ["-n", "9", "--beam", "2", "--source-language", "it_IT", "--target-language", "de_DE"]
    capsys.readouterr()
    assert run(tmp_path, "translate", "@", "the house", *words) == 0
    assert capsys.readouterr().out.split() == wanted.split()
    about = json.loads((tmp_path / "config.json").read_text())
    begun = {"decoder_start_token_id": theirs.convert_tokens_to_ids("ro_RO")}
    (tmp_path / "config.json").write_text(json.dumps(about | begun))
    asked, seen = EncoderDecoder.cross_weights, []
    monkeypatch.setattr(EncoderDecoder, "cross_weights", lambda self, *ids: (seen.append(ids), asked(self, *ids))[1])
    assert run(tmp_path, "translate", "@", "the house", *words, "--plot-attention", str(tmp_path / "a.svg")) == 0
    assert seen[0][1][0] == forced["forced_bos_token_id"]  # and not the language that the model's targets begin with
    with pytest.raises(TokenizerError, match="tgt_lang is 'deu'; one of ar_AR, cs_CZ, de_DE"):
        call("the house", tgt_lang="deu")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_m2m100_numbers_its_pieces_by_a_list(tmp_path, kind):
    """vocab.json beside the model of pieces, languages behind it; codes as en name tokens as __en__."""
    data = trained(model_type=kind)
    words = ["<s>", "<pad>", "</s>", "<unk>", *pieces(data)[:2:-1], "madeup", "Kapitän"]
    (tmp_path / "sentencepiece.bpe.model").write_bytes(data)
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "M2M100Tokenizer", "src_lang": "de"}')
    theirs = transformers.M2M100Tokenizer.from_pretrained(tmp_path, tgt_lang="ro")
    mine = pyllm.AutoTokenizer.from_pretrained(tmp_path, tgt_lang="ro")
    for code in ("de", "zu"):
        mine.src_lang = theirs.src_lang = code
        for text in (*TEXTS[:3], "Donaudampfschiff ﬁ ①", *lines()[::90]):
            assert mine(text).input_ids == source_of(mine, text) == theirs(text).input_ids, text
        assert mine(text, text_target="das Haus").labels == theirs(text, text_target="das Haus").labels
        ids = theirs(text).input_ids  # of which transformers 5 decodes the language, too
        assert mine.decode(ids, skip_special_tokens=True).strip() == theirs.decode(ids[1:], skip_special_tokens=True)
    learned = [side.tolist() for side in Pairs([("the house", "das Haus")], mine, 64, 2).sides(0)]
    assert learned == [theirs("the house").input_ids, theirs(text_target="das Haus").input_ids]
    assert mine.get_lang_id("ro") == theirs.get_lang_id("ro") != mine.get_lang_id("de") == theirs.get_lang_id("de")
    assert mine.lang_code_to_id == theirs.lang_code_to_id and (mine.src_lang, mine.tgt_lang) == ("zu", "ro")
    mine.save_pretrained(tmp_path / "again")
    assert pyllm.AutoTokenizer.from_pretrained(tmp_path / "again")("the house") == mine("the house")
    (tmp_path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words[:-9])}))
    with pytest.raises(TokenizerError, match=r"vocab.json: no '.*'; a number for each piece"):
        pyllm.AutoTokenizer.from_pretrained(tmp_path)


def test_nllb_says_any_language(tmp_path, capsys):
    """Its tokenizer.json as transformers writes it; a source begins with its language, what is said with another."""
    letters = sorted(set("the house das Haus".replace(" ", "")) | {"\u2581"})
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the")]
    words = ["<s>", "<pad>", "</s>", "<unk>", *letters, *(a + b for a, b in merges)]
    languages = ["eng_Latn", "fra_Latn", "deu_Latn", "zho_Hans"]
    theirs = transformers.NllbTokenizer({word: i for i, word in enumerate(words)}, merges,
                                        extra_special_tokens=languages)  # fmt: skip
    theirs.save_pretrained(tmp_path)
    model, _ = pair_models.save("m2m100", tmp_path, spread=0.5, vocab_size=len(theirs))
    theirs.src_lang = "fra_Latn"
    mine = pyllm.AutoTokenizer.from_pretrained(tmp_path, src_lang="fra_Latn", tgt_lang="deu_Latn")
    assert source_of(mine, "the house") == mine("the house").input_ids == theirs("the house").input_ids
    assert set(mine.lang_code_to_id) == set(languages) and mine.src_lang == "fra_Latn"
    forced = {"forced_bos_token_id": theirs.convert_tokens_to_ids("deu_Latn"), "max_new_tokens": 9, "do_sample": False}
    wanted = model.generate(**theirs("the house", return_tensors="pt"), num_beams=2, **forced)
    wanted = theirs.decode(wanted[0], skip_special_tokens=True).strip()
    settings = {"dtype": "float32", "max_new_tokens": 9, "num_beams": 2}
    call = pyllm.pipeline("translation", str(tmp_path), src_lang="fra_Latn", tgt_lang="deu_Latn", **settings)
    assert call("the house")[0]["translation_text"] == wanted
    words = ["-n", "9", "--beam", "2", "--source-language", "fra_Latn", "--target-language", "deu_Latn"]
    capsys.readouterr()
    assert run(tmp_path, "translate", "@", "the house", *words) == 0
    assert capsys.readouterr().out.split() == wanted.split()
    (tmp_path / "pairs.tsv").write_text("".join("the" * i + f"\tdas{' Haus' * i}\n" for i in range(1, 12)))
    assert run(tmp_path, "finetune", "@", "--data", "@pairs.tsv", "--out", "@run", "--steps", "1", *words[4:]) == 0
    learned = pyllm.AutoTokenizer.from_pretrained(tmp_path / "run")
    assert (learned.src_lang, learned.tgt_lang) == ("fra_Latn", "deu_Latn")


def test_without_languages_none_is_chosen(tmp_path):
    write("t5", tmp_path)
    with pytest.raises(TokenizerError, match="src_lang is 'de_DE'; its texts bear no language"):
        pyllm.AutoTokenizer.from_pretrained(tmp_path, src_lang="de_DE")


HOSTILE = [
    (lambda data: data[:-3000], {}, r"spiece.model: at 0x[0-9a-f]+: field \d of [\d,]+ bytes"),
    (lambda data: b"\x0a\xff\xff\xff\xff\xff\x0f" + data, {}, r"spiece.model: at 0x0: field 1 of"),
    (lambda data: data + b"\x1a\x06\x12\x04\xff\xff\xff\x7f", {}, r"spiece.model: charsmap: a table of 2,147"),
    (lambda data: data + b"\x1a\x02\x28\x00", {}, r"spiece.model: spaces stand behind words or are not marked"),
    (lambda data: data, {"extra_ids": -1}, r"spiece.model: extra_ids -1; 0 to 65,536"),
    (lambda data: data, {"eos_token": "<end>"}, r"spiece.model: no <end>; a piece for each special token"),
    (lambda data: data, {"tokenizer_class": "BigBirdTokenizer"}, r"spiece.model of 'bigbird'; one of t5, albert"),
    (
        lambda data: data,
        {"tokenizer_class": "MBartTokenizer", "src_lang": "xx"},
        r"language 'xx'; one that has a token",
    ),
    (lambda data: b"", {}, r"spiece.model: 0 pieces"),
]


@pytest.mark.parametrize(("change", "config", "message"), HOSTILE)
def test_what_is_broken_is_named(tmp_path, change, config, message):
    settings = {} if "src_lang" in config else T5
    (tmp_path / "spiece.model").write_bytes(change(trained(**settings)))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", **config}))
    with pytest.raises((TokenizerError, ModelFileError), match=message) as caught:
        pyllm.AutoTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_the_map_of_characters_is_handed_on_whole(tmp_path):
    write("t5", tmp_path)
    document = pyllm.AutoTokenizer.from_pretrained(tmp_path).coder.document()
    [step] = document["normalizer"]["normalizers"]
    assert base64.b64decode(step["precompiled_charsmap"]) == sentence_piece.read("x", trained(**T5)).charsmap
