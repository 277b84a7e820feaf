"""The picture of a search for the learning rate: loss over rate, on a logarithmic axis."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from pyllm.evaluate.curves import HEIGHT, WIDTH, Line, curves
from pyllm.formats.writing import Staging

_STYLE = "text{font:11px sans-serif}.grid{stroke:#8884;stroke-width:.5}:root{--a:#1f6fb2;--b:#c4501b}"


def draw(lrs: Sequence[float], losses: Sequence[float], steep: float, path: str | os.PathLike[str]) -> None:
    """Write an SVG file, one of the same name is replaced. steep: marked. Raises ModelFileError, ValueError for another
    kind of file."""
    name = os.fspath(path)
    if not name.endswith(".svg"):
        raise ValueError(f"plot: {name}: allowed are files ending .svg")
    points = [(math.log10(lr), loss) for lr, loss in zip(lrs, losses, strict=True)]
    at = (math.log10(steep), losses[list(lrs).index(steep)])
    lines = [Line("loss", points), Line(f"{steep:.2g}", [at], dots=True)]
    figure = curves("loss over learning rate", lines, "loss", "log10 of the learning rate")
    drawn = figure[figure.index("<svg") : figure.index("</svg>")]
    drawn = drawn.replace("<svg", "<svg xmlns='http://www.w3.org/2000/svg'")
    size = f" width='{WIDTH}' height='{HEIGHT}'>"
    head, _, rest = drawn.partition(">")
    with Staging(os.path.dirname(name) or ".") as staging, staging.create(os.path.basename(name)) as file:
        file.write(f"{head}{size}<style>{_STYLE}</style>{rest}</svg>\n".encode())
