"""How gradients change weights: AdamW, Adam, Adafactor, SGD, RMSprop, NT-ASGD; learning rates by step; clipping."""

from pyllm.optim import lr_scheduler
from pyllm.optim.adafactor import Adafactor
from pyllm.optim.adam import Adam, RMSprop
from pyllm.optim.optimizers import NTASGD, SGD, AdamW, Optimizer, clip_grad_norm_
from pyllm.optim.schedules import constant, cosine, inverse_sqrt, linear, one_cycle, schedule, slanted_triangular

__all__ = [
    "NTASGD",
    "SGD",
    "Adafactor",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "clip_grad_norm_",
    "constant",
    "cosine",
    "inverse_sqrt",
    "linear",
    "lr_scheduler",
    "one_cycle",
    "schedule",
    "slanted_triangular",
]
