"""float32 logits against Hugging Face transformers on the same random folders. Needs torch and transformers."""
import numpy as np
import pytest
import tiny_models
import torch
import transformers
from test_parity import NO_GGUF, VARIANTS, logits_of, relative, tokens

import pyllm

LENGTH = 100


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_within_1e4_of_transformers(tmp_path, name):
    config = VARIANTS[name]
    weights = tiny_models.random_weights(config, seed=6)
    path = tiny_models.write_folder(tmp_path / "m", config, weights)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens(LENGTH))[None]).logits[0].numpy()
    assert relative(logits_of(path, tokens(LENGTH)), expected.astype(np.float64)) <= 1e-4


@pytest.mark.parametrize("name", VARIANTS)
def test_transformers_reads_saved_folders(tmp_path, name):
    config = VARIANTS[name]
    weights = tiny_models.random_weights(config, seed=7)
    write = tiny_models.write_folder if name in NO_GGUF else tiny_models.write_gguf
    source = write(tmp_path / "m.gguf", config, weights)
    pyllm.AutoModelForCausalLM.from_pretrained(source).save_pretrained(tmp_path / "out", max_shard_size="150KB")
    folders = (tiny_models.write_folder(tmp_path / "m", config, weights), tmp_path / "out")
    expected, found = (
        transformers.AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32, attn_implementation="eager")
        for each in folders
    )
    with torch.no_grad():
        one, other = (each(torch.tensor(tokens(LENGTH))[None]).logits[0].numpy() for each in (expected, found))
    assert relative(other, one.astype(np.float64)) <= 1e-5


@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_transformers_reads_saved_vocabularies(tmp_path, kind):
    config = tiny_models.llama_config()
    weights = tiny_models.random_weights(config)
    path = tiny_models.write_gguf(tmp_path / "m.gguf", config, weights, tokenizer=kind)
    pyllm.convert(path, tmp_path / "out")
    ours = pyllm.AutoTokenizer.from_pretrained(path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in ("the quick brown fox", "  over a lazy dog\n\n", "é ☃ 12"):
        assert theirs(text).input_ids == ours(text).input_ids
        assert theirs.decode(ours(text).input_ids) == ours.decode(ours(text).input_ids)
    messages = [{"role": "user", "content": "in that town"}]
    assert theirs.apply_chat_template(messages, tokenize=False) == ours.apply_chat_template(messages, tokenize=False)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_token_id, ours.eos_token_id)
