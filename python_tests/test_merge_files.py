"""vocab.json and merges.txt alone, beside transformers' tokenizers of the same files."""

import json
import sys

import pytest
import tokenizers
import transformers
from tiny_sentence_pieces import TEXTS, lines

import pyllm
from pyllm.data.fingerprint import fingerprint
from pyllm.errors import ModelFileError, TokenizerError

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
END = "<|endoftext|>"


def write(folder, special, size=700, **config):
    """The two files, learned from Emma, and the settings."""
    folder.mkdir(parents=True, exist_ok=True)
    learned = tokenizers.ByteLevelBPETokenizer()
    learned.train_from_iterator(lines(), vocab_size=size, special_tokens=special, show_progress=False)
    learned.save_model(str(folder))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def set_up(kind, folder):
    """(transformers' tokenizer of a folder, the folder)."""
    if kind == "roberta":  # transformers 5 has forgotten that the mask takes the space before it
        write(folder, SPECIAL, model_max_length=512)
        (folder / "config.json").write_text('{"model_type": "roberta"}')
        mask = tokenizers.AddedToken("<mask>", lstrip=True, special=True)
        return transformers.RobertaTokenizer.from_pretrained(folder, mask_token=mask), folder
    if kind == "bart":
        write(folder, SPECIAL, tokenizer_class="BartTokenizer", add_prefix_space=True,
              mask_token={"content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False,
                          "normalized": True, "__type": "AddedToken"})  # fmt: skip
        return transformers.BartTokenizer.from_pretrained(folder), folder
    if kind == "gpt2":
        write(folder, [END])
        (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]", "bos_token": END}))
        (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": 700, "<user>": 701}))
        return transformers.GPT2Tokenizer.from_pretrained(folder), folder
    if kind == "begun":
        write(folder, [END], tokenizer_class="GPT2Tokenizer", add_bos_token=True, bos_token=END)
        return transformers.GPT2Tokenizer.from_pretrained(folder), folder
    write(folder, [END, "<|im_start|>"], tokenizer_class="Qwen2Tokenizer", pad_token=END, eos_token="<|im_start|>",
          additional_special_tokens=["<|im_start|>"])  # fmt: skip
    return transformers.Qwen2Tokenizer.from_pretrained(folder), folder


@pytest.fixture(scope="module", params=["roberta", "bart", "gpt2", "begun", "qwen2"])
def both(request, tmp_path_factory):
    """(transformers' tokenizer, ours, the folder)."""
    theirs, folder = set_up(request.param, tmp_path_factory.mktemp(request.param))
    return theirs, pyllm.AutoTokenizer.from_pretrained(folder), folder


def test_ids_offsets_and_texts_are_those_of_transformers(both):
    theirs, mine, _ = both
    more = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
    for text in (*TEXTS, "a <mask> b <user> [PAD] <|im_start|>x", *lines()[::60]):
        wanted, found = theirs(text, **more), mine(text, allow_special=True, **more)
        assert found.input_ids == wanted.input_ids, text
        assert found.offset_mapping == wanted.offset_mapping and found.special_tokens_mask == wanted.special_tokens_mask
        assert mine.decode(wanted.input_ids) == theirs.decode(wanted.input_ids)
        assert mine.decode(wanted.input_ids, True) == theirs.decode(wanted.input_ids, skip_special_tokens=True)
        plain = theirs(text, split_special_tokens=True).input_ids
        assert mine.encode(text) == plain
    pair = "a b", "c d e"
    assert mine(*pair).input_ids == theirs(*pair).input_ids
    assert (
        mine(*pair, truncation=True, max_length=5).input_ids == theirs(*pair, truncation=True, max_length=5).input_ids
    )
    for name in ("bos", "eos", "unk", "pad", "cls", "sep", "mask"):
        assert getattr(mine, f"{name}_token") == getattr(theirs, f"{name}_token", None), name
        assert getattr(mine, f"{name}_token_id") == getattr(theirs, f"{name}_token_id", None), name
    assert mine.vocab_size == len(theirs) and set(mine.all_special_ids) == set(theirs.all_special_ids)


def test_saved_again_it_is_the_same(both, tmp_path):
    _, mine, folder = both
    mine.save_pretrained(tmp_path / "again")
    for each in (tmp_path / "again").iterdir():
        assert each.read_bytes() == (folder / each.name).read_bytes()
    again = pyllm.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again(TEXTS).input_ids == mine(TEXTS).input_ids and fingerprint(again) == fingerprint(mine)


def test_a_pair_stands_between_roberta_s_marks(tmp_path):
    write(tmp_path, SPECIAL)
    mine = pyllm.AutoTokenizer.from_pretrained(tmp_path)
    a, b = mine.encode("a b", add_special_tokens=False), mine.encode("c", add_special_tokens=False)
    assert mine("a b", "c").input_ids == [0, *a, 2, 2, *b, 2] and mine.mask_token_id == 4


def test_gpt2_s_files_need_no_other_package(tmp_path, monkeypatch):
    theirs, folder = set_up("gpt2", tmp_path)
    (folder / "added_tokens.json").unlink()
    (folder / "special_tokens_map.json").unlink()
    wanted = [theirs(text, split_special_tokens=True).input_ids for text in TEXTS]
    for name in ("tokenizers", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    mine = pyllm.AutoTokenizer.from_pretrained(folder)
    assert [mine.encode(text) for text in TEXTS] == wanted
    (folder / "added_tokens.json").write_text('{"<user>": 700}')
    with pytest.raises(ImportError, match=r"vocab.json needs the package `tokenizers`"):
        pyllm.AutoTokenizer.from_pretrained(folder)


def test_shards_know_the_tokenizer_from_either_kind_of_file(tmp_path):
    theirs, folder = set_up("gpt2", tmp_path / "files")
    theirs.save_pretrained(tmp_path / "json")
    assert (tmp_path / "json/tokenizer.json").exists() and not (tmp_path / "json/merges.txt").exists()
    one, other = (pyllm.AutoTokenizer.from_pretrained(each) for each in (folder, tmp_path / "json"))
    assert fingerprint(one) == fingerprint(other)


def lines_of(change):
    """merges.txt after a change of its lines."""

    def write_it(folder):
        rows = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        (folder / "merges.txt").write_text("\n".join(change(rows)), encoding="utf-8")

    return write_it


def ids_of(change):
    """vocab.json after a change of its entries."""

    def write_it(folder):
        ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        (folder / "vocab.json").write_text(json.dumps(change(ids)))

    return write_it


def file_of(name, value):
    return lambda folder: (folder / name).write_text(json.dumps(value))


HOSTILE = [
    (lines_of(lambda rows: [*rows[:5], "zz qq", *rows[5:]]), r"merges.txt: line 6: 'zz' is not in vocab.json"),
    (lines_of(lambda rows: [*rows[:3], "a b c", *rows[3:]]), r"merges.txt: line 4: 'a b c'; two tokens"),
    (ids_of(lambda ids: {k: i for i, k in enumerate(k for k in ids if k != "</s>")}), r"vocab.json: no </s>; an id"),
    (
        ids_of(lambda ids: {k: v for k, v in ids.items() if k not in ("he", "in")}),
        r"merges.txt: line \d+: '\w+' is not",
    ),
    (ids_of(lambda ids: ids | {"new": 3}), r"vocab.json: 'new': id 3, which '<unk>' has; an id of its own"),
    (ids_of(lambda ids: ids | {"new": True}), r"vocab.json: 'new': True; an id below"),
    (lambda folder: (folder / "vocab.json").unlink(), r"merges.txt without vocab.json; both"),
    (lambda folder: (folder / "vocab.json").write_text('{"a": 1, "a": 2}'), r"vocab.json: .*stands twice"),
    (lambda folder: (folder / "merges.txt").write_bytes(b"\xff\xfe a"), r"merges.txt: at 0x0: not UTF-8"),
    (file_of("added_tokens.json", {"<x>": 900}), r"added_tokens.json and its like: ids \[900\]; .* or 700 and on"),
    (file_of("tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer"}), r"of 'clip'; one of roberta, bart"),
]


@pytest.mark.parametrize(("break_it", "message"), HOSTILE)
def test_what_is_broken_is_named(tmp_path, break_it, message):
    (write(tmp_path, SPECIAL) / "config.json").write_text('{"model_type": "roberta"}')
    break_it(tmp_path)
    with pytest.raises((TokenizerError, ModelFileError), match=message) as caught:
        pyllm.AutoTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
