"""Does llama.cpp run what pyllm trained? Models of every family that can be made new, from a text to GGUF.

peers_trained.py [--only NAME]

For each: a tokenizer is trained on a novel, a small model learns from its shards, an adapter (LoRA) learns questions
on top of it, once on the folder and once on a quantised GGUF file, and all is written as GGUF by `pyllm.convert`.
llama.cpp must cut texts into the same ids and give the same logits, worst row and text, within the bounds of
peers_logits.py: F32 1e-3 of the largest (llama.cpp looks GELU up in a table of float16), F16 2e-2 and BF16 5e-2 (it
rounds activations too). With Q8_0 it rounds activations to 8 bits: that gap is printed, and the same weights are
written as F32 again, which pyllm's two int8 terms must meet within 1e-3. transformers must load the folder and give its
logits within 1e-4. Exit code 1 if anything differs. `make peers` runs it.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp
import numpy as np
import torch
import transformers
from peers_logits import TOLERANCE, relative, silent

import pyllm
from pyllm import text
from pyllm.auto.new import OWN, USUAL
from pyllm.data import prepare
from pyllm.nn import LoraConfig
from pyllm.train import TrainingArguments
from pyllm.train.language import finetune, pretrain

LEARN = Path(__file__).resolve().parent.parent / "examples" / "learn"
CONTEXT = 64
BOUNDS = TOLERANCE | {"Q8_0": np.inf}
SMALL: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                         "intermediate_size": 96, "max_position_embeddings": 128}  # fmt: skip
GPT2: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}


class Case(NamedTuple):
    """A family with sizes, and how its tokenizer cuts words, by its name in GGUF."""

    family: str
    pre: str
    fields: dict[str, Any]


CASES = {
    "gpt2": Case("gpt2", "gpt-2", GPT2),
    "gpt2-untied": Case("gpt2", "smollm", GPT2 | {"tie_word_embeddings": False, "n_inner": 160}),
    "llama": Case("llama", "llama-bpe", SMALL),
    "llama-untied": Case("llama", "dbrx", SMALL | {"tie_word_embeddings": False, "num_key_value_heads": 4}),
    "mistral": Case("mistral", "tekken", SMALL),
    "qwen2": Case("qwen2", "qwen2", SMALL),
    "qwen3": Case("qwen3", "gpt-4o", SMALL | {"head_dim": 32}),
}
TEXTS = (
    "Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition",
    'He said: "It isn\'t 1,234.50 -- nor\t12345678!"\n\n  Was it?  \n',
    "naïve Wörter, Ελληνικά и по-русски, 日本語のテキスト, 🙂👍🏽, e\u0301",
    "    indented = {'KEY': [1, 22, 333]}\r\nI'LL, we'VE",
    "a",
    "<|endoftext|> is text here",
)


def told(folder: Path, steps: int, rate: float) -> TrainingArguments:
    """A short run in float32."""
    return TrainingArguments(
        output_dir=str(folder), max_steps=steps, learning_rate=rate, warmup_steps=2, save_steps=0,
        per_device_train_batch_size=8,
    )  # fmt: skip


def trained(case: Case, work: Path) -> Path:
    """The folder of a model that has learned a little from the novel."""
    novel = LEARN / "emma.txt"
    tokenizer = text.train_files(novel, vocab=700, pre_tokenizer=case.pre, chat=True)
    prepare([novel], tokenizer, work / "shards", valid=0.0)
    pretrain(case.family, case.fields, str(work / "shards"), told(work / "run", 40, 3e-3), CONTEXT)
    return work / "run"


def adapted(base: Path, folder: Path) -> Path:
    """The folder of an adapter that has learned a few answers on top of a model."""
    lora = LoraConfig(4, 32.0)
    finetune(str(base), str(LEARN / "questions.jsonl"), told(folder, 20, 1e-2), CONTEXT, lora=lora)
    return folder


def llama_says(path: Path) -> list[tuple[list[int], np.ndarray]]:
    """(ids, logits (length, vocabulary)) of each text by llama.cpp, keys and values in float32."""
    model = llama_cpp.Llama(
        str(path), n_ctx=256, n_batch=256, n_ubatch=256, logits_all=True, verbose=False, n_threads=2,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, flash_attn=False,
    )  # fmt: skip
    found = []
    for each in TEXTS:
        ids = model.tokenize(each.encode(), add_bos=False, special=False)
        model.reset()
        model.eval(ids)
        found.append((ids, np.array(model.scores[: len(ids)], np.float32)))
    model.close()
    return found


def pyllm_says(path: Path) -> list[tuple[list[int], np.ndarray]]:
    """The same by pyllm."""
    model, tokenizer = (
        each.from_pretrained(path, **more)
        for each, more in ((pyllm.AutoModelForCausalLM, {"precision": "high"}), (pyllm.AutoTokenizer, {}))
    )
    rows = [tokenizer.encode(each) for each in TEXTS]
    return [(ids, np.asarray(model(np.array([ids])).logits[0])) for ids in rows]


def compared(name: str, theirs: Any, ours: Any, bound: float) -> list[str]:
    """What differs; prints a line."""
    wrong, gaps = [], []
    for (ids, logits), (mine, expected), each in zip(theirs, ours, TEXTS, strict=True):
        if ids != mine:
            wrong.append(f"{name}: {each!r} is {ids}, by pyllm {mine}")
        else:
            gaps.append(relative(logits, expected))
    gap = max(gaps, default=np.inf)
    print(f"{name:<29} logits {gap:.1e}, {len(gaps)} of {len(TEXTS)} texts with equal ids", flush=True)
    if not (gap <= bound and np.isfinite(gap)):
        wrong.append(f"{name}: logits {gap:.1e}, allowed {bound:.0e}")
    return wrong


def transformers_says(folder: Path, rows: Any) -> list[tuple[list[int], np.ndarray]]:
    """The same by transformers, its tokenizer and its float32 model, from the folder that training left."""
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for (known, _), each in zip(rows, TEXTS, strict=True):
        special = each.startswith("<|")  # which transformers takes for the token itself, wherever it comes from
        ids = known if special else tokenizer(each, add_special_tokens=False).input_ids
        with torch.no_grad():
            found.append((ids, model(torch.tensor([ids])).logits[0].numpy()))
    return found


def judge(name: str, case: Case, work: Path) -> list[str]:
    """What is wrong with one family."""
    run = trained(case, work)
    ours = pyllm_says(run)
    wrong = compared(f"{name} transformers", transformers_says(run, ours), ours, 1e-4)
    for dtype, bound in BOUNDS.items():
        path = work / f"{dtype}.gguf"
        pyllm.convert(run, path, dtype)
        wrong += compared(f"{name} {dtype}", llama_says(path), pyllm_says(path), bound)
    pyllm.convert(path, work / "again.gguf", "F32", allow_requantize=True)
    wrong += compared(f"{name} Q8_0 as F32", llama_says(work / "again.gguf"), pyllm_says(path), BOUNDS["F32"])
    wrong += compared(f"{name} F32 and the folder", llama_says(work / "F32.gguf"), ours, BOUNDS["F32"])
    for base, what in ((run, "LoRA"), (work / "Q8_0.gguf", "LoRA on Q8_0")):
        adapter = adapted(base, work / f"adapter-{base.stem}")
        path = work / f"merged-{base.stem}.gguf"
        pyllm.convert(adapter, path, "F32")
        merged = pyllm_says(path)
        wrong += compared(f"{name} {what}", llama_says(path), merged, BOUNDS["F32"])
        # Unmerged, the quantised weights meet activations of two int8 terms.
        wrong += compared(f"{name} {what}, unmerged", pyllm_says(adapter), merged, 1e-4 if base == run else 1e-2)
        if all(np.array_equal(a[1], b[1]) for a, b in zip(merged, ours, strict=True)):
            wrong.append(f"{name} {what}: the adapter has changed nothing")
    return wrong


def main(arguments: Any = None) -> int:
    """Run all; 0 when nothing differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="models whose name contains this")
    args = parser.parse_args(arguments)
    transformers.utils.logging.disable_progress_bar()
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    left_out = set(USUAL) - set(OWN) - {case.family for case in CASES.values()}
    wrong = [f"{family}: no model of it is trained here" for family in left_out]
    for name, case in CASES.items():
        if args.only in name:
            with tempfile.TemporaryDirectory() as temporary:
                wrong += judge(name, case, Path(temporary))
    print("\n".join(["", *wrong, f"{len(wrong)} differences"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
