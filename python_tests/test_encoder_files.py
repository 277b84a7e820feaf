"""Encoders' files: heads that are not there, tensors that are wrong, hostile configurations; what calls may not ask."""

import json

import numpy as np
import pytest
import tiny_tokenizers
import torch
import transformers
from kernel_checks import same_bits
from safetensors.torch import load_file, save_file
from tiny_encoders import LENGTH, VARIANTS, VOCABULARY, batch, theirs

import pyllm
from pyllm.auto.classifiers import head_of
from pyllm.auto.new import ENCODERS, new_config
from pyllm.cli.main import main
from pyllm.errors import ContextError, ModelFileError

FAMILIES = ("bert", "roberta", "distilbert", "albert", "mpnet", "electra")


def folder(path, variant="bert", task="MaskedLM", tensors=None, **config):
    """A folder of transformers' with some tensors changed (None: taken away) and some fields of config.json."""
    reference = theirs(variant, task)
    reference.save_pretrained(path)
    state = load_file(path / "model.safetensors")
    for name, tensor in (tensors or {}).items():
        state.pop(name, None) if tensor is None else state.__setitem__(name, tensor)
    save_file(state, path / "model.safetensors", {"format": "pt"})
    fields = json.loads((path / "config.json").read_text()) | config
    (path / "config.json").write_text(json.dumps(fields))
    return reference


@pytest.mark.parametrize("variant", FAMILIES)
def test_a_base_model_gets_a_head(tmp_path, variant, caplog):
    """What is missing is named, random by the seed, and can be learned; the trunk is the file's; saved, it is whole."""
    reference = folder(tmp_path, variant, "Model")
    with caplog.at_level("WARNING", "pyllm.auto"):
        model = pyllm.AutoModelForTokenClassification.from_pretrained(tmp_path, num_labels=7, seed=3)
    assert model.missing_keys == ("classifier.weight", "classifier.bias")
    assert "classifier.weight, classifier.bias" in caplog.text
    assert model.config.num_labels == 7 and model(**batch(variant)).logits.shape == (3, LENGTH, 7)
    again = pyllm.AutoModelForTokenClassification.from_pretrained(tmp_path, num_labels=7, seed=3)
    other = pyllm.AutoModelForTokenClassification.from_pretrained(tmp_path, num_labels=7, seed=4)
    logits = [each(**batch(variant)).logits for each in (model, again, other)]
    assert same_bits(logits[0], logits[1]) and not np.array_equal(logits[0], logits[2])
    prefix, state = model.prefix, model.state_dict()
    for name, tensor in reference.state_dict().items():
        if "pooler" not in name:
            assert np.array_equal(state[prefix + name], tensor.numpy())
    assert set(model.unexpected_keys) == {name for name in reference.state_dict() if "pooler" in name}
    model.save_pretrained(tmp_path / "again")
    whole = pyllm.AutoModelForTokenClassification.from_pretrained(tmp_path / "again")
    assert whole.missing_keys == () and same_bits(whole(**batch(variant)).logits, logits[0])
    assert model.train().loss(np.array([5, 6, 7]), np.array([0, 6, -100])).item() > 0


@pytest.mark.parametrize("variant", ["bert", "roberta", "distilbert", "albert groups"])
@pytest.mark.parametrize("task", ["Model", "TokenClassification"])
def test_layers_that_the_configuration_does_not_have_are_refused(tmp_path, variant, task):
    """Whatever the task: a configuration of fewer layers would give other answers, and no word of it."""
    theirs(variant, task).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    count, left = ("num_hidden_groups", 2) if variant == "albert groups" else ("num_hidden_layers", 1)
    count = "n_layers" if variant == "distilbert" else count
    (tmp_path / "config.json").write_text(json.dumps(config | {count: left}))
    for name in ("AutoModel", "AutoModelForTokenClassification", "AutoModelForMaskedLM"):
        with pytest.raises(ModelFileError, match=rf"layer\w*\.{left}\.[\w.]+' is unexpected; .* and \d+ more"):
            getattr(pyllm, name).from_pretrained(tmp_path)


def test_a_family_without_a_pooler_opens_without_its_head(tmp_path):
    theirs("distilbert", "MaskedLM").save_pretrained(tmp_path)
    model = pyllm.AutoModel.from_pretrained(tmp_path)
    assert model.missing_keys == () and all(name.startswith("vocab_") for name in model.unexpected_keys)
    inputs = batch("distilbert")
    with torch.no_grad():
        reference = transformers.AutoModel.from_pretrained(tmp_path).eval()
        wanted = reference(**{name: torch.tensor(each) for name, each in inputs.items()}).last_hidden_state.numpy()
    seen = inputs["attention_mask"] == 1
    np.testing.assert_allclose(model(**inputs).last_hidden_state[seen], wanted[seen], rtol=1e-4, atol=1e-5)


