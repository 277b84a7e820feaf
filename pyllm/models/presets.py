"""The published sizes of models, to be counted."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from pyllm.errors import ModelFileError, printable


class Preset(NamedTuple):
    """A published size: `shape` names the function of counting.py, `numbers` are its arguments."""

    family: str
    shape: str
    numbers: dict[str, Any]


def _llama(family: str, hidden: int, layers: int, inner: int, heads: int, groups: int, **more: Any) -> Preset:
    """A size of the LLaMA family; 32,000 tokens and an output matrix of its own unless said otherwise."""
    numbers = {"hidden": hidden, "layers": layers, "inner": inner, "heads": heads, "groups": groups}
    return Preset(family, "llama", numbers | {"vocabulary": 32_000, "tied": False} | more)


def _gpt2(hidden: int, layers: int, heads: int) -> Preset:
    """A size of GPT-2."""
    numbers = {"hidden": hidden, "layers": layers, "heads": heads, "vocabulary": 50_257, "positions": 1024}
    return Preset("GPT-2", "gpt2", numbers)


def _gemma(family: str, hidden: int, layers: int, inner: int, heads: int, groups: int, **more: Any) -> Preset:
    """A size of Gemma; heads of 256, four norms a layer and 256,000 tokens unless said otherwise."""
    numbers = {"vocabulary": 256_000, "tied": True, "size": 256, "norms": 4} | more
    return _llama(family, hidden, layers, inner, heads, groups, **numbers)


def _qwen3(hidden: int, layers: int, inner: int, heads: int, groups: int, tied: bool = False) -> Preset:
    """A size of Qwen3."""
    more = {"vocabulary": _QWEN, "tied": tied, "size": 128, "head_norms": True}
    return _llama("Qwen3", hidden, layers, inner, heads, groups, **more)


def _neox(hidden: int, layers: int, heads: int, vocabulary: int, family: str = "Pythia") -> Preset:
    """A size of GPT-NeoX."""
    numbers = {"hidden": hidden, "layers": layers, "heads": heads, "vocabulary": vocabulary}
    return Preset(family, "neox", numbers)


def _transformer(hidden: int, inner: int, heads: int) -> Preset:
    """A size of the Transformer of 2017, English to German."""
    numbers = {"hidden": hidden, "encoder": 6, "decoder": 6, "inner": inner, "heads": heads, "vocabulary": 37_000}
    return Preset("Transformer", "transformer", numbers | {"shared": True, "tied": True})


def _bert(hidden: int, layers: int, family: str = "BERT", **more: Any) -> Preset:
    """A size of BERT or a relative; 30,522 tokens and 512 positions unless said otherwise."""
    numbers = {"hidden": hidden, "layers": layers, "vocabulary": 30_522, "positions": 512}
    return Preset(family, "bert", numbers | more)


def _t5(hidden: int, layers: int, inner: int, heads: int, **more: Any) -> Preset:
    """A size of T5 with its 32,128 tokens."""
    numbers = {"hidden": hidden, "layers": layers, "inner": inner, "heads": heads, "vocabulary": 32_128}
    return Preset("T5", "t5", numbers | more)


_MPNET = _bert(768, 12, "MPNet", vocabulary=30_527, positions=514, segments=0, relative=(32, 12))
_L3, _SMOL, _QWEN, _GEMMA3 = 128_256, 49_152, 151_936, 262_144
PRESETS: dict[str, Preset] = {
    "llama-7b": _llama("LLaMA", 4096, 32, 11_008, 32, 32),
    "llama-13b": _llama("LLaMA", 5120, 40, 13_824, 40, 40),
    "llama-30b": _llama("LLaMA", 6656, 60, 17_920, 52, 52),
    "llama-65b": _llama("LLaMA", 8192, 80, 22_016, 64, 64),
    "llama2-7b": _llama("Llama 2", 4096, 32, 11_008, 32, 32),
    "llama2-13b": _llama("Llama 2", 5120, 40, 13_824, 40, 40),
    "llama2-70b": _llama("Llama 2", 8192, 80, 28_672, 64, 8),
    "llama3-8b": _llama("Llama 3", 4096, 32, 14_336, 32, 8, vocabulary=_L3),
    "llama3-70b": _llama("Llama 3", 8192, 80, 28_672, 64, 8, vocabulary=_L3),
    "llama3.1-405b": _llama("Llama 3", 16_384, 126, 53_248, 128, 8, vocabulary=_L3),
    "llama3.2-1b": _llama("Llama 3", 2048, 16, 8192, 32, 8, vocabulary=_L3, tied=True),
    "llama3.2-3b": _llama("Llama 3", 3072, 28, 8192, 24, 8, vocabulary=_L3, tied=True),
    "smollm2-135m": _llama("LLaMA", 576, 30, 1536, 9, 3, vocabulary=_SMOL, tied=True),
    "smollm2-360m": _llama("LLaMA", 960, 32, 2560, 15, 5, vocabulary=_SMOL, tied=True),
    "smollm2-1.7b": _llama("LLaMA", 2048, 24, 8192, 32, 32, vocabulary=_SMOL, tied=True),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "gpt-neox-20b": _neox(6144, 44, 64, 50_432, "GPT-NeoX"),
    "pythia-70m": _neox(512, 6, 8, 50_304),
    "pythia-160m": _neox(768, 12, 12, 50_304),
    "pythia-410m": _neox(1024, 24, 16, 50_304),
    "pythia-1b": _neox(2048, 16, 8, 50_304),
    "pythia-1.4b": _neox(2048, 24, 16, 50_304),
    "pythia-2.8b": _neox(2560, 32, 32, 50_304),
    "pythia-6.9b": _neox(4096, 32, 32, 50_432),
    "pythia-12b": _neox(5120, 36, 40, 50_688),
    "mistral-7b": _llama("Mistral", 4096, 32, 14_336, 32, 8),
    "mistral-7b-v0.3": _llama("Mistral", 4096, 32, 14_336, 32, 8, vocabulary=32_768),
    "mistral-nemo-12b": _llama("Mistral", 5120, 40, 14_336, 32, 8, vocabulary=131_072, size=128),
    "qwen2.5-0.5b": _llama("Qwen2.5", 896, 24, 4864, 14, 2, vocabulary=_QWEN, tied=True, bias=True),
    "qwen2.5-1.5b": _llama("Qwen2.5", 1536, 28, 8960, 12, 2, vocabulary=_QWEN, tied=True, bias=True),
    "qwen2.5-3b": _llama("Qwen2.5", 2048, 36, 11_008, 16, 2, vocabulary=_QWEN, tied=True, bias=True),
    "qwen2.5-7b": _llama("Qwen2.5", 3584, 28, 18_944, 28, 4, vocabulary=152_064, bias=True),
    "qwen2.5-14b": _llama("Qwen2.5", 5120, 48, 13_824, 40, 8, vocabulary=152_064, bias=True),
    "qwen2.5-32b": _llama("Qwen2.5", 5120, 64, 27_648, 40, 8, vocabulary=152_064, bias=True),
    "qwen2.5-72b": _llama("Qwen2.5", 8192, 80, 29_568, 64, 8, vocabulary=152_064, bias=True),
    "qwen3-0.6b": _qwen3(1024, 28, 3072, 16, 8, True),
    "qwen3-1.7b": _qwen3(2048, 28, 6144, 16, 8, True),
    "qwen3-4b": _qwen3(2560, 36, 9728, 32, 8, True),
    "qwen3-8b": _qwen3(4096, 36, 12_288, 32, 8),
    "qwen3-14b": _qwen3(5120, 40, 17_408, 40, 8),
    "qwen3-32b": _qwen3(5120, 64, 25_600, 64, 8),
    "gemma-2b": _gemma("Gemma", 2048, 18, 16_384, 8, 1, norms=2),
    "gemma-7b": _gemma("Gemma", 3072, 28, 24_576, 16, 16, norms=2),
    "gemma-2-2b": _gemma("Gemma 2", 2304, 26, 9216, 8, 4),
    "gemma-2-9b": _gemma("Gemma 2", 3584, 42, 14_336, 16, 8),
    "gemma-2-27b": _gemma("Gemma 2", 4608, 46, 36_864, 32, 16, size=128),
    "gemma-3-270m": _gemma("Gemma 3", 640, 18, 2048, 4, 1, vocabulary=_GEMMA3, head_norms=True),
    "gemma-3-1b": _gemma("Gemma 3", 1152, 26, 6912, 4, 1, vocabulary=_GEMMA3, head_norms=True),
    "gemma-3-4b": _gemma("Gemma 3", 2560, 34, 10_240, 8, 4, vocabulary=262_208, head_norms=True),
    "gemma-3-12b": _gemma("Gemma 3", 3840, 48, 15_360, 16, 8, vocabulary=262_208, head_norms=True),
    "gemma-3-27b": _gemma("Gemma 3", 5376, 62, 21_504, 32, 16, vocabulary=262_208, size=128, head_norms=True),
    "transformer-base": _transformer(512, 2048, 8),
    "transformer-big": _transformer(1024, 4096, 16),
    "bert-base": _bert(768, 12),
    "bert-large": _bert(1024, 24),
    "all-minilm-l6-v2": _bert(384, 6),
    "all-minilm-l12-v2": _bert(384, 12),
    "roberta-base": _bert(768, 12, "RoBERTa", vocabulary=50_265, positions=514, segments=1),
    "mpnet-base": _MPNET,
    "all-mpnet-base-v2": _MPNET,
    "electra-small": _bert(256, 12, "ELECTRA", narrow=128, pooler=False),
    "electra-base": _bert(768, 12, "ELECTRA", pooler=False),
    "distilbert-base": _bert(768, 6, "DistilBERT", segments=0, pooler=False),
    "albert-base": _bert(768, 12, "ALBERT", vocabulary=30_000, narrow=128, runs=(12,)),
    "t5-small": _t5(512, 6, 2048, 8),
    "t5-base": _t5(768, 12, 3072, 12),
    "flan-t5-small": _t5(512, 8, 1024, 6, size=64, gated=True, tied=False),
    "flan-t5-base": _t5(768, 12, 2048, 12, size=64, gated=True, tied=False),
    "mt5-small": _t5(512, 8, 1024, 6, vocabulary=250_112, size=64, gated=True, tied=False),
    "mt5-base": _t5(768, 12, 2048, 12, vocabulary=250_112, size=64, gated=True, tied=False),
    "pegasus-large": Preset("Pegasus", "bart", {"hidden": 1024, "layers": 16, "vocabulary": 96_103}),
    "m2m100-418m": Preset("M2M100", "bart", {"hidden": 1024, "layers": 12, "vocabulary": 128_112}),
    "nllb-200-600m": Preset("M2M100", "bart", {"hidden": 1024, "layers": 12, "vocabulary": 256_206}),
    "bart-base": Preset("BART", "bart", {"hidden": 768, "layers": 6, "vocabulary": 50_265, "positions": 1026}),
    "bart-large": Preset("BART", "bart", {"hidden": 1024, "layers": 12, "vocabulary": 50_265, "positions": 1026}),
    "marian-base": Preset("Marian", "bart", {"hidden": 512, "layers": 6, "vocabulary": 58_101, "norms": 0}),
}
# Other names of the same shapes.
ALIASES = {
    "llama3.1-8b": "llama3-8b",
    "llama3.1-70b": "llama3-70b",
    "llama3.3-70b": "llama3-70b",
    "smollm2": "smollm2-135m",
    "smollm2-135m-instruct": "smollm2-135m",
    "gpt2-small": "gpt2",
    "qwen2-0.5b": "qwen2.5-0.5b",
    "qwen2-1.5b": "qwen2.5-1.5b",
    "qwen2-7b": "qwen2.5-7b",
    "qwen2-72b": "qwen2.5-72b",
    "gemma2-2b": "gemma-2-2b",
    "gemma2-9b": "gemma-2-9b",
    "gemma2-27b": "gemma-2-27b",
}


_RECURRENT = ("rnn", "ulmfit")
_DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt_neox", "gpt2", *_RECURRENT)
_GATES = {"lstm": 4, "gru": 3}


def _shared(values: dict[str, Any]) -> dict[str, Any]:
    """What encoder-decoders have in common."""
    shared, tied = values["share_encoder_decoder_embeddings"], values["tie_word_embeddings"]
    return {"vocabulary": values["vocab_size"], "shared": shared, "tied": tied}


def _of_transformer(values: dict[str, Any]) -> Preset:
    numbers = {
        "hidden": values["d_model"],
        "encoder": values["num_encoder_layers"],
        "decoder": values["num_decoder_layers"],
        "inner": values["dim_feedforward"],
        "heads": values["nhead"],
        "bias": values["bias"],
    }
    return Preset("transformer", "transformer", numbers | _shared(values))


def _of_seq2seq(values: dict[str, Any]) -> Preset:
    numbers = {
        "gates": _GATES.get(values["cell"], 1),
        "embedding": values["embedding_size"],
        "hidden": values["hidden_size"],
        "layers": values["num_layers"],
        "both": values["bidirectional"],
        "attention": values["attention"],
    }
    return Preset("seq2seq", "seq2seq", numbers | _shared(values))


def _of_t5(values: dict[str, Any]) -> Preset:
    numbers = {
        "hidden": values["d_model"],
        "layers": values["num_layers"],
        "decoder": values["num_decoder_layers"],
        "inner": values["d_ff"],
        "heads": values["num_heads"],
        "size": values["d_kv"],
        "vocabulary": values["vocab_size"],
        "buckets": values["relative_attention_num_buckets"],
        "gated": values["feed_forward_proj"].startswith("gated-"),
        "tied": values["tie_word_embeddings"],
        "each": values["model_type"] == "umt5",
    }
    return Preset("t5", "t5", numbers)


def _of_bart(values: dict[str, Any]) -> Preset:
    kind, shared = values["model_type"], values.get("share_encoder_decoder_embeddings", True)
    targets = values["vocab_size"] if shared else values["decoder_vocab_size"]
    numbers = {
        "hidden": values["d_model"],
        "layers": values["encoder_layers"],
        "decoder": values["decoder_layers"],
        "inner": values["encoder_ffn_dim"],
        "decoder_inner": values["decoder_ffn_dim"],
        "vocabulary": values["vocab_size"],
        "positions": values["max_position_embeddings"] + 2 if kind in ("bart", "mbart") else 0,
        "norms": {"mbart": 2, "marian": 0}.get(kind, 1),
        "targets": 0 if shared and values["tie_word_embeddings"] else targets,
        "tied": values["tie_word_embeddings"],
    }
    return Preset(kind, "bart", numbers)


PAIRS = {
    "transformer": _of_transformer,
    "seq2seq": _of_seq2seq,
    **dict.fromkeys(("t5", "mt5", "umt5"), _of_t5),
    **dict.fromkeys(("bart", "mbart", "marian", "pegasus", "m2m_100"), _of_bart),
}


def _of_bert(values: dict[str, Any]) -> Preset:
    kind = values["model_type"]
    numbers = {"vocabulary": values["vocab_size"], "positions": values["max_position_embeddings"]}
    if kind == "distilbert":
        numbers |= {"hidden": values["dim"], "layers": values["n_layers"], "inner": values["hidden_dim"]}
        return Preset(kind, "bert", numbers | {"segments": 0, "pooler": False})
    layers = values["num_hidden_layers"]
    numbers |= {"hidden": values["hidden_size"], "layers": layers, "inner": values["intermediate_size"]}
    if kind == "mpnet":
        relative = values["relative_attention_num_buckets"], values["num_attention_heads"]
        return Preset(kind, "bert", numbers | {"segments": 0, "relative": relative})
    numbers |= {"segments": values["type_vocab_size"]}
    if kind == "electra":
        narrow = values["embedding_size"] if values["embedding_size"] != values["hidden_size"] else 0
        return Preset(kind, "bert", numbers | {"narrow": narrow, "pooler": False})
    if kind == "albert":
        inner, groups = values["inner_group_num"], values["num_hidden_groups"]
        times = Counter(int(i / (layers / groups)) for i in range(layers))
        runs = tuple(times[i] for i in range(groups) for _ in range(inner))
        numbers |= {"layers": layers * inner, "narrow": values["embedding_size"], "runs": runs}
    return Preset(kind, "bert", numbers)


ENCODERS = ("bert", "roberta", "distilbert", "albert", "mpnet", "electra")


def from_config(values: dict[str, Any]) -> Preset:
    """The size that a checked configuration asks for (pyllm.formats.read_config). Raises ModelFileError."""
    kind = values["model_type"]
    if kind in PAIRS:
        return PAIRS[kind](values)
    if kind in ENCODERS:
        return _of_bert(values)
    if kind not in _DECODERS:
        allowed = f"counted are: {', '.join((*_DECODERS, *PAIRS, *ENCODERS))}"
        raise ModelFileError("config", "model_type", None, printable(kind), allowed)
    tied = values["tie_word_embeddings"]
    if kind in _RECURRENT:
        numbers = {
            "gates": _GATES.get(values.get("cell", "lstm"), 1),
            "embedding": values["embedding_size"],
            "hidden": values["hidden_size"],
            "layers": values["num_hidden_layers"],
            "vocabulary": values["vocab_size"],
        }
        narrow = {"narrow": True} if kind == "ulmfit" and tied else {}
        return Preset(kind, "recurrent", numbers | {"tied": tied, "head_bias": values["head_bias"]} | narrow)
    if kind == "gpt2":
        numbers = {
            "hidden": values["n_embd"],
            "layers": values["n_layer"],
            "heads": values["n_head"],
            "vocabulary": values["vocab_size"],
            "positions": values["n_positions"],
            "inner": values["n_inner"],
        }
        return Preset(kind, "gpt2", numbers | {"tied": tied})
    numbers = {
        "hidden": values["hidden_size"],
        "layers": values["num_hidden_layers"],
        "heads": values["num_attention_heads"],
        "vocabulary": values["vocab_size"],
        "inner": values["intermediate_size"],
        "tied": tied,
    }
    bias = values.get("attention_bias", False)
    if kind == "gpt_neox":
        return Preset(kind, "neox", numbers | {"bias": bias})
    more = {
        "groups": values["num_key_value_heads"],
        "size": values["head_dim"],
        "bias": bias or kind == "qwen2",
        "output_bias": bias,
        "inner_bias": values.get("mlp_bias", False),
        "head_norms": kind in ("qwen3", "gemma3_text"),
        "norms": 4 if kind in ("gemma2", "gemma3_text") else 2,
    }
    return Preset(kind, "llama", numbers | more)
