"""BERT's tokenizers: pairs, kinds of sentence, offsets, cutting, filling as transformers has them; vocab.txt alone."""

import json
import sys

import numpy as np
import pytest
import tiny_tokenizers
import transformers

import pyllm
from pyllm.errors import TokenizerError

TEXTS = ["Paris is the capital of France.", "unaffable footballers, 中!", "", "New York " * 12]
SECOND = ["a b c", "Messi is great " * 3, "the", "John lives in New York"]
COLUMNS = ("input_ids", "token_type_ids", "attention_mask", "offset_mapping", "special_tokens_mask")


@pytest.fixture(params=["vocab.txt", "tokenizer.json"])
def both(request, tmp_path):
    """(transformers' tokenizer, ours) of a folder that holds that file."""
    tiny_tokenizers.write_vocabulary(tmp_path)
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    if request.param == "tokenizer.json":
        theirs.save_pretrained(tmp_path / "json")
        assert not (tmp_path / "json/vocab.txt").exists()
        return theirs, pyllm.AutoTokenizer.from_pretrained(tmp_path / "json")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    return theirs, pyllm.AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("pairs", [None, SECOND])
@pytest.mark.parametrize(
    "cut",
    [
        {},
        {"truncation": True, "max_length": 9},
        {"truncation": "only_first", "max_length": 16},
        {"truncation": True, "max_length": 6, "add_special_tokens": False},
    ],
)
def test_rows_are_those_of_transformers(both, pairs, cut):
    theirs, mine = both
    more = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "return_tensors": "np", "padding": True}
    wanted, found = theirs(TEXTS, pairs, **cut, **more), mine(TEXTS, pairs, **cut, **more)
    assert set(found) == set(wanted) == set(COLUMNS)
    assert all(np.array_equal(found[name], wanted[name]) for name in COLUMNS)
    assert dict(mine(TEXTS, pairs, **cut)) == dict(theirs(TEXTS, pairs, **cut))
    assert dict(mine(TEXTS[0], pairs and pairs[0], **cut)) == dict(theirs(TEXTS[0], pairs and pairs[0], **cut))
    wide = {"padding": "max_length", "max_length": 50}
    mine.padding_side = theirs.padding_side = "left"
    assert dict(mine(TEXTS, pairs, **wide)) == dict(theirs(TEXTS, pairs, **wide))


def test_special_tokens_have_their_names(both):
    theirs, mine = both
    for name in ("cls", "sep", "mask", "pad", "unk"):
        assert getattr(mine, f"{name}_token") == getattr(theirs, f"{name}_token") == f"[{name.upper()}]"
        assert getattr(mine, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
    assert mine("the [MASK]", allow_special=True).input_ids == theirs("the [MASK]").input_ids
    assert mine.mask_token_id not in mine("the [MASK]").input_ids  # a text's spelling is text unless it is allowed
    assert mine.decode(mine("Paris is great!").input_ids, skip_special_tokens=True).strip() == "paris is great !"


def test_saved_again_it_gives_the_same(both, tmp_path):
    _, mine = both
    mine.save_pretrained(tmp_path / "again")
    again = pyllm.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again(TEXTS, SECOND).input_ids == mine(TEXTS, SECOND).input_ids


def write_mpnet(folder, **config):
    """vocab.txt with MPNet's special tokens, of which files say the class alone. Gives how many tokens it has."""
    words = [each for each in tiny_tokenizers.WORD_PIECES if not each.startswith("[")]
    words = ["<s>", "<pad>", "</s>", "<unk>", *words, "[UNK]", "<mask>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MPNetTokenizer", **config}))
    return len(words)


