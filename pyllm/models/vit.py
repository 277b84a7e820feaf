"""ViT: an encoder that reads patches of an image as words. Dosovitskiy et al. 2021, arXiv:2010.11929."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pyllm import nn, ops
from pyllm.models.encoder import Encoder, LabelledConfig, Shown
from pyllm.models.encoder_heads import HeadOutput
from pyllm.models.heads import loss_of
from pyllm.models.outputs import check_return_dict
from pyllm.tensor import Array

_LAYER = "vit.encoder.layer.{}"
# Parameter path -> name in Hugging Face folders, ""; {} is the layer.
NAMES = {
    "first": ("vit.embeddings.cls_token", ""),
    "positions": ("vit.embeddings.position_embeddings", ""),
    "patches": ("vit.embeddings.patch_embeddings.projection.weight", ""),
    "patches_bias": ("vit.embeddings.patch_embeddings.projection.bias", ""),
    "layers.{}.attention.q": (f"{_LAYER}.attention.attention.query", ""),
    "layers.{}.attention.k": (f"{_LAYER}.attention.attention.key", ""),
    "layers.{}.attention.v": (f"{_LAYER}.attention.attention.value", ""),
    "layers.{}.attention.o": (f"{_LAYER}.attention.output.dense", ""),
    "layers.{}.attention_norm": (f"{_LAYER}.layernorm_before", ""),
    "layers.{}.feed_forward.up": (f"{_LAYER}.intermediate.dense", ""),
    "layers.{}.feed_forward.down": (f"{_LAYER}.output.dense", ""),
    "layers.{}.feed_forward_norm": (f"{_LAYER}.layernorm_after", ""),
    "norm": ("vit.layernorm", ""),
    "head.score": ("classifier", ""),
}
ROTATED = ()
IGNORED = ()


@dataclass(frozen=True)
class Config(LabelledConfig):
    """Hugging Face's fields. image_size: pixels of a side, of which patch_size make a side of a patch."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    layer_norm_eps: float = 1e-12
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3

    @property
    def patches(self) -> int:
        """Of an image."""
        return (self.image_size // self.patch_size) ** 2


class ImageHead(nn.Module):
    """score(norm(first row)) of each image."""

    task, pooled = "ForImageClassification", False

    def __init__(self, c: Config) -> None:
        self.score = nn.Linear(c.hidden_size, c.num_labels, bias=True)


class ViT(Encoder):
    """Patches as rows behind a row of its own, whose last value the head is given; places learned; pre-norm."""

    prefix = "vit."
    heads: ClassVar[dict[str, Callable[[Any], Any]]] = {"ForImageClassification": ImageHead}

    def __init__(self, c: Config, task: str = "ForImageClassification") -> None:
        self.config = c
        width, spread = c.hidden_size, c.initializer_range
        self.first = nn.Parameter(1, 1, width, spread=spread)
        self.positions = nn.Parameter(1, c.patches + 1, width, spread=spread)
        self.patches = nn.Parameter(width, c.num_channels, c.patch_size, c.patch_size, spread=spread)
        self.patches_bias = nn.Parameter(width)
        self.dropout = nn.Dropout(c.hidden_dropout_prob, "embedding")
        sizes = width, c.num_attention_heads, c.intermediate_size, c.hidden_act
        rest = c.layer_norm_eps, nn.Rates(c.hidden_dropout_prob, c.attention_probs_dropout_prob), nn.pre_norm
        self.layers = [nn.encoder_layer(f"layers.{i}", *sizes, *rest) for i in range(c.num_hidden_layers)]
        self.norm = nn.LayerNorm(width, c.layer_norm_eps)
        self.head = self.heads[task](c)

    @property
    def context_length(self) -> int:
        """Rows of an image."""
        return int(self.config.patches + 1)

    def cut(self, images: Any) -> Array:
        """Pixels (images, channels, height, width) as patches (images, patches, channels p p). Raises ValueError."""
        c, pixels = self.config, np.asarray(images, np.float32)
        side, p = c.image_size, c.patch_size
        if pixels.ndim != 4 or pixels.shape[1:] != (c.num_channels, side, side) or not len(pixels):
            allowed = f"(images, {c.num_channels}, {side}, {side})"
            raise ValueError(f"model: pixel_values {pixels.shape}, allowed are {allowed}")
        rows = pixels.reshape(len(pixels), c.num_channels, side // p, p, side // p, p).transpose(0, 2, 4, 1, 3, 5)
        return np.ascontiguousarray(rows).reshape(len(pixels), c.patches, -1)

    def embedded(self, batch: Any) -> Any:
        """Images as rows (images (patches + 1), width): a product of every patch, the first row, places added."""
        patches, width = self.cut(batch), self.config.hidden_size
        x = ops.linear(patches, ops.reshape(self.patches.value, (width, -1)), self.patches_bias.value)
        first = ops.embedding(np.zeros(len(patches), np.int32), ops.reshape(self.first.value, (1, width)))
        x = ops.concatenate([ops.reshape(first, (-1, 1, width)), x], axis=1)
        rows = ops.reshape(x, (-1, width))
        places = np.tile(np.arange(self.context_length, dtype=np.int32), len(patches))
        return self.dropout(ops.add(rows, ops.embedding(places, ops.reshape(self.positions.value, (-1, width)))))

    def logits(self, images: Any, own: Any = None, seen: list[Any] | None = None) -> Any:
        """(images, classes); own and seen as Encoder.rows takes them."""
        own = nn.Own(self.starts(len(images))) if own is None else own
        x = self.through(self.watch("embedding", self.embedded(images)), own, seen)
        first = ops.take_rows(x, self.starts(len(images))[:-1].astype(np.int64))
        return self.watch("logits", self.head.score(self.norm(first)))

    def starts(self, images: int) -> NDArray[np.int32]:
        """Where the rows of each image begin, and how many there are."""
        return np.arange(images + 1, dtype=np.int32) * np.int32(self.context_length)

    def __call__(  # type: ignore[override]
        self,
        pixel_values: Any,
        labels: Any = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool | None = None,
    ) -> HeadOutput:
        """logits (images, classes); loss of labels (images,), or (images, classes) for several classes at once.

        attentions (images, heads, rows, rows) of every layer; hidden_states (images, rows, width), the embeddings' too.
        """
        check_return_dict(return_dict)
        own = Shown(self.starts(len(pixel_values))) if output_attentions else None
        seen: list[Any] | None = [] if output_hidden_states else None
        scores = self.logits(pixel_values, own, seen)
        shape = len(pixel_values), self.context_length, -1
        hidden = None if seen is None else tuple(ops.reshape(each, shape) for each in seen)
        attentions = None if own is None else tuple(np.stack(each) for each in own.layers)
        return HeadOutput(scores, None if labels is None else loss_of(self.config, scores, labels), hidden, attentions)

    def loss(self, tokens: Any, targets: Any, types: Any = None, **more: Any) -> Any:
        """What the configuration's problem_type says, of targets as __call__ takes labels; tokens: pixels."""
        return loss_of(self.config, self.logits(tokens), targets)

    def training_flops(self) -> float:
        """Of an image: it is what a run counts as a token."""
        return self.context_length * super().training_flops()


Model = ViT
