"""Pipelines beside transformers': the same answers, from the same folders, whatever the settings."""

import re

import numpy as np
import pytest
import tiny_tokenizers
import torch
import transformers
from tiny_encoders import VARIANTS, auto

import pyllm
from pyllm.auto.classifiers import save_classifier
from pyllm.auto.encoders import AutoModelForTokenClassification
from pyllm.auto.new import new_config
from pyllm.cli.main import main
from pyllm.errors import ModelFileError
from pyllm.models.classifier import ClassifierConfig, TextClassifier

WORDS = len(tiny_tokenizers.WORD_PIECES)
TEXTS = [
    "My name is John and I am a data scientist in New York.",
    "Messi is a great footballer!",
    "the capital of unaffables, 中 Zürich is paris",
]
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]


def bytes_of_roberta(path):
    """A small byte-level tokenizer as RoBERTa's, with its special tokens and their order."""
    pairs = tiny_tokenizers.merges(400 - 256 - 5)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = [*special, *tiny_tokenizers.byte_characters(), *(a + b for a, b in pairs)]
    vocabulary = {word: i for i, word in enumerate(words)}
    transformers.RobertaTokenizerFast(vocab=vocabulary, merges=pairs).save_pretrained(path)


@pytest.fixture(scope="module", params=["bert", "albert groups", "distilbert", "roberta"])
def folder(request, tmp_path_factory):
    """A function (task, changes) to the folder of a small model of transformers with BERT's tokenizer."""
    family, fields = VARIANTS[request.param]

    def make(task, **changes):
        path = tmp_path_factory.mktemp("model")
        sizes = {"vocab_size": 400, "max_position_embeddings": 90} if family == "roberta" else {"vocab_size": WORDS}
        config = transformers.AutoConfig.for_model(family, **(fields | sizes | changes))
        torch.manual_seed(1)
        model = auto(transformers, task).from_config(config)
        for parameter in model.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        model.save_pretrained(path)
        if family == "roberta":
            bytes_of_roberta(path)
            return path
        tiny_tokenizers.write_vocabulary(path)
        kind = transformers.DistilBertTokenizer if family == "distilbert" else transformers.BertTokenizer
        kind.from_pretrained(path).save_pretrained(path)
        return path

    return make


def both(task, path, **settings):
    reference = transformers.pipeline(task, str(path), **settings)
    return reference, pyllm.pipeline(task, path, **settings)


def same(found, wanted):
    """Lists and dicts alike, numbers within 1e-4."""
    if isinstance(wanted, dict):
        assert isinstance(found, dict) and list(found) == list(wanted)
        return [same(found[key], wanted[key]) for key in wanted]
    if isinstance(wanted, list):
        assert isinstance(found, list) and len(found) == len(wanted)
        return [same(a, b) for a, b in zip(found, wanted, strict=True)]
    if isinstance(wanted, float | np.floating):
        assert found == pytest.approx(float(wanted), rel=1e-4, abs=1e-5)
    else:
        assert found == wanted
    return None


def test_fill_mask(folder):
    theirs, mine = both("fill-mask", folder("MaskedLM"))
    mask = mine.tokenizer.mask_token
    assert mask == theirs.tokenizer.mask_token
    text = f"the capital of {mask} is paris."
    same(mine(text), theirs(text))
    same(mine([text, f"Messi is {mask}!"], top_k=3), theirs([text, f"Messi is {mask}!"], top_k=3))
    same(mine(f"{mask} is {mask}."), theirs(f"{mask} is {mask}."))
    found, wanted = (each(text, targets=["a", "b", "c"]) for each in (mine, theirs))
    same(found, wanted)
    assert sum(each["score"] for each in mine(text, top_k=1000)) == pytest.approx(1, abs=1e-5)
    bare = {"tokenizer_kwargs": {"add_special_tokens": False}}
    same(mine(text, **bare), theirs(text, **bare))
    with pytest.raises(ValueError, match=rf"fill-mask: no {re.escape(mask)} in input 1"):
        mine([text, "the capital"])


PROBLEMS = [
    {"num_labels": 3},
    {"num_labels": 1},
    {"problem_type": "multi_label_classification"},
    {"problem_type": "regression", "num_labels": 2},
]


