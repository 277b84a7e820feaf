"""Encoders and encoder-decoders beside ONNX Runtime, CTranslate2 and PyTorch, in turns, in one process.

encoders.py [ROW ...] [--threads 2] [--pairs 9] [--out FILE.json]; needs onnxruntime, onnx, ctranslate2, transformers.

Shapes by name with random weights, random tokens. ONNX Runtime quantises dynamically (weights and activations), as
CTranslate2 does; PyTorch runs transformers' model under autocast. Encoding gives the last layer's rows of a batch;
translating is beam search with so many target tokens, the end token held back. Ragged batches have lengths from 8 up:
CTranslate2 takes them as they are, the others padded and sorted into quarters of like length.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from paired import Side, machine_facts, paired, report
from training import set_threads, timed

Step = Callable[[], Any]


class Encode(NamedTuple):
    """One batch of tokens to rows."""

    what: str
    shape: str
    batch: int
    length: int
    dtype: str
    peers: tuple[str, ...]
    asked: float
    ragged: bool = False

    @property
    def count(self) -> int:
        """Tokens of a step."""
        return sum(map(len, texts(self)))


class Translate(NamedTuple):
    """Sources of 32 tokens to targets of 32, by 4 beams."""

    what: str
    shape: str
    asked: float
    dtype: str = "int8"
    peers: tuple[str, ...] = ("ct2-int8",)
    batch: int = 8
    source: int = 32
    new: int = 32
    beam: int = 4

    @property
    def count(self) -> int:
        """Target tokens of a step."""
        return self.batch * self.new


INT8 = ("ort-int8", "ct2-int8")
MINI = "all-minilm-l6-v2"
ROWS: dict[str, Any] = {
    "minilm-int8": Encode("MiniLM, 6 layers, 32 x 128, int8", MINI, 32, 128, "int8", INT8, 1.6),
    "minilm-bf16": Encode("MiniLM, 6 layers, 32 x 128, bf16", MINI, 32, 128, "bfloat16", ("torch-bf16",), 1.7),
    "minilm-ragged": Encode(
        "MiniLM, 6 layers, 64 of 8 to 128, int8", MINI, 64, 128, "int8", (*INT8, "torch-fp32"), 2.2, True
    ),
    "minilm-latency": Encode("MiniLM, 6 layers, 1 x 16, int8", MINI, 1, 16, "int8", INT8, 2.0),
    "bert-fp32": Encode(
        "BERT-base, 8 x 128, fp32", "bert-base", 8, 128, "float32", ("ort-fp32", "ct2-float32", "torch-fp32"), 1.2
    ),
    "bert-bf16": Encode("BERT-base, 8 x 128, bf16", "bert-base", 8, 128, "bfloat16", ("torch-bf16",), 1.5),
    "bert-int8": Encode("BERT-base, 8 x 128, int8", "bert-base", 8, 128, "int8", INT8, 1.7),
    "bart-int8": Translate("BART-base, 8 x 32 to 32, beam 4, int8", "bart-base", 2.2),
    "t5-int8": Translate("T5-small, 8 x 32 to 32, beam 4, int8", "t5-small", 2.5),
}


def texts(row: Encode) -> list[list[int]]:
    """Token ids of each sequence."""
    random = np.random.default_rng(0)
    lengths = random.integers(8, row.length + 1, row.batch) if row.ragged else [row.length] * row.batch
    return [random.integers(1000, 30000, n).tolist() for n in lengths]


def groups(row: Encode) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids, mask) of rectangles: one, or of ragged texts four of like length."""
    found = sorted(texts(row), key=len)
    size = -(-len(found) // (4 if row.ragged else 1))
    rectangles = []
    for first in range(0, len(found), size):
        part = found[first : first + size]
        ids = np.zeros((len(part), max(map(len, part))), np.int64)
        for each, text in zip(ids, part, strict=True):
            each[: len(text)] = text
        rectangles.append((ids, (ids > 0).astype(np.int64)))
    return rectangles


def pyllm_step(row: Any) -> Step:
    """pyllm's."""
    from pyllm.auto import new_config, new_model
    from pyllm.auto.weights import store_as
    from pyllm.evaluate.encoding_speed import model_of

    if isinstance(row, Encode):
        model, given = model_of(row.shape, row.dtype), [np.array(text, np.int32) for text in texts(row)]
        return lambda: model(given)
    model = new_model(new_config(row.shape)).eval()
    store_as(model, row.dtype)
    ids = np.random.default_rng(0).integers(10, 30000, (row.batch, row.source))
    asked = {"num_beams": row.beam, "max_new_tokens": row.new, "min_new_tokens": row.new}
    return lambda: model.generate(ids, attention_mask=np.ones_like(ids), eos_token_id=2, **asked)


def theirs(row: Encode) -> Any:
    """transformers' model of the same shape."""
    import transformers

    from pyllm.auto.new import SHAPES

    sizes = {name: size for name, size in SHAPES[row.shape].items() if name != "model_type"}
    return transformers.BertModel(transformers.BertConfig(**sizes)).eval()


def torch_step(row: Encode, kind: str) -> Step:
    """PyTorch's."""
    import torch

    model = theirs(row)
    given = [tuple(map(torch.from_numpy, each)) for each in groups(row)]

    def step() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            for ids, mask in given:
                model(ids, mask)

    return step


def ort_step(row: Encode, kind: str, threads: int) -> Step:
    """ONNX Runtime's."""
    import onnxruntime
    import torch
    import transformers
    from onnxruntime.quantization import QuantType, quantize_dynamic

    config = theirs(row).config
    config._attn_implementation = "eager"
    model = transformers.BertModel(config).eval()

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.model(ids, mask).last_hidden_state

    with tempfile.TemporaryDirectory() as folder:
        plain, small = f"{folder}/a.onnx", f"{folder}/b.onnx"
        given = tuple(map(torch.from_numpy, groups(row)[0]))
        names, axes = ["ids", "mask"], {"ids": [0, 1], "mask": [0, 1]}
        torch.onnx.export(
            Hidden(), given, plain, dynamo=False, input_names=names, opset_version=17, dynamic_axes=axes
        )
        if kind == "int8":
            quantize_dynamic(plain, small, weight_type=QuantType.QInt8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(small if kind == "int8" else plain, options)
    rectangles = [dict(zip(names, each, strict=True)) for each in groups(row)]
    return lambda: [session.run(None, each) for each in rectangles]


def ct2_step(row: Any, kind: str, threads: int) -> Step:
    """CTranslate2's."""
    import ctranslate2
    import transformers

    loaders = ctranslate2.converters.transformers
    if isinstance(row, Encode):
        model, loader = theirs(row), loaders.BertLoader()
        model.config.position_embedding_type = "absolute"  # its loader asks for it
    elif row.shape == "bart-base":
        sizes = {"d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12}
        sizes |= {"decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072}
        model = transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes)).eval()
        loader = loaders.BartLoader()
        model.config.normalize_before = model.config.add_final_layer_norm = False
        model.config.normalize_embedding = True
    else:
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=32128)).eval()
        loader = loaders.T5Loader()
    spec = loader.get_model_spec(model)
    words = [f"t{i}" for i in range(model.config.vocab_size)]
    words[:4] = ["<s>", "<pad>", "</s>", "<unk>"]
    if isinstance(row, Encode):
        spec.register_vocabulary(words)
        spec.config.layer_norm_epsilon = 1e-12
    else:
        spec.register_source_vocabulary(words)
        spec.register_target_vocabulary(words)
        spec.config.bos_token, spec.config.eos_token, spec.config.decoder_start_token = "<s>", "</s>", "</s>"
    spec.config.unk_token = "<unk>"
    folder = tempfile.mkdtemp()
    spec.validate()
    spec.optimize(quantization=kind)
    spec.save(folder)
    options = {"device": "cpu", "inter_threads": 1, "intra_threads": threads, "compute_type": kind}
    if isinstance(row, Encode):
        encoder, given = ctranslate2.Encoder(folder, **options), texts(row)
        return lambda: np.array(encoder.forward_batch(given).last_hidden_state)
    translator = ctranslate2.Translator(folder, **options)
    ids = np.random.default_rng(0).integers(10, 30000, (row.batch, row.source))
    sources = [[f"t{i}" for i in each] for each in ids]
    lengths = {"max_decoding_length": row.new, "min_decoding_length": row.new}
    return lambda: translator.translate_batch(sources, beam_size=row.beam, max_batch_size=0, **lengths)


