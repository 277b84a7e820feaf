"""What a configuration may say of rotary positions that are stretched for longer contexts."""

from __future__ import annotations

import math
from typing import Any

from pyllm.errors import printable
from pyllm.formats.fields import Field, Raw, check_field

_FACTOR = Field("factor", "float", 1.0, 1e4)
_ORIGINAL = Field("original_max_position_embeddings", "int", 1, 1 << 27, None)
SCALINGS = {
    "linear": (_FACTOR,),
    "dynamic": (_FACTOR,),
    "llama3": (
        _FACTOR,
        Field("low_freq_factor", "float", 1e-3, 1e4),
        Field("high_freq_factor", "float", 1e-3, 1e4),
        Field("original_max_position_embeddings", "int", 1, 1 << 27),
    ),
    "yarn": (
        _FACTOR,
        _ORIGINAL,
        Field("attention_factor", "float", 1e-3, 1e3, None),
        Field("beta_fast", "float", 1e-3, 1e4, 32.0),
        Field("beta_slow", "float", 1e-3, 1e4, 1.0),
        Field("mscale", "float", 0.0, 1e3, None),
        Field("mscale_all_dim", "float", 0.0, 1e3, None),
        Field("truncate", "bool", default=True),
    ),
    "longrope": (
        Field("factor", "float", 1.0, 1e4, None),
        _ORIGINAL,
        Field("attention_factor", "float", 1e-3, 1e3, None),
    ),
}


def check_scaling(raw: Raw, config: dict[str, Any], name: str = "rope_scaling") -> dict[str, Any] | None:
    """None, or {"type": linear | dynamic | llama3 | yarn | longrope | frequencies, and the fields of that type}.

    "context" of dynamic and longrope is how many positions they are chosen for: those of the trained or original one.
    """
    value = raw.values.get(name)
    if value is None:
        return None
    if not isinstance(value, dict):
        raw.refuse(name, printable(repr(value), 100), "an object or null")
    kind = value.get("rope_type", value.get("type"))
    if kind == "default":
        return None
    if kind == "frequencies":
        factors = _check_factors(raw, value.get("factors"), config["head_dim"] // 2, name)
        return {"type": "frequencies", "factors": factors}
    if not isinstance(kind, str) or kind not in SCALINGS:
        raw.refuse(name, f"type {printable(repr(kind), 100)}", f"known are: default, {', '.join(SCALINGS)}")
    inner = Raw(
        raw.file,
        value,
        lambda each: raw.label(f"{name}.{each}"),
        lambda each: raw.offset(f"{name}.{each}"),
    )
    found = {"type": kind} | {field.name: check_field(inner, field) for field in SCALINGS[kind]}
    trained = config["max_position_embeddings"]
    if kind == "dynamic":
        found |= {"original_max_position_embeddings": trained, "context": trained}
    if "original_max_position_embeddings" in found and found["original_max_position_embeddings"] is None:
        outer = Field("original_max_position_embeddings", "int", 1, 1 << 27, None)  # where Phi's files have it
        found["original_max_position_embeddings"] = check_field(raw, outer) or trained
    if kind == "longrope":
        for each in ("short_factor", "long_factor"):
            found[each] = _check_factors(raw, value.get(each), config["head_dim"] // 2, f"{name}.{each}")
        original = found["original_max_position_embeddings"]
        found["context"] = min(original, trained)
        found["factor"] = max(trained / original, 1.0) if found["factor"] is None else found["factor"]
    if kind == "llama3" and found["high_freq_factor"] <= found["low_freq_factor"]:
        inner.refuse("high_freq_factor", found["high_freq_factor"], f"above low_freq_factor {found['low_freq_factor']}")
    return found


def _check_factors(raw: Raw, factors: Any, count: int, name: str) -> list[float]:
    """Numbers by which each of the `count` rotation frequencies is divided."""
    if not isinstance(factors, list) or not all(type(each) in (int, float) for each in factors):
        raw.refuse(name, "no list of frequency factors", "one number per pair of a head")
    if len(factors) != count:
        raw.refuse(name, f"{len(factors):,} frequency factors", f"{count:,}, half of head_dim")
    if not all(math.isfinite(each) and 1e-3 <= each <= 1e6 for each in factors):
        raw.refuse(name, "a frequency factor that is not finite or out of range", "0.001 to 1,000,000")
    return [float(each) for each in factors]