@pytest.mark.parametrize("labels", PROBLEMS)
def test_text_classification(folder, labels):
    theirs, mine = both("text-classification", folder("SequenceClassification", **labels))
    same(mine(TEXTS[0]), theirs(TEXTS[0]))
    same(mine(TEXTS), theirs(TEXTS))
    same(mine(TEXTS[0], top_k=None), theirs(TEXTS[0], top_k=None))
    same(mine(TEXTS, top_k=2), theirs(TEXTS, top_k=2))
    same(mine(TEXTS, function_to_apply="none"), theirs(TEXTS, function_to_apply="none"))
    pairs = [{"text": TEXTS[0], "text_pair": TEXTS[1]}, {"text": TEXTS[2], "text_pair": "the"}]
    same(mine(pairs), theirs(pairs))
    same(mine(pairs[0]), theirs(pairs[0]))
    mixed = [pairs[0], TEXTS[1], {"text": TEXTS[2]}]
    assert mine(mixed) == mine(pairs[:1]) + mine(TEXTS[1:])  # a text alone is no pair with nothing
    assert mine([]) == [] and mine(np.array(TEXTS)) == mine(each for each in TEXTS) == mine(TEXTS)
    ordered = mine(TEXTS[0], return_all_scores=True)
    assert [each["label"] for each in ordered[0]] == list(mine.model.config.id2label.values())
    assert sorted(ordered[0], key=lambda each: -each["score"]) == mine(TEXTS[0], top_k=None)


def test_settings_of_a_whole_pipeline(folder):
    path = folder("SequenceClassification", num_labels=3)
    theirs, mine = both("text-classification", path, top_k=None, tokenizer=str(path), padding=True, truncation=True)
    same(mine(TEXTS[0]), theirs(TEXTS[0]))
    same(mine(TEXTS), theirs(TEXTS))
    again = pyllm.pipeline("text-classification", path, device="cpu", trust_remote_code=False)
    assert again(TEXTS[0], top_k=None) == mine(TEXTS[0], top_k=None)
    with pytest.raises(ValueError, match="device 'cuda:0', allowed is 'cpu'"):
        pyllm.pipeline("text-classification", path, device="cuda:0")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "max", "average"])
def test_token_classification(folder, strategy):
    names = dict(enumerate(LABELS))
    path = folder("TokenClassification", id2label=names, label2id={name: i for i, name in names.items()})
    theirs, mine = both("token-classification", path, aggregation_strategy=strategy)
    same(mine(TEXTS), [[*each] for each in theirs(TEXTS)])
    same(mine(TEXTS[2]), theirs(TEXTS[2]))
    theirs, mine = both("ner", path, aggregation_strategy=strategy, ignore_labels=[])
    found = mine(TEXTS)
    same(found, theirs(TEXTS))
    for text, entities in zip(TEXTS, found, strict=True):
        assert entities and all(0 <= each["start"] <= each["end"] <= len(text) for each in entities)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("strategy", "stride"), [("simple", 0), ("first", 7), ("max", 3), ("average", 20)])
def test_long_texts_are_read_in_windows(folder, strategy, stride):
    names = dict(enumerate(LABELS))
    path = folder("TokenClassification", id2label=names, label2id={name: i for i, name in names.items()})
    shorter = {"model_max_length": 24}
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, **shorter)
    tokenizer.save_pretrained(path)
    theirs, mine = both("ner", path, aggregation_strategy=strategy, stride=stride, ignore_labels=[])
    texts = [*TEXTS, " ".join(TEXTS), " ".join(TEXTS[::-1] * 3)]
    same(mine(texts), theirs(texts))
    mine.settings["ignore_labels"] = ["MISC"]
    same(mine(texts[-1]), theirs(texts[-1], ignore_labels=["MISC"]))
    with pytest.raises(ValueError, match="stride: 22, allowed are 0 to 21"):
        mine(texts, stride=22)
    with pytest.raises(ValueError, match="stride: aggregation_strategy none, allowed are the others"):
        mine(texts, aggregation_strategy="none")


def test_feature_extraction(folder):
    theirs, mine = both("feature-extraction", folder("Model"))
    same(mine(TEXTS[0]), theirs(TEXTS[0]))
    same(mine(TEXTS), theirs(TEXTS))
    arrays = mine(TEXTS, return_tensors=True)
    assert all(each.dtype == np.float32 and each.shape[0] == 1 for each in arrays)
    bare = {"tokenize_kwargs": {"add_special_tokens": False}}
    same(mine(TEXTS[0], **bare), theirs(TEXTS[0], **bare))


def test_long_texts_are_cut_where_it_is_asked_for(folder):
    theirs, mine = both("text-classification", folder("SequenceClassification"), truncation=True, max_length=40)
    text = "the capital of france " * 30
    longest = mine.model.context_length
    mine.settings["max_length"] = longest
    same(mine(text), theirs(text, max_length=longest))
    with pytest.raises(pyllm.ContextError, match=rf"tokens, the model's positions are {longest}.*truncation=True"):
        mine(text, truncation=False)