def test_a_headed_model_opens_as_another(tmp_path):
    """The trunk of a masked language model: its head is of no concern, the pooler is new."""
    reference = folder(tmp_path)
    model = pyllm.AutoModel.from_pretrained(tmp_path)
    assert model.missing_keys == ("bert.pooler.dense.weight", "bert.pooler.dense.bias")  # as the file would have them
    assert len(model.unexpected_keys) == 5 and all(name.startswith("cls.") for name in model.unexpected_keys)
    inputs = batch("bert")
    with torch.no_grad():
        wanted = reference.bert(**{name: torch.tensor(array) for name, array in inputs.items()}).last_hidden_state
    seen = inputs["attention_mask"] == 1
    np.testing.assert_allclose(model(**inputs).last_hidden_state[seen], wanted.numpy()[seen], rtol=1e-4, atol=1e-5)


def test_labels_are_kept(tmp_path):
    """id2label, label2id, problem_type: from the folder, into the folder, for transformers to read."""
    names = {0: "bad", 1: "good", 2: "neither"}
    folder(tmp_path, task="SequenceClassification", id2label={str(i): name for i, name in names.items()},
           label2id={name: i for i, name in names.items()}, problem_type="multi_label_classification")  # fmt: skip
    model = pyllm.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert model.config.id2label == names and model.config.num_labels == 3
    model.save_pretrained(tmp_path / "again")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "again")
    assert config.id2label == names and config.label2id == {"bad": 0, "good": 1, "neither": 2}
    assert config.problem_type == "multi_label_classification"
    renamed = pyllm.AutoModelForSequenceClassification.from_pretrained(tmp_path, id2label={0: "a", 1: "b", 2: "c"})
    assert renamed.config.label2id == {"a": 0, "b": 1, "c": 2}


def test_a_head_of_another_size_is_named_or_made_anew(tmp_path):
    folder(tmp_path, task="SequenceClassification")
    with pytest.raises(
        ModelFileError, match=r"'classifier.weight' is \[3, 32\], expected \[5, 32\]; 'classifier.bias'"
    ):
        pyllm.AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    model = pyllm.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, ignore_mismatched_sizes=True
    )
    assert model.missing_keys == ("classifier.weight", "classifier.bias")
    with pytest.raises(ValueError, match=r"num_labels 3, id2label \{0: 'a', 2: 'b'\}, allowed are names of 0, 1, ..."):
        pyllm.AutoModelForSequenceClassification.from_pretrained(tmp_path, id2label={0: "a", 2: "b"}, num_labels=3)


def test_wrong_tensors_are_named_all_at_once(tmp_path):
    """Of the trunk: missing and misshaped ones; of a head of this file's: a misshaped one."""
    layer = "bert.encoder.layer.0."
    changed = {
        layer + "attention.self.query.weight": None,
        layer + "output.dense.bias": torch.zeros(5),
        "cls.predictions.transform.dense.weight": torch.zeros(3, 3),
    }
    folder(tmp_path, tensors=changed)
    with pytest.raises(ModelFileError) as caught:
        pyllm.AutoModelForMaskedLM.from_pretrained(tmp_path)
    for name, what in zip(
        changed, ("[32, 32] is missing", "is [5], expected [32]", "is [3, 3], expected"), strict=True
    ):
        assert f"'{name}' {what}" in str(caught.value)
    model = pyllm.AutoModelForMaskedLM.from_config(new_config("bert", **VARIANTS["bert"][1]))
    state = model.state_dict()
    state["cls.predictions.decoder.weight"] = state["cls.predictions.decoder.weight"] + 1
    with pytest.raises(ValueError, match=r"'cls.predictions.decoder.weight' differs from 'bert.embeddings.word"):
        model.load_state_dict(state)
    state = {**model.state_dict(), "more": np.zeros(1)}
    del state["bert.embeddings.LayerNorm.bias"]
    with pytest.raises(ValueError, match=r"'bert.embeddings.LayerNorm.bias' \[32\] is missing; 'more' is unexpected"):
        model.load_state_dict(state)
    with pytest.raises(ValueError, match=r"'x.bin' is no mapping.*pickled"):
        model.load_state_dict("x.bin")


