"""Run and train language models on CPUs."""

__version__ = "0.1.0"
