"""Trained tokenizers: the merges of PyPI's `tokenizers`, texts that come back, the ids of transformers, bounds."""

import collections
import copy
import json
import pickle
import random
import signal
import sys
import time

import pytest
import text_cases as cases
import tiny_models
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

import pyllm
from pyllm import _core
from pyllm.errors import TokenizerError
from pyllm.text.native import PLAIN, DescribedCoder, open_document
from pyllm.text.pre_tokenizers import STAGES, description_of
from pyllm.text.training import END, Trainer

PROSE = cases.PROSE
ALPHABETS = ["ab", "abc", "ab ", "abc \n", "aé漢😀 ", "01 a'", "abcdefgh", "a b\n\t1", "\u00a0\u3000a \r\n"]


def parts(document):
    """(vocabulary, merges) of a tokenizer.json."""
    return document["model"]["vocab"], [tuple(merge) for merge in document["model"]["merges"]]


def peer(texts, vocab, least, special=(END,), pre=None):
    """The same from `tokenizers`."""
    found = tokenizers.Tokenizer(models.BPE())
    found.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, min_frequency=least, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    found.train_from_iterator(texts, trainer)
    return parts(json.loads(found.to_str()))


def own(texts, vocab, least, **more):
    return parts(pyllm.text.train(texts, vocab=vocab, min_frequency=least, **more).coder.document())


@pytest.mark.parametrize("seed", range(60))
def test_merges_equal_those_of_tokenizers(seed):
    """Few letters, so that counts are equal everywhere."""
    draw = random.Random(seed)
    for alphabet in ALPHABETS:
        sizes = [draw.randint(0, draw.choice([50, 400, 3000])) for _ in range(draw.randint(1, 4))]
        texts = ["a", *("".join(draw.choice(alphabet) for _ in range(size)) for size in sizes)]
        vocab, least = draw.choice([257, 258, 260, 300, 500]), draw.choice([0, 1, 2, 3])
        assert own(texts, vocab, least) == peer(texts, vocab, least)


@pytest.mark.parametrize("vocab, least", [(257, 0), (258, 1), (300, 0), (700, 2), (5000, 1), (5000, 2)])
def test_merges_of_many_scripts(vocab, least):
    texts = [PROSE, "", "\n\n", " " * 50, *(cases.mixed_text(300, seed).decode() for seed in range(8)), PROSE * 3]
    special = (END, "<|im_start|>", "<|im_end|>", "[PAD]")
    if vocab >= 260:
        assert own(texts, vocab, least, chat=True, special=["[PAD]"]) == peer(texts, vocab, least, special)
    assert own(texts, vocab, least) == peer(texts, vocab, least)


@pytest.mark.parametrize("name", [*STAGES, "llama-bpe"])
def test_merges_of_every_pre_tokenizer(name, tmp_path):
    found = pyllm.text.train([PROSE, PROSE * 2], vocab=600, min_frequency=0, pre_tokenizer=name)
    text = json.dumps(found.coder.document())
    pre = tokenizers.Tokenizer.from_str(text).pre_tokenizer
    assert parts(found.coder.document()) == peer([PROSE, PROSE * 2], 600, 0, pre=pre)
    assert found.coder.document()["pre_tokenizer"] == description_of(name)[0]
    assert found.encode(PROSE) == tokenizers.Tokenizer.from_str(text).encode(PROSE).ids


def test_nothing_merges_into_a_special_token():
    found = pyllm.text.train("the the the them then", vocab=300, min_frequency=1, special=["the", "Ġthe"])
    assert found.convert_tokens_to_ids(["the", "Ġthe"]) == [1, 2]
    assert not {1, 2} & set(found.encode("the the them"))
    assert found.decode(found.encode("the the them")) == "the the them"


@pytest.mark.parametrize("cut", [*STAGES, "word", "character"])
def test_words_do_not_depend_on_how_a_text_is_cut(cut):
    text = (cases.mixed_text(2000, 3).decode() + PROSE) * 2
    whole = _core.WordCounts(cut, 10**6)
    whole.add(text.encode())
    whole.end_text()
    if cut not in PLAIN:
        plain = collections.Counter(_core.split_words(cut, text.encode()))
        assert dict(whole.common(0, 10**6)) == plain and whole.total == sum(plain.values())
    draw = random.Random(5)
    found, at = _core.WordCounts(cut, 10**6), 0
    while at < len(text):
        size = draw.randint(1, 40)
        found.add(text[at : at + size].encode())
        at += size
    found.end_text()
    assert found.common(0, 10**6) == whole.common(0, 10**6)