def test_text_generation(tmp_path):
    config = new_config("gpt2", n_embd=32, n_layer=1, n_head=2, n_positions=64, vocab_size=400)
    pyllm.AutoModelForCausalLM.from_config(config, 1).save_pretrained(tmp_path)
    tiny_tokenizers.write_json(tmp_path, 400)
    theirs = transformers.pipeline("text-generation", str(tmp_path))
    mine = pyllm.pipeline("text-generation", tmp_path, max_new_tokens=8, do_sample=False)
    settings = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0}
    for full in (True, False):
        found = mine("the quick brown", return_full_text=full)
        assert found == theirs("the quick brown", return_full_text=full, **settings)
    assert mine(["the quick", "a lazy dog"]) == theirs(["the quick", "a lazy dog"], **settings)
    assert len(mine("the", do_sample=True, num_return_sequences=3)) == 3
    mine.settings.pop("max_new_tokens")
    assert mine("the quick", max_length=15) == theirs("the quick", max_length=15, do_sample=False, pad_token_id=0)
    cut = mine("the quick brown " * 30, truncation=True, max_length=20, max_new_tokens=3, return_full_text=False)
    whole = mine.tokenizer.decode(mine.tokenizer.encode("the quick brown " * 30)[:20])
    assert cut == mine(whole, max_new_tokens=3, return_full_text=False)
    chat = [{"role": "user", "content": "the dog"}]
    found = mine(chat)
    assert found[0]["generated_text"][0] == chat[0] and found[0]["generated_text"][1]["role"] == "assistant"


def test_our_own_classifiers_are_asked_the_same_way(tmp_path):
    """What `pyllm finetune --task classify` writes: a decoder with a head."""
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "vocab_size": 400}
    trunk = pyllm.AutoModelForCausalLM.from_config(new_config("gpt2", **sizes), 1)
    tiny_tokenizers.write_json(tmp_path, 400)
    save_classifier(TextClassifier(trunk, ClassifierConfig(("bad", "good")), seed=2), tmp_path)
    classify = pyllm.pipeline("sentiment-analysis", tmp_path)
    both_labels = classify("the quick brown fox", top_k=None)
    assert {each["label"] for each in both_labels} == {"bad", "good"}
    assert sum(each["score"] for each in both_labels) == pytest.approx(1, abs=1e-6)
    assert classify("the quick brown fox") == both_labels[:1]
    assert classify(["the quick brown fox", "a"])[0] == both_labels[0]
    with pytest.raises(ValueError, match="text_pair, allowed of this model are texts alone"):
        classify({"text": "the", "text_pair": "fox"})


def test_a_loaded_model_and_its_tokenizer_will_do(folder):
    path = folder("MaskedLM")
    model = pyllm.AutoModelForMaskedLM.from_pretrained(path)
    text = f"the {model.tokenizer.mask_token}"
    assert pyllm.pipeline("fill-mask", model)(text) == pyllm.pipeline("fill-mask", path)(text)


def test_a_folder_without_the_head_is_refused(folder):
    """Answers would be noise; one who wants a new head loads the model before."""
    path = folder("Model")
    for task in ("fill-mask", "text-classification", "ner"):
        with pytest.raises(ModelFileError, match=rf"missing; a folder with the head of {task}"):
            pyllm.pipeline(task, path)
    assert main(["fill", str(path), "the [MASK]"]) == 1
    assert pyllm.pipeline("feature-extraction", path)(TEXTS[0])
    model = AutoModelForTokenClassification.from_pretrained(path)
    assert pyllm.pipeline("ner", model, pyllm.AutoTokenizer.from_pretrained(path), ignore_labels=[])(TEXTS[0])


def test_wrong_calls_say_what_is_allowed(folder):
    with pytest.raises(ValueError, match="task 'translate' is not known; known are fill-mask, text-class"):
        pyllm.pipeline("translate", "x")
    with pytest.raises(ValueError, match="ner without a model; give a name, a path"):
        pyllm.pipeline("ner")
    path = folder("TokenClassification")
    with pytest.raises(TypeError, match="TokenClassification: top_p not known; known are batch_size, truncation"):
        pyllm.pipeline("ner", path, top_p=0.5)
    tagger = pyllm.pipeline("ner", path)
    with pytest.raises(ValueError, match="aggregation_strategy: 'mean', allowed are none, simple, first, max, average"):
        tagger("a", aggregation_strategy="mean")
    with pytest.raises(ValueError, match="input 1 is int, allowed are a text, or text and text_pair"):
        tagger(["a", 3])
    classifier = pyllm.pipeline("text-classification", folder("SequenceClassification"))
    with pytest.raises(ValueError, match="function_to_apply: 'tanh', allowed are none, sigmoid, softmax"):
        classifier("a", function_to_apply="tanh")
