"""How gradients change weights: AdamW, Adafactor, SGD, NT-ASGD; learning rates by step; clipping. PyTorch's names."""

from pyllm.optim.adafactor import Adafactor
from pyllm.optim.optimizers import NTASGD, SGD, AdamW, Optimizer, clip_grad_norm_
from pyllm.optim.schedules import constant, cosine, inverse_sqrt, linear, one_cycle, schedule, slanted_triangular

__all__ = [
    "NTASGD",
    "SGD",
    "Adafactor",
    "AdamW",
    "Optimizer",
    "clip_grad_norm_",
    "constant",
    "cosine",
    "inverse_sqrt",
    "linear",
    "one_cycle",
    "schedule",
    "slanted_triangular",
]
