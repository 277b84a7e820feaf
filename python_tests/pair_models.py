"""Tiny random encoder-decoders of transformers' families, every variant of each, as models of transformers."""

import torch
import transformers

SIZES = {"vocab_size": 53, "d_model": 32, "dropout": 0.0, "max_position_embeddings": 40}
SIDES = {
    "encoder_layers": 2, "encoder_ffn_dim": 48, "encoder_attention_heads": 4,
    "decoder_layers": 3, "decoder_ffn_dim": 40, "decoder_attention_heads": 2,
}  # fmt: skip
IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
BART = SIZES | SIDES | IDS | {"forced_eos_token_id": None}
MARIAN = BART | {"activation_function": "swish", "scale_embedding": True, "bos_token_id": None}
MARIAN |= {"pad_token_id": 52, "decoder_start_token_id": 52, "eos_token_id": 0}
T5 = {
    "vocab_size": 53, "d_model": 32, "d_kv": 5, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}  # fmt: skip
MT5 = T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "pad_token_id": 0, "eos_token_id": 1}
PEGASUS = BART | {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "bos_token_id": None}
SINES = ("Marian", "Pegasus", "M2M100")  # kinds whose positions are computed

VARIANTS = {
    "bart": ("Bart", BART),
    "bart relu scaled": ("Bart", BART | {"activation_function": "relu", "scale_embedding": True}),
    "mbart": ("MBart", BART | {"scale_embedding": True}),
    "marian": ("Marian", MARIAN),
    "marian apart": ("Marian", MARIAN | {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 61}),
    "t5": ("T5", T5),
    "t5 v1.1": ("T5", T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5 deeper": ("T5", T5 | {"num_decoder_layers": 3}),
    "t5 gated silu": ("T5", T5 | {"feed_forward_proj": "gated-silu", "d_kv": 16}),
    "bart untied": ("Bart", BART | {"tie_word_embeddings": False}),
    "mbart untied": ("MBart", BART | {"tie_word_embeddings": False, "scale_embedding": True}),
    "marian untied": ("Marian", MARIAN | {"tie_word_embeddings": False}),
    "marian apart untied": ("Marian", MARIAN | {"tie_word_embeddings": False, "decoder_vocab_size": 61,
                                                "share_encoder_decoder_embeddings": False}),
    "marian odd": ("Marian", MARIAN | {"d_model": 36, "activation_function": "gelu", "scale_embedding": False}),
    "pegasus": ("Pegasus", PEGASUS | {"activation_function": "relu", "scale_embedding": True}),
    "pegasus odd": ("Pegasus", PEGASUS | {"d_model": 36}),
    "pegasus untied": ("Pegasus", PEGASUS | {"tie_word_embeddings": False}),
    "m2m100": ("M2M100", BART | {"scale_embedding": True, "activation_function": "relu"}),
    "m2m100 odd": ("M2M100", BART | {"d_model": 36, "encoder_attention_heads": 3, "pad_token_id": 30}),
    "m2m100 untied": ("M2M100", BART | {"tie_word_embeddings": False}),
    "mt5": ("MT5", MT5),
    "mt5 deeper": ("MT5", MT5 | {"num_decoder_layers": 3, "feed_forward_proj": "relu", "d_kv": 16}),
    "umt5": ("UMT5", MT5),
    "umt5 scaled": ("UMT5", MT5 | {"num_decoder_layers": 3, "tie_word_embeddings": True}),
}
CLASSES = {
    "Bart": "BartForConditionalGeneration", "MBart": "MBartForConditionalGeneration", "Marian": "MarianMTModel",
    "T5": "T5ForConditionalGeneration", "MT5": "MT5ForConditionalGeneration", "UMT5": "UMT5ForConditionalGeneration",
    "Pegasus": "PegasusForConditionalGeneration", "M2M100": "M2M100ForConditionalGeneration",
}  # fmt: skip


def build(variant, seed=0, spread=0.2, **changes):
    """A model of transformers in evaluation mode, its numbers wider spread than a new one's, its constants too."""
    kind, fields = VARIANTS[variant]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**(fields | changes), attn_implementation="eager")
    model = getattr(transformers, CLASSES[kind])(config).eval()
    with torch.no_grad():
        for name, each in [*model.named_parameters(), *model.named_buffers()]:
            if "embed_positions" in name and kind in SINES:
                continue
            noise = torch.randn_like(each) * spread
            each.copy_(noise + 1 if each.ndim == 1 and "bias" not in name else noise)
    return model


def save(variant, folder, **options):
    """(the model, its folder)."""
    model = build(variant, **options)
    model.save_pretrained(folder)
    return model, folder