@pytest.mark.parametrize("kind", ["XLMRoberta", "Camembert"])
def test_what_is_robertas_is_read_as_it(tmp_path, kind):
    """The same numbers; saved as RoBERTa, whose numbers transformers' are too."""
    config = getattr(transformers, f"{kind}Config")(**VARIANTS["roberta"][1], num_labels=3)
    torch.manual_seed(0)
    reference = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    reference.save_pretrained(tmp_path / "in")
    model = pyllm.AutoModelForSequenceClassification.from_pretrained(tmp_path / "in")
    assert model.missing_keys == model.unexpected_keys == ()
    model.save_pretrained(tmp_path / "out")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert type(again).__name__ == "RobertaForSequenceClassification"
    assert head_of(tmp_path / "in") == head_of(tmp_path / "out") == "ForSequenceClassification"
    inputs = batch("roberta")
    with torch.no_grad():
        wanted, saved = (each(**{k: torch.tensor(v) for k, v in inputs.items()}).logits for each in (reference, again))
    assert torch.equal(wanted, saved)
    np.testing.assert_allclose(model(**inputs).logits, wanted.numpy(), rtol=1e-4, atol=1e-6)


CONFIGS = [
    ("bert", {"hidden_act": "tanh"}, "'hidden_act': 'tanh'; known are: gelu, gelu_python, gelu_new"),
    ("bert", {"hidden_size": 30}, "'hidden_size': 30; a multiple of the 4 attention heads"),
    ("bert", {"num_hidden_layers": 0}, "'num_hidden_layers': 0; a whole number from 1"),
    ("bert", {"position_embedding_type": "relative_key"}, "'position_embedding_type': 'relative_key'; absolute"),
    ("bert", {"is_decoder": True}, "'is_decoder': True; False"),
    ("bert", {"layer_norm_eps": -1}, "'layer_norm_eps': -1; a number from 1e-15"),
    ("bert", {"type_vocab_size": "2"}, "'type_vocab_size': '2'; a whole number"),
    ("bert", {"pad_token_id": 99}, "'pad_token_id': 99; 0 to 60, the vocabulary"),
    ("bert", {"id2label": {"0": "a", "2": "b"}}, "'id2label': no name for 1; a name for each of 0 to 1"),
    ("bert", {"id2label": ["a"]}, r"'id2label': \['a'\]; 1 to 65,536 names by number"),
    ("bert", {"id2label": None, "num_labels": -1}, "'num_labels': -1; 1 to 65,536"),
    ("bert", {"label2id": {"a": 7}}, r"'label2id': \{'a': 7\}; numbers from 0 to 1 by name"),
    ("bert", {"problem_type": "ranking"}, "'problem_type': 'ranking'; known are: regression"),
    ("bert", {"hidden_dropout_prob": 1.5}, "'hidden_dropout_prob': 1.5; a number from 0 to 0.99"),
    ("roberta", {"pad_token_id": 39}, "'pad_token_id': 39; 0 to 38: the 40 positions begin behind it"),
    ("roberta", {"max_position_embeddings": 1 << 40}, "'max_position_embeddings'"),
    ("distilbert", {"dim": 33}, "'dim': 33; a multiple of the 4 attention heads"),
    ("albert", {"num_hidden_groups": 4}, "'num_hidden_groups': 4; 1 to 3, the hidden layers"),
    ("mpnet", {"pad_token_id": 0}, "'pad_token_id': 0; 1"),
    ("mpnet", {"relative_attention_num_buckets": 16}, "'relative_attention_num_buckets': 16; a whole number from 32"),
    ("electra", {"hidden_size": 30}, "'hidden_size': 30; a multiple of the 4 attention heads"),
    ("electra", {"embedding_size": 0}, "'embedding_size': 0; a whole number from 1"),
    ("albert", {"embedding_size": 0}, "'embedding_size': 0; a whole number from 1"),
]


@pytest.mark.parametrize(("variant", "fields", "message"), CONFIGS)
def test_hostile_configurations_are_refused_by_name(tmp_path, variant, fields, message):
    folder(tmp_path, variant, "Model", id2label={"0": "x", "1": "y"}, label2id={"x": 0, "y": 1})
    config = json.loads((tmp_path / "config.json").read_text()) | fields
    (tmp_path / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not None})
    )
    with pytest.raises(ModelFileError, match=message):
        pyllm.AutoModel.from_pretrained(tmp_path)


