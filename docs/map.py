"""Draw docs/map.svg: the rooms of pyllm in the order in which they call each other. Run: python docs/map.py"""

from pathlib import Path

INK, PAPER, PYTHON, CPP, SIDE = "#1f2933", "#ffffff", "#dbeafe", "#fde8d0", "#e7f3e4"

# (room, what it knows), top row from the user inwards; then the C++ rooms; then the springs beside them.
PYTHON_ROOMS = [
    ("cli", "flags"),
    ("generate", "next token"),
    ("auto", "files to models"),
    ("models", "LLaMA, GPT-2"),
    ("nn", "parts, state"),
    ("ops", "one operation"),
]
CPP_ROOMS = [
    ("bindings", "arrays, GIL"),
    ("engine", "record, replay"),
    ("kernels", "one file per op"),
    ("simd", "lanes, bits"),
    ("core", "CPU, memory"),
]
SIDE_ROOMS = [
    ("formats", "GGUF, safetensors"),
    ("text", "tokens, templates"),
    ("evaluate", "words, speed"),
]
WIDTH, BOX, HEIGHT, GAP = 920, 132, 54, 16


def box(x: float, y: float, name: str, caption: str, fill: str) -> str:
    """One room: a box, its name, its caption."""
    middle = x + BOX / 2
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{BOX}" height="{HEIGHT}" rx="8" fill="{fill}" stroke="{INK}"/>'
        f'<text x="{middle:g}" y="{y + 23:g}" font-weight="bold">{name}</text>'
        f'<text x="{middle:g}" y="{y + 42:g}" font-size="12">{caption}</text>'
    )


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line with a head."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{INK}" marker-end="url(#head)"/>'


def row(rooms: list[tuple[str, str]], y: float, fill: str, linked: bool) -> list[str]:
    """Boxes side by side, centred; with arrows between them if one calls the next."""
    start = (WIDTH - len(rooms) * BOX - (len(rooms) - 1) * GAP) / 2
    parts = []
    for i, (name, caption) in enumerate(rooms):
        x = start + i * (BOX + GAP)
        parts.append(box(x, y, name, caption, fill))
        if linked and i:
            parts.append(arrow(x - GAP, y + HEIGHT / 2, x - 2, y + HEIGHT / 2))
    return parts


def label(y: float, words: str) -> str:
    """A line of text over a row."""
    return f'<text x="{WIDTH / 2:g}" y="{y:g}" font-size="13">{words}</text>'


def draw() -> str:
    """The whole picture as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 342" font-family="sans-serif" font-size="15" '
        f'text-anchor="middle" fill="{INK}">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{INK}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="342" rx="10" fill="{PAPER}"/>',
        label(26, "Python assembles: each room calls only the rooms to its right"),
        *row(PYTHON_ROOMS, 38, PYTHON, True),
        arrow(WIDTH / 2, 94, WIDTH / 2, 124),
        label(142, "C++ runs: the same kernels built once per instruction set, chosen when pyllm is imported"),
        *row(CPP_ROOMS, 154, CPP, True),
        label(254, "Beside them: what knows no model, and what looks at a model from outside"),
        *row(SIDE_ROOMS, 266, SIDE, False),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("map.svg").write_text(draw(), encoding="utf-8")
