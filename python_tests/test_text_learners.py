"""fastai's text learners: a language model on the texts, its encoder in a classifier, stages of one's own, a folder."""

import numpy as np
import pytest
from kernel_checks import same_bits
from test_texts import language_model, rows_of  # noqa: F401

import pyllm
from pyllm import nn, text
from pyllm.auto import new_config, new_model
from pyllm.data.labelled import encoded
from pyllm.evaluate.texts import probabilities

USUAL = {"per_device_train_batch_size": 8, "save_steps": 0, "learning_rate": 1e-2}


def story(general, folder):
    """All of it, as fastai's users write it: (the language model's learner, the classifier's)."""
    texts, labels = rows_of()
    lm = pyllm.language_model_learner(texts, general, folder / "lm", drop_mult=0.5, context=16, **USUAL)
    lm.fit_one_cycle(1, 1e-2)
    lm.save_encoder(folder / "encoder")
    learn = pyllm.text_classifier_learner(texts, labels, general, folder / "classes", drop_mult=0.5, **USUAL)
    learn.load_encoder(folder / "encoder").fit_one_cycle(1, 2e-2)
    learn.freeze_to(-2)
    learn.fit_one_cycle(1, slice(1e-2 / 2.6**4, 1e-2))
    learn.unfreeze()
    learn.fit_one_cycle(16, 2e-2)
    return lm, learn


def test_ulmfit_in_fastais_verbs(language_model, tmp_path):  # noqa: F811
    lm, learn = story(language_model, tmp_path / "a")
    texts, labels = rows_of()
    encoder = pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "encoder")
    state, general = lm.model.state_dict(), pyllm.AutoModelForCausalLM.from_pretrained(language_model).config
    assert encoder.config == general != lm.model.config and lm.model.config == general.dropping(0.5)
    assert all(same_bits(array, state[name]) for name, array in encoder.state_dict().items())
    said = [learn.predict(text) for text in texts]
    assert [each[0] for each in said] == [learn.model.config.classes[each[1]] for each in said]
    assert np.mean([each[0] == label for each, label in zip(said, labels, strict=True)]) > 0.9
    learn.export(tmp_path / "classifier")
    again = pyllm.AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier")
    found = probabilities(again, pyllm.AutoTokenizer.from_pretrained(tmp_path / "classifier"), texts)
    np.testing.assert_allclose(found, [each[2] for each in said], atol=1e-6)
    _, other = story(language_model, tmp_path / "a")  # all stages are there
    assert same_bits(other.predict(texts[0])[2], said[0][2])


def test_learners_begin_frozen_and_load_encoder_takes_the_trunk_alone(language_model, tmp_path):  # noqa: F811
    texts, labels = rows_of()
    learn = pyllm.text_classifier_learner(texts, labels, language_model, tmp_path / "a", valid=0.0, **USUAL)
    assert len(learn.model.parameters()) == len(learn.model.head.parameters()) < len(learn.model.learned())
    trunk = {name: array + 1 for name, array in learn.model.trunk.state_dict().items()}
    other = pyllm.language_model_learner(texts, language_model, tmp_path / "b", valid=0.0, **USUAL)
    other.model.load_state_dict(trunk)
    other.save_encoder(tmp_path / "encoder")
    head = learn.model.head
    first, scale = head.score.weight.array().copy(), head.scale.weight.array().copy()
    learn.unfreeze()
    learn.load_encoder(tmp_path / "encoder")
    assert not same_bits(head.scale.weight.array(), scale)  # which is of the rows that the new trunk gives
    assert all(same_bits(array, trunk[name]) for name, array in learn.model.trunk.state_dict().items())
    assert same_bits(learn.model.head.score.weight.array(), first)
    assert len(learn.model.parameters()) == len(learn.model.head.parameters())


def test_drop_mult_scales_the_dropouts_and_held_out_texts_are_not_learned(language_model, tmp_path):  # noqa: F811
    texts, labels = rows_of()
    usual = pyllm.AutoConfig.from_pretrained(language_model)
    lm = pyllm.language_model_learner(texts, language_model, tmp_path / "a", drop_mult=0.5, valid=0.25, **USUAL)
    learn = pyllm.text_classifier_learner(texts, labels, language_model, tmp_path / "b", drop_mult=0.5, **USUAL)
    assert lm.model.config == learn.model.trunk.config == usual.dropping(0.5) != usual
    sides = [piece.tolist() for side in (lm.data, lm.valid) for piece in side.pieces]
    assert sorted(sides) == sorted(ids.tolist() for ids in encoded(lm.tokenizer, texts)) and len(lm.valid) == 15
    some = [None if i % 3 == 0 else label for i, label in enumerate(labels)]
    learn = pyllm.text_classifier_learner(texts, some, language_model, tmp_path / "c", **USUAL)
    assert learn.model.config.classes == tuple(sorted(set(labels)))
    assert len(learn.data.texts) + len(learn.valid.texts) == len(texts) - len(texts) // 3


def test_what_learners_do_not_take_is_refused(language_model, tmp_path):  # noqa: F811
    texts, labels = rows_of()
    learn = pyllm.text_classifier_learner(texts, labels, language_model, tmp_path / "a")
    pyllm.text.train(texts, "char").save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="has another vocabulary, allowed is the classifier's"):
        learn.load_encoder(tmp_path / "other")
    with pytest.raises(ValueError, match="2 labels of 60 texts, allowed is one of each"):
        pyllm.text_classifier_learner(texts, labels[:2], language_model, tmp_path / "a")
    for odd in (["a", "b"], 0.5, float("nan")):
        with pytest.raises(ValueError, match=r"the label .*, allowed are texts, whole numbers and None"):
            pyllm.text_classifier_learner(texts, [odd] * len(texts), language_model, tmp_path / "a")
    with pytest.raises(ValueError, match=r"valid is 1.0, allowed are 0 to 0.99"):
        pyllm.language_model_learner(texts, language_model, tmp_path / "a", valid=1.0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    encoder = new_model(new_config("bert", vocab_size=30, **sizes))
    encoder.save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match=r"bert is an encoder, .*; allowed are language models"):
        pyllm.language_model_learner(texts, tmp_path / "bert", tmp_path / "a")


def test_a_language_model_needs_a_text_to_learn_from(language_model, tmp_path):  # noqa: F811
    with pytest.raises(ValueError, match=r"valid 0.6 holds out all of 1 texts, one must be left"):
        pyllm.language_model_learner(["one fine film"], language_model, tmp_path / "a", valid=0.6, **USUAL)


def test_an_adapter_is_merged_first(tmp_path):
    """Neither it nor what it lies on could be said to learn."""
    config = new_config("gpt2", vocab_size=300, n_layer=1, n_head=2, n_embd=16, n_positions=32)
    new_model(config).eval().save_pretrained(tmp_path / "base")
    text.train(rows_of()[0], "bpe", vocab=300).save_pretrained(tmp_path / "base")
    base = pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    base.add_adapter(nn.LoraConfig(2, 4.0)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"is an adapter; merge it first: pyllm convert"):
        pyllm.language_model_learner(["a", "b"], tmp_path / "adapter", tmp_path / "run", **USUAL)
