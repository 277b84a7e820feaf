"""Models of every family whose weights are turned into another type while they load."""

import numpy as np
import pytest

import pyllm
from pyllm.auto import new_config, new_model
from pyllm.errors import ModelFileError

_ENDS = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2}
_LLAMA = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_LLAMA |= {"num_key_value_heads": 2, "max_position_embeddings": 64}
_RECURRENT = {"embedding_size": 64, "hidden_size": 64, "num_hidden_layers": 2}
_BART = {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4}
_BART |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "max_position_embeddings": 64}
_T5 = {"d_model": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4, "d_ff": 96, "d_kv": 16}
_PAIRS = {
    "transformer": {"d_model": 64, "nhead": 4, "num_encoder_layers": 1, "num_decoder_layers": 1, "dim_feedforward": 96},
    "seq2seq": {"embedding_size": 64, "hidden_size": 64, "num_layers": 1},
    **dict.fromkeys(("bart", "mbart", "marian", "pegasus", "m2m_100"), _BART),
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5),
}
SIZES = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 96},
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _LLAMA),
    **dict.fromkeys(("rnn", "lstm", "gru", "awd-lstm"), _RECURRENT),
    **{family: sizes | {"decoder_start_token_id": 2} for family, sizes in _PAIRS.items()},
}
IDS = np.arange(3, 23)


def answers(model):
    """Logits of a text, or of a target."""
    if hasattr(model, "start"):
        return np.asarray(model.forward(IDS.tolist(), [2, 5, 6, 7]))
    return model(IDS[None]).logits


@pytest.mark.parametrize("dtype", ["int8", "q8_0"])
@pytest.mark.parametrize("family", SIZES)
def test_quantised_models_run_and_are_saved(family, dtype, tmp_path):
    """Near float32, able to generate, and saved as what the codes stand for: read again, the same numbers."""
    model = new_model(new_config(family, **_ENDS, **SIZES[family])).eval()
    model.save_pretrained(tmp_path / "a")
    auto = pyllm.AutoModelForSeq2SeqLM if family in _PAIRS else pyllm.AutoModelForCausalLM
    small = auto.from_pretrained(tmp_path / "a", dtype=dtype)
    assert {each.value.dtype for _, each in small.named_parameters() if each.packed} == {dtype.upper()}
    exact, found = answers(model), answers(small)
    assert 1e-5 < np.linalg.norm(found - exact) / np.linalg.norm(exact) < 0.05
    assert small.generate(IDS[None], max_new_tokens=4, do_sample=False).shape[0] == 1
    small.save_pretrained(tmp_path / "b")
    saved, held = auto.from_pretrained(tmp_path / "b").state_dict(), small.state_dict()
    assert saved.keys() == held.keys() and all((saved[name] == held[name]).all() for name in held)


def test_rows_that_are_no_whole_blocks_are_named(tmp_path):
    sizes = SIZES["gpt2"] | {"n_embd": 40}
    new_model(new_config("gpt2", **_ENDS, **sizes)).eval().save_pretrained(tmp_path / "odd")
    tensor = r"tensor 'transformer\.[a-z0-9_.]+\.weight'"
    message = rf"^odd: {tensor}: dtype Q8_0: .* multiple of 32 inputs, found 40; another"
    with pytest.raises(ModelFileError, match=message):
        pyllm.AutoModelForCausalLM.from_pretrained(tmp_path / "odd", dtype="q8_0")
