"""The model families of the lecture as data: when, which paper, what kind; and the published sizes to count."""

from __future__ import annotations

from typing import Any, NamedTuple

LATER = "later"


class Family(NamedTuple):
    """One family: kind says encoder, decoder, both, or what it is made of; file implements it, or is "later"."""

    name: str
    year: int
    paper: str
    kind: str
    objective: str
    file: str = LATER


FAMILIES = (
    Family(
        "MLP",
        1986,
        "Learning representations by back-propagating errors",
        "dense layers",
        "any: classes or numbers from fixed inputs",
    ),
    Family("RNN", 1990, "Finding Structure in Time", "recurrent", "the next element of a sequence"),
    Family("LSTM", 1997, "Long Short-Term Memory", "recurrent", "the next element of a sequence"),
    Family(
        "GRU",
        2014,
        "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
        "recurrent",
        "the next element of a sequence",
    ),
    Family(
        "seq2seq",
        2014,
        "Sequence to Sequence Learning with Neural Networks",
        "encoder and decoder",
        "the target sentence, word by word",
    ),
    Family(
        "seq2seq + attention",
        2014,
        "Neural Machine Translation by Jointly Learning to Align and Translate",
        "encoder and decoder",
        "the target sentence, looking back at the source",
    ),
    Family(
        "Transformer",
        2017,
        "Attention Is All You Need",
        "encoder and decoder",
        "the target sentence, word by word",
    ),
    Family("AWD-LSTM", 2017, "Regularizing and Optimizing LSTM Language Models", "recurrent", "the next word"),
    Family(
        "ULMFiT",
        2018,
        "Universal Language Model Fine-tuning for Text Classification",
        "recurrent",
        "the next word, then classes",
    ),
    Family(
        "GPT",
        2018,
        "Improving Language Understanding by Generative Pre-Training",
        "decoder",
        "the next token, then tasks",
    ),
    Family(
        "BERT",
        2018,
        "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
        "encoder",
        "masked tokens and whether two sentences follow each other",
    ),
    Family(
        "GPT-2",
        2019,
        "Language Models are Unsupervised Multitask Learners",
        "decoder",
        "the next token",
        "pyllm/models/gpt2.py",
    ),
    Family(
        "T5",
        2019,
        "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
        "encoder and decoder",
        "spans of text that were cut out",
    ),
    Family(
        "BART",
        2019,
        "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and "
        "Comprehension",
        "encoder and decoder",
        "the text before it was damaged",
    ),
    Family(
        "InstructGPT",
        2022,
        "Training language models to follow instructions with human feedback",
        "decoder",
        "answers that people prefer",
    ),
    Family(
        "GPT-NeoX",
        2022,
        "GPT-NeoX-20B: An Open-Source Autoregressive Language Model",
        "decoder",
        "the next token",
    ),
    Family("ChatGPT", 2022, "(no paper: a product announcement)", "decoder", "answers that people prefer, in dialogue"),
    Family(
        "LLaMA",
        2023,
        "LLaMA: Open and Efficient Foundation Language Models",
        "decoder",
        "the next token",
        "pyllm/models/llama.py",
    ),
    Family(
        "Llama 2",
        2023,
        "Llama 2: Open Foundation and Fine-Tuned Chat Models",
        "decoder",
        "the next token, then preferred answers",
        "pyllm/models/llama.py",
    ),
    Family(
        "Llama 3",
        2024,
        "The Llama 3 Herd of Models",
        "decoder",
        "the next token, then preferred answers",
        "pyllm/models/llama.py",
    ),
)


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


_L3, _SMOL = 128_256, 49_152
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
    "gpt-neox-20b": Preset("GPT-NeoX", "neox", {"hidden": 6144, "layers": 44, "heads": 64, "vocabulary": 50_432}),
    "bert-base": Preset("BERT", "bert", {"hidden": 768, "layers": 12, "vocabulary": 30_522, "positions": 512}),
    "bert-large": Preset("BERT", "bert", {"hidden": 1024, "layers": 24, "vocabulary": 30_522, "positions": 512}),
    "t5-small": Preset("T5", "t5", {"hidden": 512, "layers": 6, "inner": 2048, "heads": 8, "vocabulary": 32_128}),
    "t5-base": Preset("T5", "t5", {"hidden": 768, "layers": 12, "inner": 3072, "heads": 12, "vocabulary": 32_128}),
    "bart-base": Preset("BART", "bart", {"hidden": 768, "layers": 6, "vocabulary": 50_265, "positions": 1026}),
}
# Other names of the same shapes.
ALIASES = {
    "llama3.1-8b": "llama3-8b",
    "llama3.1-70b": "llama3-70b",
    "llama3.3-70b": "llama3-70b",
    "smollm2": "smollm2-135m",
    "smollm2-135m-instruct": "smollm2-135m",
    "gpt2-small": "gpt2",
}
