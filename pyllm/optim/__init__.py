"""How gradients change weights: AdamW and SGD, learning-rate schedules, clipping. PyTorch's names and formulas."""

from pyllm.optim.optimizers import SGD, AdamW, Optimizer, clip_grad_norm_
from pyllm.optim.schedules import constant, cosine, inverse_sqrt, linear, one_cycle, schedule

__all__ = [
    "SGD",
    "AdamW",
    "Optimizer",
    "clip_grad_norm_",
    "constant",
    "cosine",
    "inverse_sqrt",
    "linear",
    "one_cycle",
    "schedule",
]
