"""What Hugging Face calls the parameters of a model, by NAMES of its family."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from pyllm.nn.module import Module


def name_in_files(model: Module, path: str, family: Any = None, column: int = 0) -> str:
    """`^name#part/parts@kind` of the parameter at a path, as NAMES says: column 0 of folders, 1 of GGUF files."""
    family = import_module(type(model).__module__) if family is None else family
    template = re.sub(r"\.\d+\.", ".{}.", path)
    base, _, kind = template.rpartition(".")
    names = getattr(model, "NAMES", family.NAMES)  # of a family whose variants differ in them
    name = names[template][column] if template in names else f"{names[base][column]}@{kind}"
    named = getattr(model, "name_of", str)
    found: str = named(name.format(*re.findall(r"\.(\d+)(?=\.)", path)))
    return found


def module_of(model: Module, path: str) -> str:
    """Hugging Face's path of the module that has the parameter at a path."""
    name = re.split("[#%@]", name_in_files(model, path))[0].lstrip("^+")
    return name.removesuffix(".weight").removesuffix(".bias")


def same_module(one: str, other: str) -> bool:
    """Whether two paths are of one module, of which either may lack the family's prefix."""
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")