def test_models_of_another_kind_are_named(tmp_path):
    folder(tmp_path, "roberta", "MaskedLM")
    with pytest.raises(ModelFileError, match="roberta; a family that continues texts; AutoModel, AutoModelForMaskedLM"):
        pyllm.AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="RoBERTa: it has no head ForNextSentencePrediction, allowed are ForMaskedLM, "
    ):
        pyllm.AutoModelForNextSentencePrediction.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="unknown arguments half"):
        pyllm.AutoModel.from_pretrained(tmp_path, half=True)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 8, "vocab_size": 9}
    pyllm.AutoModelForCausalLM.from_config(new_config("gpt2", **sizes)).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ModelFileError, match=f"gpt2; one of {', '.join(ENCODERS)}; AutoModelForCausalLM takes those"):
        pyllm.AutoModel.from_pretrained(tmp_path / "gpt2")


@pytest.fixture(scope="module")
def model():
    return pyllm.AutoModelForMaskedLM.from_config(new_config("bert", **VARIANTS["bert"][1])).eval()


ONES = np.ones((2, 4), int)
CALLS = [
    (
        {"input_ids": 5 * ONES, "attention_mask": ONES[:1]},
        ValueError,
        r"attention_mask \(1, 4\) for input_ids \(2, 4\)",
    ),
    ({"input_ids": 5 * ONES, "attention_mask": ONES * [[1], [0]]}, ValueError, "attention_mask hides all of row 1"),
    ({"input_ids": 5 * ONES, "attention_mask": np.ones((2, 1, 4))}, ValueError, r"attention_mask \(2, 1, 4\)"),
    ({"input_ids": 5 * ONES, "token_type_ids": ONES[:, :3]}, ValueError, r"token_type_ids \(2, 3\) for input_ids"),
    (
        {"input_ids": 5 * ONES, "token_type_ids": 2 * ONES},
        IndexError,
        "token_type_ids: 2 at token 0 of sequence 0, .*1",
    ),
    (
        {"input_ids": ONES * [[5], [VOCABULARY]]},
        IndexError,
        "input_ids: 61 at token 0 of sequence 1, allowed are 0 to 60",
    ),
    ({"input_ids": ONES << 32}, IndexError, "input_ids: 4294967296, allowed are numbers of 32 bits"),
    ({"input_ids": [[1 << 32], [5, 6]]}, IndexError, "input_ids: 4294967296, allowed"),
    ({"input_ids": ONES, "token_type_ids": ONES << 32}, IndexError, "token_type_ids: 4294967296, allowed"),
    ({"input_ids": [[5, 6], [7, -1]]}, IndexError, "input_ids: -1 at token 1 of sequence 1"),
    ({"input_ids": [[5, 6], []]}, ValueError, r"input_ids\[1\] has shape \(0,\), allowed is a token or more"),
    ({"input_ids": np.zeros((2, 0), int)}, ValueError, r"input_ids \(2, 0\), allowed is \(batch, length\)"),
    ({"input_ids": ONES * 0.5}, ValueError, "input_ids hold float64, allowed are integers"),
    ({"input_ids": [[5], [6, 7]], "attention_mask": [[1], [1, 1]]}, ValueError, "beside a list of sequences"),
    ({"input_ids": [[5], [6, 7]], "token_type_ids": [[0], [0]]}, ValueError, r"lengths \[1, 1\] for .* of \[1, 2\]"),
    (
        {"input_ids": np.full((1, 41), 5)},
        ContextError,
        "sequence 0 has 41 tokens, the model's positions are 40; shorten",
    ),
    ({"input_ids": 5 * ONES, "position_ids": 40 * ONES}, IndexError, "position_ids: 40 at token 0 of sequence 0"),
    ({"input_ids": 5 * ONES, "labels": ONES[:1]}, ValueError, r"labels \(1, 4\) for input_ids \(2, 4\)"),
    ({"input_ids": 5 * ONES, "labels": 61 * ONES}, IndexError, "61"),
]


@pytest.mark.parametrize(("call", "kind", "message"), CALLS)
def test_wrong_calls_are_one_clear_error(model, call, kind, message):
    with pytest.raises(kind, match=message):
        model(**call)


