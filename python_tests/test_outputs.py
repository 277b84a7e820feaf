"""What models give, by attribute, by name and by place, as transformers' outputs have it."""

import numpy as np
import pytest

from pyllm.auto import new_config, new_model
from pyllm.auto.encoders import AutoModelForMaskedLM
from pyllm.auto.pairs import AutoModelForSeq2SeqLM

IDS = np.array([[5, 6, 7]])
SMALL = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def decoder():
    return new_model(new_config("lstm", vocab_size=30, embedding_size=8, hidden_size=8, num_hidden_layers=1)).eval()


def encoder():
    return AutoModelForMaskedLM.from_config(new_config("bert", **SMALL, max_position_embeddings=16), 0).eval()


def pairs():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 30}
    return AutoModelForSeq2SeqLM.from_config(new_config("t5", **sizes), 0).eval()


@pytest.mark.parametrize("model", (decoder, encoder, pairs))
def test_what_is_there_has_a_name(model):
    whole = model()(IDS, labels=IDS)
    assert whole["logits"] is whole.logits is whole.get("logits") and whole[0] is whole.logits
    assert "logits" in whole and "loss" in whole and "attentions" not in whole and "nothing" not in whole
    assert whole.logits in whole and np.zeros(3) not in whole  # told by what they are: arrays have no one truth
    assert set(whole.keys()) >= {"logits", "loss"} and dict(whole.items())["loss"] is whole.loss
    assert whole.get("attentions") is None and whole.get("nothing", 3) == 3
    bare = model()(IDS, **({"decoder_input_ids": IDS} if model is pairs else {}))
    assert "loss" not in set(bare.keys()) and "loss" not in bare
    with pytest.raises(KeyError, match="no 'loss'; it has logits"):
        bare["loss"]
