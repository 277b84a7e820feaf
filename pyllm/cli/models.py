"""List the model families: year, paper, encoder or decoder, objective, file; and the models at hand."""

from __future__ import annotations

import argparse
import os
import textwrap
from typing import Any

from pyllm.cli import options, output
from pyllm.errors import printable
from pyllm.models.catalogue import FAMILIES
from pyllm.models.presets import PRESETS

_WIDTH = 110


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`pyllm models [--json]`."""
    options.add_json(parser)


def at_hand() -> list[dict[str, Any]]:
    """The model files in the cache folder."""
    from pyllm.formats import download

    folder = download.home()
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".gguf"))
    except OSError:
        return []
    paths = [os.path.join(folder, name) for name in names]
    return [{"path": path, "bytes": os.path.getsize(path)} for path in paths if os.path.isfile(path)]


def run(args: argparse.Namespace) -> int:
    """Print the catalogue."""
    files = at_hand()
    families = [
        family._asdict() | {"sizes": [key for key, preset in PRESETS.items() if preset.family == family.name]}
        for family in FAMILIES
    ]
    lines: list[str] = []
    for family in FAMILIES:
        lines.append(f"{family.year}  {family.name:<20} {family.kind:<20} {family.file}")
        lines += textwrap.wrap(family.paper, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
        lines.append(f"      predicts: {family.objective}")
    lines += ["", "sizes that `pyllm params` counts: " + ", ".join(PRESETS)]
    if files:
        lines += ["", *(f"{printable(file['path'])}  {output.size(file['bytes'])}" for file in files)]
    return output.facts(args, {"families": families, "files": files}, "\n".join(lines))