def test_other_wrong_calls(model):
    base = pyllm.AutoModel.from_config(model.config).eval()
    with pytest.raises(TypeError, match="BERT: labels without a head; AutoModelFor"):
        base(5 * ONES, labels=ONES)
    with pytest.raises(TypeError, match="BERT: unknown arguments inputs_embeds"):
        base(5 * ONES, inputs_embeds=ONES)
    with pytest.raises(IndexError, match="tokens: 4294967296, allowed"):
        model.loss(np.array([1 << 32]), np.array([5]))
    with pytest.raises(ValueError, match="BERT: a loss without a head"):
        base.loss(np.array([5]), np.array([5]))
    with pytest.raises(ValueError, match="2 targets for 3 tokens"):
        model.loss(np.array([5, 6, 7]), np.array([5, 6]))
    with pytest.raises(ValueError, match="not loaded from a folder"):
        _ = model.tokenizer
    for family in ("roberta", "mpnet"):
        counted = pyllm.AutoModel.from_config(new_config(family, **VARIANTS[family][1])).eval()
        assert counted(np.full((1, 38), 5)).last_hidden_state.shape == (1, 38, 32)
        with pytest.raises(ContextError, match="39 tokens, the model's positions are 38"):
            counted(np.full((1, 39), 5))
    for family, name in (("distilbert", "DistilBERT"), ("mpnet", "MPNet")):
        plain = pyllm.AutoModel.from_config(new_config(family, **VARIANTS[family][1])).eval()
        with pytest.raises(ValueError, match=f"{name}: token_type_ids other than 0"):
            plain(5 * ONES, token_type_ids=ONES)


class Words:
    """A word that stands behind its own masked place, as a trainer takes it; or whether a text holds a 5."""

    def __init__(self, classify):
        self.classify = classify

    def __len__(self):
        return 64

    def batch(self, position, size):
        random = np.random.default_rng(position)
        rows = [random.integers(5, 15, random.integers(2, 5)) for _ in range(size)]
        if self.classify:
            targets = np.array([int((row == 5).any()) for row in rows])
        else:
            targets = np.concatenate([np.where(np.arange(len(row)) == 0, row[1], -100) for row in rows])
            rows = [np.append(4, row[1:]) for row in rows]
        return np.concatenate(rows), targets, np.cumsum([0, *map(len, rows)])


@pytest.mark.parametrize("task", ["MaskedLM", "SequenceClassification"])
def test_a_trainer_fits_them(tmp_path, task):
    """The loss falls; the run's weights are those that the model goes on with, saved and run."""
    config = new_config("bert", **VARIANTS["bert"][1])
    model = getattr(pyllm, f"AutoModelFor{task}").from_config(config, seed=1)
    arguments = pyllm.TrainingArguments(
        tmp_path / "run", max_steps=100, per_device_train_batch_size=16, learning_rate=3e-3, save_steps=0
    )
    data = Words(task != "MaskedLM")
    trainer = pyllm.Trainer(model, data, arguments, valid=data)
    before = trainer.evaluate()
    trainer.train()
    assert trainer.evaluate() < 0.6 * before
    model.save_pretrained(tmp_path / "saved")
    again = getattr(pyllm, f"AutoModelFor{task}").from_pretrained(tmp_path / "saved")
    assert same_bits(again(ONES * 6).logits, model.eval()(ONES * 6).logits)


def test_convert_keeps_the_head(tmp_path):
    """A folder's copy in bfloat16 has the head that its architectures names; a GGUF file is refused."""
    folder(tmp_path / "in", "roberta", "SequenceClassification")
    tiny_tokenizers.write_vocabulary(tmp_path / "in")
    pyllm.convert(tmp_path / "in", tmp_path / "out", "BF16")
    model, exact = (
        pyllm.AutoModelForSequenceClassification.from_pretrained(tmp_path / each, dtype="float32")
        for each in ("out", "in")
    )
    assert model.missing_keys == ()
    np.testing.assert_allclose(model(ONES * 5).logits, exact(ONES * 5).logits, atol=0.05)
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "bfloat16"
    with pytest.raises(ModelFileError, match="roberta; a folder as target: encoders have no GGUF here"):
        pyllm.convert(tmp_path / "in", tmp_path / "out.gguf")


def test_the_command_describes_them(tmp_path, capsys):
    folder(tmp_path, "distilbert", "MaskedLM")
    assert main(["info", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "distilbert" in shown and "32" in shown
    assert main(["params", str(tmp_path)]) == 0
    assert "distilbert.embeddings.word_embeddings" in capsys.readouterr().out


def test_fill_shows_the_likeliest_words(tmp_path, capsys):
    folder(tmp_path)
    tiny_tokenizers.write_vocabulary(tmp_path)
    path = tmp_path / "vocab.txt"
    path.write_text(
        path.read_text() + "".join(f"more{i}\n" for i in range(VOCABULARY - len(tiny_tokenizers.WORD_PIECES)))
    )
    wanted = pyllm.pipeline("fill-mask", tmp_path)("the [MASK] is paris", top_k=3)
    assert main(["fill", str(tmp_path), "the [MASK] is paris", "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [each["token_str"] for each in wanted]
    assert main(["fill", str(tmp_path), "[MASK] is [MASK]", "--json"]) == 0
    assert [len(row) for row in json.loads(capsys.readouterr().out)["masks"]] == [10, 10]
