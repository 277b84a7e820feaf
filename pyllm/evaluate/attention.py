"""Every head of every layer for one text, as one HTML page that fetches nothing.

page = attention_page(model, tokenizer, "My name is Sunny")
page.save("attention.html")
"""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyllm.evaluate.attention_script import HEAD, SCRIPT, STYLE
from pyllm.evaluate.pages import Report, text
from pyllm.models.attentions import Weights, causal_attentions, traced
from pyllm.models.encoder import Encoder

MOST_WEIGHTS = 6_000_000  # of a page, a byte each
TITLES = {"encoder": "encoder over itself", "decoder": "decoder over itself", "cross": "decoder over the encoder"}


class Map(NamedTuple):
    """One kind of attention: every layer's (heads, queries, keys); the tokens that look and those that are seen."""

    kind: str
    layers: list[Weights]
    queries: list[str]
    keys: list[str]

    @property
    def heads(self) -> int:
        """All of them."""
        return sum(len(layer) for layer in self.layers)


def attention_maps(model: Any, tokenizer: Any, source: str, target: str | None = None) -> list[Map]:
    """What a model looks at while it reads a text; an encoder-decoder: and says a target, its own unless given.

    Raises ValueError for a model without attention, for an empty text, for one of so many tokens that there are more
    than 6,000,000 weights, and for a target of a model that has none.
    """
    ids = [int(i) for i in tokenizer.encode(source)]
    pairs = hasattr(model, "cross_weights")
    refuse_large(model, len(ids))
    if target is not None and not pairs:
        raise ValueError(f"attention: a target for {type(model).__name__}, allowed for encoder-decoders")
    if not ids:
        raise ValueError("attention: the text has no tokens, allowed is one at least")
    if pairs:
        return _of_pairs(model, tokenizer, source, target)
    names = labels(tokenizer, ids)
    if isinstance(model, Encoder):
        return [Map("encoder", [layer[0] for layer in model([ids], output_attentions=True).attentions], names, names)]
    return [Map("decoder", causal_attentions(model, np.array(ids, np.int32)), names, names)]


def _of_pairs(model: Any, tokenizer: Any, source: str, target: str | None) -> list[Map]:
    from pyllm.evaluate.translation import source_of

    ids = source_of(tokenizer, source)
    if target is None:
        said = [int(i) for i in model.generate([ids])[0]]
        said = said[1:] if said[:1] == [model.start_id] else said
    else:
        said = [int(i) for i in tokenizer.target.encode(target, add_special_tokens=False)]
    refuse_large(model, max(len(ids), len(said) + 1))
    found = traced(model, ids, [model.start_id, *said])
    if not found:
        raise ValueError(f"attention: {type(model).__name__} has no attention, allowed are models with it")
    names = {"encoder": labels(tokenizer, ids), "decoder": labels(tokenizer, [model.start_id, *said])}
    sides = {"encoder": ("encoder", "encoder"), "decoder": ("decoder", "decoder"), "cross": ("decoder", "encoder")}
    return [Map(kind, found[kind], *(names[side] for side in sides[kind])) for kind in sides if kind in found]


def refuse_large(model: Any, tokens: int) -> None:
    """Raise ValueError where the weights of all heads are too many, before any is computed."""
    parts = list(getattr(model, "layers", ())) or [part for _, part in model.named_modules() if hasattr(part, "heads")]
    heads = sum(getattr(part, "attention", part).heads for part in parts)  # a layer that runs again counts again
    if heads * tokens**2 > MOST_WEIGHTS:
        longest = int((MOST_WEIGHTS / heads) ** 0.5)
        found = f"{tokens:,} tokens in {heads:,} heads are {heads * tokens**2:,} weights"
        raise ValueError(f"attention: {found}, allowed are {MOST_WEIGHTS:,}: {longest:,} tokens; shorten the text")


def labels(tokenizer: Any, ids: list[int]) -> list[str]:
    """The tokens as they are written, spaces and all."""
    return [tokenizer.token_bytes(i).decode("utf-8", "replace") for i in ids]


def attention_page(model: Any, tokenizer: Any, source: str, target: str | None = None) -> Report:
    """The page of attention_maps: grids of all heads, each in full at a click, the text under the pointer shaded.

    Weights are rounded to 1/255. Raises ValueError as attention_maps.
    """
    maps = attention_maps(model, tokenizer, source, target)
    about = [
        {
            "title": TITLES[each.kind] if len(maps) > 1 else "",
            "queries": each.queries,
            "keys": each.keys,
            "layers": [encoded(layer) for layer in each.layers],
            "heads": [len(layer) for layer in each.layers],
        }
        for each in maps
    ]
    name = model.name_or_path or type(model).__name__
    data = json.dumps(about, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    body = f"<h1>{text(name, 300)}</h1><p class='text'>{text(source, 5000)}</p><div id='page'></div>"
    html = (
        f"{HEAD}<title>Attention</title><style>{STYLE}</style></head><body>{body}"
        f"<script type='application/json' id='data'>{data}</script><script>{SCRIPT}</script></body></html>\n"
    )
    facts = {each.kind: {"layers": len(each.layers), "heads": each.heads, "tokens": len(each.keys)} for each in maps}
    return Report(html, facts)


def encoded(layer: Weights) -> str:
    """round(255 w) of every weight, in order, as base64."""
    whole: NDArray[np.uint8] = np.rint(layer * 255).clip(0, 255).astype(np.uint8)
    return base64.b64encode(whole.tobytes()).decode()