def peer_step(row: Any, peer: str, threads: int) -> Step:
    """A peer's, by its name and type."""
    who, kind = peer.split("-")
    return torch_step(row, kind) if who == "torch" else {"ort": ort_step, "ct2": ct2_step}[who](row, kind, threads)


def main() -> int:
    """Measure and print; 1 when a row is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help=f"{', '.join(ROWS)}; all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--foreign", type=float, default=0.05, help="share of the machine that others may use")
    parser.add_argument("--out", type=Path, default=Path("build/compare/encoders.json"))
    options = parser.parse_args()
    for side in ("pyllm", "torch"):
        set_threads(options.threads, side)
    results, reached = [], True
    for name in options.rows or ROWS:
        row = ROWS[name]
        sides = [Side("pyllm", timed(pyllm_step(row)))]
        sides += [Side(peer, timed(peer_step(row, peer, options.threads))) for peer in row.peers]
        found = report(paired(sides, options.pairs, options.foreign), row.count, options.foreign)
        ratio = found["ratio"][found["against"]]
        low, high = ratio["interval"]
        reached = reached and low >= row.asked
        speed = ", ".join(f"{side} {rate:,.0f}" for side, rate in found["per_second"].items())
        verdict = "reached" if low >= row.asked else "MISSED"
        times = f"{ratio['median']:.2f} x [{low:.2f}, {high:.2f}], asked {row.asked}: {verdict}"
        print(f"{name:15} tokens/s: {speed}; {times}", flush=True)
        results.append({"row": name, **row._asdict(), "threads": options.threads, **found})
    from importlib.metadata import version

    versions = {each: version(each) for each in ("torch", "transformers", "onnxruntime", "ctranslate2")}
    facts = {**machine_facts(), "versions": versions, "day": time.strftime("%Y-%m-%d")}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"encoders": results, "facts": facts}) + "\n")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