@pytest.mark.parametrize("unit", ["漢字。\n", "ab\n\n\n", "x1!", "a", " ", "\n"])
def test_a_long_text_without_spaces_between_words(unit):
    text = unit * (3_000_000 // len(unit.encode()))
    found = _core.WordCounts("gpt-2", 10**6)
    for at in range(0, len(text), 100_000):
        found.add(text[at : at + 100_000].encode())
    found.end_text()
    words = found.common(0, 10**6)
    assert sum(len(word) * count for word, count in words) == len(text.encode())
    if len(set(unit)) > 1:
        assert dict(words) == collections.Counter(_core.split_words("gpt-2", text.encode()))
    else:
        assert max(len(word) for word, _ in words) == 16384


@pytest.mark.parametrize("letters", ["a", "ab", "é漢", "abcdefghijklmnopqrstuvwxyz"])
def test_endless_words_are_trained_in_pieces(letters):
    text = "".join(random.Random(2).choices(letters, k=400_000))
    start = time.monotonic()
    found = pyllm.text.train(text, vocab=600)
    assert time.monotonic() - start < 10  # 0.3 s on a quiet machine
    assert found.decode(found.encode(text)) == text
    assert max(len(found.token_bytes(i)) for i in range(len(found))) <= 16384


@pytest.fixture(scope="module")
def trained():
    return {
        kind: pyllm.text.train([PROSE, *(cases.mixed_text(200, seed) for seed in range(3))], kind, vocab=900, chat=True)
        for kind in ("bpe", "word", "char")
    }


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_a_text_comes_back(trained, text):
    text = text.encode("utf-8", "replace").decode()
    found = trained["bpe"]
    assert found.decode(found.encode(text)) == text
    assert found.decode(found.encode(text, allow_special=True)) == text


def test_every_byte_and_every_special_token_comes_back(trained):
    found = trained["bpe"]
    for code in [*range(0x3000), *range(0x1F300, 0x1F700), 0x10FFFF]:
        assert found.decode(found.encode(chr(code))) == chr(code)
    assert found.encode("<|im_end|>", allow_special=True) == [2] and found.eos_token == END
    assert len(found.encode("<|im_end|>")) > 1
    assert found.end_ids == {0, 2} and found.bos_token_id == found.pad_token_id == found.eos_token_id == 0


@pytest.mark.parametrize(("kind", "pad"), (("bpe", "<pad>"), ("word", "[PAD]"), ("char", "<pad>")))
def test_a_special_token_of_that_name_is_for_padding(tmp_path, kind, pad):
    found = pyllm.text.train([PROSE], kind, vocab=900, special=["<mask>", pad])
    found.save_pretrained(tmp_path)
    for each in (found, pickle.loads(pickle.dumps(found)), pyllm.AutoTokenizer.from_pretrained(tmp_path)):
        assert each.pad_token == pad != each.eos_token == END
        assert each.files() == found.files()


TEXTS = [
    PROSE, "", " ", "\n", "a  b", "don't stop", "漢字 unseen ☃ ² x_1", "<|im_start|>user\nthe mill<|im_end|>\n",
    f"the river{END}the sea", "<unk>", "▁ a▁b", "e\u0301 x\u200db",
    *(cases.mixed_text(60, seed).decode() for seed in range(9)),
]  # fmt: skip


@pytest.mark.parametrize("extra", [True, False])
@pytest.mark.parametrize("kind", ["bpe", "word", "char"])
def test_ids_and_texts_equal_those_of_transformers(trained, kind, extra, tmp_path, monkeypatch):
    """From the folder, with the package `tokenizers` and without it."""
    trained[kind].save_pretrained(tmp_path / "tok")
    other = transformers.AutoTokenizer.from_pretrained(tmp_path / "tok")
    if not extra:
        monkeypatch.setitem(sys.modules, "tokenizers", None)
    found = pyllm.AutoTokenizer.from_pretrained(tmp_path / "tok")
    assert isinstance(found.coder, DescribedCoder) == (kind != "bpe" or not extra)
    assert len(found) == len(trained[kind]) == len(other)
    for text in TEXTS:
        ids = found.encode(text, allow_special=True)
        assert ids == other(text).input_ids == trained[kind].encode(text, allow_special=True)
        assert found.encode(text) == trained[kind].encode(text)
        for skip in (False, True):
            assert found.decode(ids, skip_special_tokens=skip) == other.decode(ids, skip_special_tokens=skip)
        if kind != "bpe" and END not in text and "<" not in text:
            spans = {"return_offsets_mapping": True}
            assert found(text, **spans).offset_mapping == other(text, **spans).offset_mapping
    cut = {"truncation": True, "max_length": 2, "return_offsets_mapping": True}
    if kind != "bpe":
        assert found(TEXTS[0], **cut).offset_mapping == other(TEXTS[0], **cut).offset_mapping
    messages = [{"role": "user", "content": "the <|im_end|> river"}, {"role": "assistant", "content": "ran"}]
    assert found.apply_chat_template(messages, tokenize=False) == other.apply_chat_template(messages, tokenize=False)
    assert found.apply_chat_template(messages).count(2) == 2
    for name in ("bos", "eos", "pad", "unk"):
        assert getattr(found, f"{name}_token") == getattr(other, f"{name}_token")
        assert getattr(found, f"{name}_token_id") == getattr(trained[kind], f"{name}_token_id")
    assert found.end_ids == trained[kind].end_ids
    found.save_pretrained(tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "tok" / name).read_bytes()


@pytest.mark.parametrize("kind", ["bpe", "word", "char"])
def test_malformed_text_becomes_the_replacement_character(trained, kind):
    found = trained[kind]
    for damaged in [*cases.DAMAGE, b"a\xffb", cases.mixed_text(50, 7, damaged=True)]:
        assert found.encode(damaged) == found.encode(damaged.decode("utf-8", "replace"))
    assert found.encode("a\ud800") == found.encode("a\ufffd\ufffd\ufffd")


def test_words_are_those_of_tokenizers():
    texts = [PROSE, cases.mixed_text(300, 1).decode(), "b a b a c"]
    found = pyllm.text.train(texts, "word", vocab=200, min_frequency=2)
    other = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    other.pre_tokenizer = tokenizers.Tokenizer.from_str(json.dumps(found.coder.document())).pre_tokenizer
    special = [END, "<unk>"]
    trainer = trainers.WordLevelTrainer(vocab_size=200, min_frequency=2, special_tokens=special, show_progress=False)
    other.train_from_iterator(texts, trainer)
    assert found.coder.document()["model"]["vocab"] == json.loads(other.to_str())["model"]["vocab"]
    assert found.decode(found.encode("the river, the unheard")) == "the river , the <unk>"


def test_characters_are_sorted_and_the_rarest_left_out():
    found = pyllm.text.train("hello, World\n", "char")
    letters = sorted(set("hello, World\n"))
    assert found.convert_ids_to_tokens(range(len(found))) == [END, "<unk>", *letters]
    assert found.decode(found.encode("World, hello\n▁")) == "World, hello\n<unk>"
    assert found.convert_ids_to_tokens(range(2, 5)) != list("hlo")
    few = pyllm.text.train("aaabbbccd", "char", vocab=5, end="<end>")
    assert few.convert_ids_to_tokens(range(5)) == ["<end>", "<unk>", "a", "b", "c"]


@pytest.mark.parametrize("length", [4, 100])
def test_rare_words_are_forgotten_by_the_rule(length):
    """Beside a plain implementation: beyond the limit the half with the highest counts stays, the first of equals."""
    draw, most = random.Random(length), 1000
    words = [f"{int(draw.random() ** 3 * 6000):0{length}}" for _ in range(20_000)]
    held, forgotten, times = {}, 0, 0
    for word in words:
        held[word] = held.get(word, 0) + 1
        while len(held) > most or sum(map(len, held)) > 32 * most:
            order = sorted(held, key=lambda each: -held[each])
            rest = set(order[len(held) // 2 :])
            forgotten, times = forgotten + len(rest), times + sum(held[each] for each in rest)
            held = {each: count for each, count in held.items() if each not in rest}
    trainer = Trainer("word", most_words=most, vocab=400)
    for at in range(0, len(words), 100):
        trainer.add(" ".join(words[at : at + 100]) + " ")
        assert len(trainer.counts) <= most
    found = trainer.finish()
    assert dict(trainer.counts.common(0, 10**6)) == {word.encode(): count for word, count in held.items()}
    assert trainer.summary[:5] == ("word", 20_000, len(held), forgotten, times) and forgotten > 0
    assert trainer.summary.tokens == len(found) == min(400, len(held) + 2)
    assert trainer.summary.left_out == max(0, len(held) - 398)


def test_an_interrupt_stops_between_two_merges():
    draw = random.Random(1)
    counts = _core.WordCounts("gpt-2", 10**6)
    counts.add(" ".join("".join(draw.choices("abcdefghijklmnop", k=12)) for _ in range(150_000)).encode())
    counts.end_text()
    trainer = _core.PairTrainer(counts, [END], 10**6, 1)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            trainer.merge(10**9)
        assert time.monotonic() - start < 2  # 0.15 s on a quiet machine
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    merges = len(trainer.merges())
    assert not trainer.merge(5) and len(trainer.merges()) == merges + 5


@pytest.mark.parametrize("texts, more, said", [
    ("", {}, "no words; a text with at least one"),
    ([], {}, "no words"),
    (" \n ", {"kind": "word"}, "no words"),
    ([7], {}, "text is int; str or bytes"),
    ("a", {"kind": "syllable"}, "kind is 'syllable'; bpe, word, char"),
    ("a", {"vocab": 256}, "vocab is 256; at least 257: 256 bytes and 1 special tokens"),
    ("a", {"vocab": 258, "chat": True}, "vocab is 258; at least 259"),
    ("a", {"kind": "char", "vocab": 2}, "vocab is 2; at least 3: one token of text and 2 special tokens"),
    ("a", {"vocab": 1.5}, "vocab is 1.5; a whole number"),
    ("a", {"vocab": 1 << 40}, "a whole number from 1 to 16777216"),
    ("a", {"min_frequency": -1}, "min_frequency is -1; a whole number from 0"),
    ("a", {"most_words": 10}, "most_words is 10; a whole number from 1000"),
    ("a", {"pre_tokenizer": "falcon"}, "pre_tokenizer: 'falcon' cannot be said in tokenizer.json"),
    ("a", {"pre_tokenizer": "none"}, "pre_tokenizer: 'none' cannot be said"),
    ("a", {"special": [END]}, "'<|endoftext|>' stands twice"),
    ("a", {"special": ["a"]}, "'a' is a piece of ordinary text"),
    ("a", {"kind": "word", "special": ["the"]}, "'the' is a piece of ordinary text"),
    ("a", {"special": [""]}, "''; a text of printable characters"),
    ("a", {"special": ["<\ud800>"]}, "a text of printable characters"),
    ("a", {"special": [5]}, "5; a text of printable characters"),
])  # fmt: skip
def test_errors_name_rule_and_finding(texts, more, said):
    with pytest.raises(TokenizerError) as error:
        pyllm.text.train(texts, **more)
    assert str(error.value).startswith("train: ") and said in str(error.value)


@pytest.mark.parametrize("extra", [True, False])
def test_a_model_with_a_trained_tokenizer_becomes_gguf_and_back(tmp_path, monkeypatch, extra):
    config = tiny_models.llama_config()
    path = tiny_models.write_folder(tmp_path / "m", config, tiny_models.random_weights(config))
    for old in path.glob("tokenizer*"):
        old.unlink()
    trained = pyllm.text.train(PROSE, vocab=config["vocab_size"] - 3, chat=True)
    trained.save_pretrained(path)
    if not extra:
        monkeypatch.setitem(sys.modules, "tokenizers", None)
    pyllm.convert(path, tmp_path / "m.gguf")
    pyllm.convert(tmp_path / "m.gguf", tmp_path / "out")
    for place in (path, tmp_path / "m.gguf", tmp_path / "out"):
        found = pyllm.AutoTokenizer.from_pretrained(place)
        assert [found.encode(text) for text in TEXTS] == [trained.encode(text) for text in TEXTS]
        assert found.eos_token_id == found.bos_token_id == 0 and found.end_ids == {0, 2}
        assert found.chat_template == trained.chat_template
    pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / "m.gguf").save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "config.json").exists()


@pytest.mark.parametrize("kind", ["word", "char"])
def test_gguf_has_no_words_or_characters(tmp_path, trained, kind):
    with pytest.raises(TokenizerError, match="model 'WordLevel'; byte-level or SentencePiece BPE"):
        pyllm.text.gguf_fields(trained[kind], 1000)


def places(value, path=()):
    """Every place inside nested JSON."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield (*path, key)
        yield from places(each, (*path, key))


@pytest.mark.parametrize("kind", ["bpe", "word", "char"])
def test_descriptions_that_are_broken_are_not_read(kind):
    """Any value in any place: a coder that works, or none."""
    document = pyllm.text.train("a b a b ab ab abc abc", kind, vocab=262).coder.document()
    open_document(copy.deepcopy(document)).encode("ab c", True)
    draw, refused = random.Random(3), 0
    every = list(places(document))
    small = [place for place in every if len(place) < 3 or draw.random() < 0.2]
    for place in small:
        for wrong in (None, True, 1.0, -1, 10**30, "", "Ġ", [], [[]], {}, {"type": "Sequence", "pretokenizers": 5}):
            broken = copy.deepcopy(document)
            at = broken
            for key in place[:-1]:
                at = at[key]
            at[place[-1]] = wrong
            found = open_document(broken)
            refused += found is None
            if found is not None:
                assert b"".join(map(found.bytes, found.encode("ab c", True)))
    assert refused > 150
    assert open_document(5) is None and open_document({}) is None
