"""Hostile Hugging Face folders: name -> (files, links, fragments). Contents are bytes or values written as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hostile.safetensors_cases import entry, pack

NAN, INF = float("nan"), float("inf")

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 5,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "bos_token_id": 0,
    "eos_token_id": [1, 2],
    "tie_word_embeddings": True,
}
GPT2 = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 1,
    "n_head": 4,
    "n_positions": 64,
    "vocab_size": 5,
    "layer_norm_epsilon": 1e-5,
}
WEIGHTS = pack({"w": entry()})
SECOND = pack({"v": entry()})


class Case(NamedTuple):
    """A folder and what its error must say."""

    name: str
    files: dict[str, Any]
    fragments: tuple[str, ...]
    links: dict[str, str] = {}  # noqa: RUF012


def folder(config: Any = LLAMA, **files: Any) -> dict[str, Any]:
    """A folder with one file of weights; underscores in names of arguments stand for dots."""
    return {"config.json": config, "model.safetensors": WEIGHTS} | files


_WHOLE = (0, -1, 2**31, 2**64, 1.5, NAN, "32", True, [], {}, None)
_REAL = (0, 0.0, -1e-5, NAN, INF, -INF, "1e-5", True, [], {}, 1e300)
# Field -> values that no model may have. None is left out where the field has a default.
BAD_LLAMA: dict[str, tuple[Any, ...]] = {
    "hidden_size": (*_WHOLE, 33, 30),
    "intermediate_size": _WHOLE,
    "num_hidden_layers": (*_WHOLE, 10**9),
    "num_attention_heads": (*_WHOLE, 5, 3),
    "num_key_value_heads": (*_WHOLE[:-1], 3, 5, 8),
    "head_dim": (*_WHOLE[:-1], 1, 7),
    "vocab_size": (*_WHOLE, 10**9),
    "max_position_embeddings": _WHOLE,
    "rms_norm_eps": _REAL,
    "rope_theta": _REAL,
    "tie_word_embeddings": (0, 1, "yes", []),
    "attention_bias": (1, "no"),
    "mlp_bias": (1, {}),
    "hidden_act": ("tanhh", "", 7, [], "silu; import os"),
    "partial_rotary_factor": (0.5, 2, NAN),
    "bos_token_id": (-1, 5, 1.0, "0", True, {}, [5]),
    "eos_token_id": (-1, 5, [0, 9], [True], [[1]], [0] * 2000),
    "model_type": (None, "", "mamba", 7, ["llama"], "llama\x1b[2J"),
    "quantization_config": ({"quant_method": "gptq"}, 1),
    "rope_parameters": (1, [], "linear"),
}
# The same for what other families add.
_CAPS = (0, -1.0, NAN, INF, "50", True, [])
RELATIVES: dict[str, tuple[dict[str, Any], dict[str, tuple[Any, ...]]]] = {
    "mistral": ({}, {"sliding_window": _WHOLE[:-1], "head_dim": (7, 0)}),
    "qwen2": (
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
        {
            "use_sliding_window": (1, "yes"),
            "sliding_window": _WHOLE[:-1],
            "max_window_layers": (-1, 1.5, "0", True),
            "layer_types": ("full_attention", 7, ["chunked_attention"], [7], [], ["full_attention"] * 2, [[]]),
        },
    ),
    "qwen3": ({}, {"attention_bias": (1, "no"), "head_dim": (7, -2), "layer_types": (["sliding_attention"],)}),
    "gemma": ({}, {"hidden_act": ("silu", 7), "use_bidirectional_attention": (True, 1)}),
    "gemma2": (
        {},
        {
            "attn_logit_softcapping": _CAPS,
            "final_logit_softcapping": _CAPS,
            "query_pre_attn_scalar": (0, -1, 1.5, NAN, "256", True),
            "sliding_window": _WHOLE[:-1],
            "hidden_activation": ("silu", []),
        },
    ),
    "gemma3_text": (
        {},
        {
            "rope_local_base_freq": _REAL,
            "sliding_window_pattern": (0, -6, 1.5, "6", True),
            "layer_types": ([], ["none"]),
            "rope_local_scaling": (7, {"type": "magic"}),
            "rope_parameters": ({"full_attention": 7}, {"sliding_attention": [1]}),
        },
    ),
}
NEOX = {name: value for name, value in LLAMA.items() if name not in ("num_key_value_heads", "rms_norm_eps")} | {
    "model_type": "gpt_neox"
}
BAD_NEOX: dict[str, tuple[Any, ...]] = {
    "hidden_size": (*_WHOLE, 33, 36),
    "layer_norm_eps": _REAL,
    "rotary_pct": (*_REAL, 0.01, 0.4, 2.0),
    "use_parallel_residual": (1, "yes"),
    "hidden_act": ("relu", 7),
}
BAD_GPT2: dict[str, tuple[Any, ...]] = {
    "n_embd": (*_WHOLE, 33),
    "n_layer": (*_WHOLE, 10**9),
    "n_head": (*_WHOLE, 5),
    "n_positions": _WHOLE,
    "n_inner": _WHOLE[:-1],
    "vocab_size": _WHOLE,
    "layer_norm_epsilon": _REAL,
    "activation_function": ("swiglu", 3),
    "scale_attn_weights": (False, 0),
    "scale_attn_by_inverse_layer_idx": (True, 1),
    "add_cross_attention": (True,),
}
BAD_SCALINGS: tuple[Any, ...] = (
    7,
    "linear",
    [],
    {},
    {"type": "magic", "factor": 2.0},
    {"rope_type": ["linear"]},
    {"type": "frequencies"},
    {"type": "frequencies", "factors": [1.0, NAN]},
    {"type": "linear"},
    {"type": "linear", "factor": 0},
    {"type": "linear", "factor": NAN},
    {"type": "linear", "factor": -2.0},
    {"type": "dynamic", "factor": "2"},
    {"rope_type": "llama3", "factor": 8.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 4.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 0},
    {"rope_type": "yarn", "factor": 4.0, "beta_fast": INF},
    {"rope_type": "longrope", "factor": 4.0},
)


def configs() -> Iterator[Case]:
    """One bad value in a good configuration; NaN and infinities are refused by the JSON reader already."""
    relatives = ((LLAMA | {"model_type": kind} | own, bad) for kind, (own, bad) in RELATIVES.items())
    for family, bad in ((LLAMA, BAD_LLAMA), (GPT2, BAD_GPT2), (NEOX, BAD_NEOX), *relatives):
        for field, values in bad.items():
            for index, value in enumerate(values):
                special = isinstance(value, float) and not -1e308 < value < 1e308
                named = (field,) if not special else ("Infinity" if value == INF or value == -INF else "NaN",)
                if field in ("num_attention_heads", "n_head", "num_key_value_heads") and value in (3, 5, 8):
                    named = ("heads",)
                yield Case(f"{family['model_type']} {field} {index}", folder(family | {field: value}), ("json", *named))
    for index, value in enumerate(BAD_SCALINGS):
        named = "NaN" if "nan" in repr(value) else "Infinity" if "inf" in repr(value) else "rope_scaling"
        yield Case(f"rope_scaling {index}", folder(LLAMA | {"rope_scaling": value}), (named,))
    for index, value in enumerate(
        (b"", b"[]", b"7", b"nul", b'"llama"', b'{"model_type": "llama",}', b"\xff\xfe{\0}\0")
    ):
        yield Case(f"config text {index}", folder(value), ("config.json",))
    yield Case("config twice", folder(b'{"model_type":"llama","model_type":"gpt2"}'), ("'model_type' stands twice",))
    yield Case("config deep", folder(b'{"a":' + b"[" * 200_000), ("nested", "at most 64"))
    yield Case("config of 9 MB", folder(b" " * (9 << 20)), ("JSON", "at most 8,388,608"))
    yield Case("no config", {"model.safetensors": WEIGHTS}, ("config.json",))


def indices() -> Iterator[Case]:
    """Sharded weights whose index leads out, is incomplete, or disagrees with the shards."""
    shards = {"config.json": LLAMA, "1.safetensors": WEIGHTS, "2.safetensors": SECOND}

    def case(name: str, weight_map: Any, *fragments: str, **files: Any) -> Case:
        content = weight_map if isinstance(weight_map, bytes) else {"weight_map": weight_map}
        return Case(name, shards | {"model.safetensors.index.json": content} | files, fragments)

    good = {"w": "1.safetensors", "v": "2.safetensors"}
    outside = ("../../etc/passwd", "/etc/passwd", "..", ".", "", "sub/1.safetensors", "..\\x", "a\0b", "\ud800", "C:x")
    for index, path in enumerate(outside):
        yield case(f"shard outside {index}", good | {"w": path}, "leads out of the folder")
    yield case("missing shard", good | {"w": "3.safetensors"}, "shard '3.safetensors' is missing", "'w'")
    yield case("tensor not in its shard", good | {"x": "1.safetensors"}, "tensor 'x'", "not in its shard")
    yield case("shards swapped", {"w": "2.safetensors", "v": "1.safetensors"}, "the index says")
    both = pack({"v": entry(), "w": entry(offsets=(24, 48))}, bytes(48))
    yield case("tensor in two shards", good, "stands in", "the index says", **{"2.safetensors": both})
    for index, bad in enumerate(([], "x", None, {"w": 1}, {"w": ["1.safetensors"]})):
        yield case(f"weight map {index}", bad, "'weight_map'")
    for index, text in enumerate((b"", b"[]", b'{"weight_map":{"w":"a","w":"b"}}', b"\xff")):
        yield case(f"index text {index}", text, "model.safetensors.index.json")
    yield case("bad shard", good, "1.safetensors", "header", **{"1.safetensors": b"\xff" * 20})
    yield Case(
        "only pickled weights",
        {"config.json": LLAMA, "pytorch_model.bin": b"PK\3\4"},
        ("only pytorch_model.bin", "can run code and are never read"),
    )
    yield Case("no weights", {"config.json": LLAMA}, ("no weights",))


def links() -> Iterator[Case]:
    """Symbolic links that lead out of the folder."""
    for name in ("config.json", "model.safetensors"):
        files = {key: value for key, value in folder().items() if key != name}
        for target in ("/etc/passwd", "../outside"):
            yield Case(f"{name} -> {target}", files, ("leads out of the folder",), {name: target})
    looped = {key: value for key, value in folder().items() if key != "config.json"}
    yield Case("a link to itself", looped, ("config.json",), {"config.json": "config.json"})


def side_files() -> Iterator[Case]:
    """Files beside the weights, read when they are asked for."""
    for name in ("tokenizer_config.json", "generation_config.json", "chat_template.json"):
        for index, text in enumerate((b"", b"[]", b'{"a":NaN}', b'{"a":1,"a":2}', b"[" * 100_000, b"\xff")):
            yield Case(f"{name} {index}", folder(**{name: text}), (name,))
    yield Case("template not UTF-8", folder(**{"chat_template.jinja": b"\xff"}), ("chat_template.jinja", "not UTF-8"))
    large = b"x" * ((1 << 20) + 1)
    yield Case("template of 1 MB", folder(**{"chat_template.jinja": large}), ("1,048,577 bytes", "at most 1,048,576"))
    for index, value in enumerate((7, {"a": 1}, [{"name": "default", "template": 7}], "x" * 1_100_000)):
        tokenizer = {"chat_template": value}
        yield Case(f"template {index}", folder(**{"tokenizer_config.json": tokenizer}), ("'chat_template'",))
    yield Case("tokenizer.json not UTF-8", folder(**{"tokenizer.json": b"\xff\xff"}), ("tokenizer.json", "not UTF-8"))


def all_cases() -> list[Case]:
    """Every case; names are unique."""
    return [case for group in (configs, indices, links, side_files) for case in group()]