@pytest.mark.parametrize("config", [{}, {"do_lower_case": False}])
def test_mpnet_has_a_vocabulary_of_its_own(tmp_path, config):
    """Its marks are RoBERTa's, two of them between the texts of a pair; the mask takes the space before it."""
    write_mpnet(tmp_path, **config)
    theirs = transformers.MPNetTokenizer.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path / "json")
    for mine in (pyllm.AutoTokenizer.from_pretrained(path) for path in (tmp_path, tmp_path / "json")):
        assert dict(mine(TEXTS, SECOND)) == dict(theirs(TEXTS, SECOND)) and dict(mine(TEXTS)) == dict(theirs(TEXTS))
        for name in ("bos", "eos", "cls", "sep", "mask", "pad", "unk"):
            assert getattr(mine, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
        masked = "The capital <mask>, of [UNK]"
        assert mine(masked, allow_special=True).input_ids == theirs(masked).input_ids
        assert mine.decode(mine("paris is").input_ids, skip_special_tokens=True).strip() == "paris is"


@pytest.mark.parametrize(
    ("config", "typed"),
    [
        ({"tokenizer_class": "BertTokenizer"}, True),
        ({"tokenizer_class": "ElectraTokenizerFast"}, True),
        ({"tokenizer_class": "DistilBertTokenizerFast"}, False),
        ({"model_input_names": ["input_ids", "attention_mask"]}, False),
        ({"model_input_names": ["input_ids", "token_type_ids"], "tokenizer_class": "RobertaTokenizer"}, True),
        ({}, False),
    ],
)
def test_kinds_of_sentence_are_given_where_models_want_them(tmp_path, config, typed):
    tiny_tokenizers.write_vocabulary(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text('{"model_type": "distilbert"}')
    tokenizer = pyllm.AutoTokenizer.from_pretrained(tmp_path)
    assert ("token_type_ids" in tokenizer("a", "b")) == typed
    assert tokenizer("a", "b", return_token_type_ids=True).token_type_ids == [0, 0, 0, 1, 1]


def test_what_a_file_asks_for_is_left_to_the_caller(tmp_path):
    """MiniLM's tokenizer.json fills up to 128 and cuts there."""
    tiny_tokenizers.write_vocabulary(tmp_path)
    transformers.BertTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "json")
    path = tmp_path / "json/tokenizer.json"
    document = json.loads(path.read_text())
    document["padding"] = {"strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                           "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip
    document["truncation"] = {"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    path.write_text(json.dumps(document))
    tokenizer = pyllm.AutoTokenizer.from_pretrained(tmp_path / "json")
    assert len(tokenizer("the capital of france is paris").input_ids) == 8
    assert tokenizer("a").input_ids == [2, tokenizer.coder.find("a"), 3]


def test_settings_of_the_folder_count(tmp_path):
    tiny_tokenizers.write_vocabulary(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "model_max_length": 7}')
    tokenizer = pyllm.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.convert_ids_to_tokens(tokenizer("The the").input_ids) == ["[CLS]", "[UNK]", "the", "[SEP]"]
    assert len(tokenizer("a " * 20, truncation=True).input_ids) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n", "'a' stands twice; a line for each token"),
        ("[PAD]\n[UNK]\na\n", r"no \[SEP\], \[CLS\], \[MASK\]; a line for each special token"),
        ("", "no .*; a line for each special token"),
    ],
)
def test_hostile_vocabularies_are_named(tmp_path, text, message):
    (tmp_path / "vocab.txt").write_text(text)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TokenizerError, match=rf"{tmp_path.name}: vocab.txt: {message}"):
        pyllm.AutoTokenizer.from_pretrained(tmp_path)


def test_pieces_with_scores_as_alberts(tmp_path):
    """SentencePiece's unigrams in tokenizer.json; texts of a pair are told apart, as ALBERT has learned them."""
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    words = [
        "▁",
        "▁the",
        "▁capital",
        "▁of",
        "▁is",
        "▁paris",
        "s",
        "a",
        "e",
        "t",
        "o",
        ".",
        "▁messi",
        "▁great",
        "!",
        "n",
    ]
    scores = [(word, 0.0) for word in special] + [(word, -1 - i / 10) for i, word in enumerate(words)]
    theirs = transformers.AlbertTokenizer(vocab=scores)
    theirs.save_pretrained(tmp_path)
    mine = pyllm.AutoTokenizer.from_pretrained(tmp_path)
    for pair in (("the capital of Paris.", None), ("messi [MASK] great!", None), ("the capital", "is paris")):
        more = {"return_offsets_mapping": True, "return_token_type_ids": True}
        assert dict(mine(*pair, allow_special=True, **more)) == dict(theirs(*pair, **more))
    assert mine("the capital", "is paris").token_type_ids == [0, 0, 0, 0, 1, 1, 1]
    ids = mine("the capital of").input_ids
    assert mine.convert_tokens_to_string(mine.convert_ids_to_tokens(ids)) == theirs.decode(ids)


def test_without_tokenizers_the_error_says_what_to_install(tmp_path, monkeypatch):
    tiny_tokenizers.write_vocabulary(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"vocab.txt needs the package `tokenizers`: pip install 'pyllm\[hf\]'"):
        pyllm.AutoTokenizer.from_pretrained(tmp_path)


def test_wrong_calls_say_what_is_allowed(both):
    _, mine = both
    with pytest.raises(TokenizerError, match="text_pair: 1 for 2 texts; one for each"):
        mine(["a", "b"], ["c"])
    with pytest.raises(TokenizerError, match="text is int; str or bytes"):
        mine(["a"], [3])
    with pytest.raises(TokenizerError, match="truncation: 'short'"):
        mine("a", truncation="short", max_length=3)
    with pytest.raises(TokenizerError, match="max_length 1"):
        mine("a b c", truncation=True, max_length=1)
