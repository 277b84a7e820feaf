"""Habits of transformers' configurations: config.model_type, config.to_dict()."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any


class Settings:
    """What the configurations of all families have."""

    @property
    def model_type(self) -> str:
        """The family's name in config.json."""
        return type(self).__module__.rpartition(".")[2]

    def to_dict(self) -> dict[str, Any]:
        """All fields, and model_type."""
        return {"model_type": self.model_type, **asdict(self)}  # type: ignore[call-overload]
