"""Looking at a model from outside: its next words, its speed; at a training run: its report."""

from pyllm.evaluate.pages import Report, report

__all__ = ["Report", "report"]
