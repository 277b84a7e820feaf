"""The model families of the lecture as data: when, which paper, what kind."""

from __future__ import annotations

from typing import NamedTuple

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
        "pyllm/models/mlp.py",
    ),
    Family(
        "RNN", 1990, "Finding Structure in Time", "recurrent", "the next element of a sequence", "pyllm/models/rnn.py"
    ),
    Family(
        "LSTM", 1997, "Long Short-Term Memory", "recurrent", "the next element of a sequence", "pyllm/models/rnn.py"
    ),
    Family(
        "GRU",
        2014,
        "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
        "recurrent",
        "the next element of a sequence",
        "pyllm/models/rnn.py",
    ),
    Family(
        "seq2seq",
        2014,
        "Sequence to Sequence Learning with Neural Networks",
        "encoder and decoder",
        "the target sentence, word by word",
        "pyllm/models/seq2seq.py",
    ),
    Family(
        "seq2seq + attention",
        2014,
        "Neural Machine Translation by Jointly Learning to Align and Translate",
        "encoder and decoder",
        "the target sentence, looking back at the source",
        "pyllm/models/seq2seq.py",
    ),
    Family(
        "Transformer",
        2017,
        "Attention Is All You Need",
        "encoder and decoder",
        "the target sentence, word by word",
        "pyllm/models/transformer.py",
    ),
    Family(
        "AWD-LSTM",
        2017,
        "Regularizing and Optimizing LSTM Language Models",
        "recurrent",
        "the next word",
        "pyllm/models/ulmfit.py",
    ),
    Family(
        "Marian",
        2018,
        "Marian: Fast Neural Machine Translation in C++",
        "encoder and decoder",
        "the target sentence, word by word",
        "pyllm/models/marian.py",
    ),
    Family(
        "ULMFiT",
        2018,
        "Universal Language Model Fine-tuning for Text Classification",
        "recurrent",
        "the next word, then classes",
        "pyllm/models/classifier.py",
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
        "pyllm/models/bert.py",
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
        "RoBERTa",
        2019,
        "RoBERTa: A Robustly Optimized BERT Pretraining Approach",
        "encoder",
        "masked tokens",
        "pyllm/models/roberta.py",
    ),
    Family(
        "ALBERT",
        2019,
        "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations",
        "encoder",
        "masked tokens and the order of two sentences",
        "pyllm/models/albert.py",
    ),
    Family(
        "DistilBERT",
        2019,
        "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
        "encoder",
        "masked tokens as BERT fills them in",
        "pyllm/models/distilbert.py",
    ),
    Family(
        "T5",
        2019,
        "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
        "encoder and decoder",
        "spans of text that were cut out",
        "pyllm/models/t5.py",
    ),
    Family(
        "BART",
        2019,
        "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and "
        "Comprehension",
        "encoder and decoder",
        "the text before it was damaged",
        "pyllm/models/bart.py",
    ),
    Family(
        "mBART",
        2020,
        "Multilingual Denoising Pre-training for Neural Machine Translation",
        "encoder and decoder",
        "the text before it was damaged, in many languages",
        "pyllm/models/mbart.py",
    ),
    Family(
        "ViT",
        2020,
        "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
        "encoder",
        "the class of an image, of its patches",
        "pyllm/models/vit.py",
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
        "pyllm/models/gpt_neox.py",
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
        "Pythia",
        2023,
        "Pythia: A Suite for Analyzing Large Language Models Across Training and Scaling",
        "decoder",
        "the next token",
        "pyllm/models/gpt_neox.py",
    ),
    Family(
        "Mistral",
        2023,
        "Mistral 7B",
        "decoder",
        "the next token, then preferred answers",
        "pyllm/models/mistral.py",
    ),
    Family(
        "Gemma",
        2024,
        "Gemma: Open Models Based on Gemini Research and Technology",
        "decoder",
        "the next token, then preferred answers",
        "pyllm/models/gemma.py",
    ),
    Family(
        "Qwen2",
        2024,
        "Qwen2 Technical Report",
        "decoder",
        "the next token, then preferred answers",
        "pyllm/models/qwen2.py",
    ),
    Family(
        "Llama 3",
        2024,
        "The Llama 3 Herd of Models",
        "decoder",
        "the next token, then preferred answers",
        "pyllm/models/llama.py",
    ),
    Family(
        "Gemma 2",
        2024,
        "Gemma 2: Improving Open Language Models at a Practical Size",
        "decoder",
        "the next token, then preferred answers",
        "pyllm/models/gemma2.py",
    ),
    Family(
        "Qwen2.5",
        2024,
        "Qwen2.5 Technical Report",
        "decoder",
        "the next token, then preferred answers",
        "pyllm/models/qwen2.py",
    ),
    Family(
        "Gemma 3",
        2025,
        "Gemma 3 Technical Report",
        "decoder",
        "the next token, then preferred answers",
        "pyllm/models/gemma3_text.py",
    ),
    Family(
        "Qwen3",
        2025,
        "Qwen3 Technical Report",
        "decoder",
        "the next token, then preferred answers",
        "pyllm/models/qwen3.py",
    ),
)
