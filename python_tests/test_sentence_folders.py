"""Sentence encoders of other shapes, and folders of them that are written; what encode is asked beside texts."""

import numpy as np
import pytest
import torch
import transformers
from kernel_checks import same_bits
from test_sentences import TEXTS, folder, reference_vectors, with_dense, write
from test_word_piece import write_mpnet
from tiny_encoders import theirs

import pyllm


def test_mpnet_gives_sentences(tmp_path):
    """As all-mpnet-base-v2's folder: its own tokenizer, the mean, length 1."""
    folder(tmp_path, normalize=True, variant="mpnet")
    count = write_mpnet(tmp_path)
    reference = theirs("mpnet", "Model", vocab_size=count)
    reference.save_pretrained(tmp_path)
    tokenizer = transformers.MPNetTokenizer.from_pretrained(tmp_path)
    wanted = []
    for text in TEXTS:
        with torch.no_grad():
            ids = tokenizer(text, truncation=True, max_length=9, return_tensors="pt")
            row = reference(**ids).last_hidden_state[0].mean(dim=0).numpy()
        wanted.append(row / np.linalg.norm(row))
    found = pyllm.SentenceEncoder(tmp_path).encode(TEXTS)
    assert np.abs(found - np.stack(wanted)).max() <= 1e-5


@pytest.mark.parametrize(("modes", "normalize"), [(("mean_tokens",), True), (("cls_token", "lasttoken"), False)])
def test_a_saved_folder_gives_the_same_vectors(tmp_path, modes, normalize):
    reference = folder(tmp_path, modes, normalize)
    write(tmp_path, "config_sentence_transformers.json", {"prompts": {"query": "the "}, "default_prompt_name": "query"})
    if normalize:
        with_dense(tmp_path, (32, 12, 7), torch.nn.Tanh(), True)
    one = pyllm.SentenceEncoder(tmp_path, device="cpu").to("cpu").eval()
    assert (one.prompts, one.default_prompt_name, one.device) == ({"query": "the "}, "query", "cpu")
    one.save_pretrained(tmp_path / "saved")
    other = pyllm.SentenceEncoder(tmp_path / "saved")
    assert same_bits(one.encode(TEXTS), other.encode(TEXTS)) and other.max_seq_length == 9
    assert other.config._replace(dense=()) == one.config._replace(dense=())
    if not normalize:  # the files as sentence-transformers reads them
        wanted = reference_vectors(reference, tmp_path / "saved", [f"the {text}" for text in TEXTS], modes)
        assert np.abs(other.encode(TEXTS) - wanted).max() <= 1e-5 * np.abs(wanted).max()
    pooled = pyllm.SentenceEncoder(tmp_path, pooling="max", prompts={"a": "my "}, truncate_dim=5)
    assert pooled.get_sentence_embedding_dimension() == 5 == pooled.encode([]).shape[1]
    assert pooled.default_prompt_name is None and pooled.encode("Messi", prompt_name="a").shape == (5,)


def test_tokens_as_the_encoder_reads_them(tmp_path):
    folder(tmp_path)
    encoder = pyllm.SentenceEncoder(tmp_path)
    found = encoder.tokenize(TEXTS)
    theirs_ = transformers.BertTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, truncation=True, max_length=9)
    for name in ("input_ids", "attention_mask"):
        assert np.array_equal(found[name], theirs_[name])
    for given, message in ((None, "sentences is NoneType, allowed are a text or several"), (3, "sentences is int")):
        with pytest.raises(ValueError, match=message):
            encoder.encode(given)
        with pytest.raises(ValueError, match=message):
            encoder.search(given, TEXTS)
    with pytest.raises(ValueError, match="pool is dict, allowed is None"):
        encoder.encode(TEXTS, pool={}, chunk_size=3)
    assert same_bits(encoder.encode(TEXTS, chunk_size=2, device="cpu"), encoder.encode(TEXTS))
    for call in (lambda: encoder.encode("a", device="cuda"), lambda: pyllm.SentenceEncoder(tmp_path, device="cuda")):
        with pytest.raises(ValueError, match="to cuda, allowed is 'cpu'"):
            call()
    with pytest.raises(ValueError, match="default_prompt_name 'b', there are: a"):
        pyllm.SentenceEncoder(tmp_path, prompts={"a": "my "}, default_prompt_name="b")
