"""BART: a Transformer that learned to restore damaged texts. Lewis et al. 2019, arXiv:1910.13461.

Learned positions, a norm behind the embedding, layers as in 2017 with GELU, one table for both sides and the head, or
three where the configuration does not tie them; a constant bias is added to the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyllm import nn
from pyllm.models.attention_pair import AttentionPair
from pyllm.models.ragged import padding_of
from pyllm.models.settings import Settings

_SUBLAYERS = {"attention": "self_attn", "cross": "encoder_attn"}
_OURS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}
_TABLES = ("source", "encoder"), ("target", "decoder")
OFFSET = 2  # rows of a table of positions before the first place's


def _names() -> dict[str, tuple[str, str]]:
    """Parameter path -> name in folders; GGUF has no architecture for it."""
    names = {"shared": "model.shared", "head": "lm_head"}
    names |= {f"{name}_embedding": f"model.{side}.embed_tokens" for name, side in _TABLES}
    names["final_logits_bias"] = "final_logits_bias"
    for side, parts in (("encoder", ["attention"]), ("decoder", ["attention", "cross"])):
        theirs = f"model.{side}"
        names |= {f"{side}.positions": f"{theirs}.embed_positions", f"{side}.norm": f"{theirs}.layer_norm"}
        names[f"{side}.first_norm"] = f"{theirs}.layernorm_embedding"
        layer, theirs = f"{side}.layers.{{}}", f"{theirs}.layers.{{}}"
        for part in parts:
            names |= {f"{layer}.{part}.{ours}": f"{theirs}.{_SUBLAYERS[part]}.{name}" for ours, name in _OURS.items()}
            names[f"{layer}.{part}_norm"] = f"{theirs}.{_SUBLAYERS[part]}_layer_norm"
        names |= {f"{layer}.feed_forward.up": f"{theirs}.fc1", f"{layer}.feed_forward.down": f"{theirs}.fc2"}
        names[f"{layer}.feed_forward_norm"] = f"{theirs}.final_layer_norm"
    return {path: (name, "") for path, name in names.items()}


NAMES = _names()
ROTATED = ()
IGNORED = (r"(model\.)?(encoder|decoder)\.version",)
# (another name, the tensor that files may have under it too). Where tables are apart the shared one is of none, unless
# they are not there: before transformers 5 both sides have it.
COPIES = (
    *((f"model.{side}.embed_tokens.weight", "model.shared.weight") for _, side in _TABLES),
    ("lm_head.weight", "model.shared.weight"),
    *(("model.shared.weight", f"model.{side}.embed_tokens.weight") for _, side in _TABLES),
)


@dataclass(frozen=True)
class Config(Settings):
    """transformers' fields. dropout: of embeddings and of every sublayer's result, besides it attention_dropout of
    attention weights and activation_dropout inside of feed-forward; these and label_smoothing act only while it learns.
    """

    vocab_size: int
    d_model: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    activation_function: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    max_position_embeddings: int = 1024
    scale_embedding: bool = False
    tie_word_embeddings: bool = True
    label_smoothing: float = 0.0
    pad_token_id: Any = None
    bos_token_id: Any = None
    eos_token_id: Any = None
    decoder_start_token_id: Any = None
    forced_bos_token_id: Any = None
    forced_eos_token_id: Any = None
    task_specific_params: Any = None


class BART(AttentionPair):
    """Source and target tokens to logits of the next target token."""

    order: nn.Order = staticmethod(nn.post_norm)

    def __init__(self, c: Any) -> None:
        self.config = c
        self.embed(c)
        sides = (
            ("encoder", nn.encoder_layer, c.encoder_layers, c.encoder_attention_heads, c.encoder_ffn_dim),
            ("decoder", nn.decoder_layer, c.decoder_layers, c.decoder_attention_heads, c.decoder_ffn_dim),
        )
        self.encoder, self.decoder = (self.stack(*side) for side in sides)
        self.final_logits_bias = self.constant()

    def constant(self) -> nn.Buffer | None:
        """What is added to the logits, the same for every row."""
        return nn.Buffer(1, self.head.weight.shape[0])

    def embed(self, c: Any) -> None:
        """The tables and the head: all the same where they are tied, else three."""
        if c.tie_word_embeddings:
            self.source_embedding = self.table(c.vocab_size)
            self.target_embedding = self.head = self.source_embedding
        else:
            self.apart(c.vocab_size)

    def table(self, words: int) -> nn.Embedding:
        """Rows for so many words."""
        c = self.config
        scale = c.d_model**0.5 if c.scale_embedding else 1
        return nn.Embedding(words, c.d_model, scale=scale, padding_idx=padding_of(c, words))

    def apart(self, targets: int) -> None:
        """A table for each side, of so many target tokens; the head, which is the targets' where it is tied."""
        c = self.config
        self.source_embedding, self.target_embedding = self.table(c.vocab_size), self.table(targets)
        self.head = self.target_embedding if c.tie_word_embeddings else nn.Linear(c.d_model, targets, bias=False)

    def name_of(self, name: str) -> str:
        """A tensor's name in folders, where one table of both sides is the shared one."""
        one = self.source_embedding is self.target_embedding
        return name.replace("model.encoder.embed_tokens", "model.shared") if one else name

    def stack(self, side: str, layer: Any, count: int, heads: int, inner: int) -> nn.Stack:
        """One of the two: its layers, and what stands around them."""
        c = self.config
        rates = nn.Rates(c.dropout, c.attention_dropout, c.activation_dropout)
        sizes = c.d_model, heads, inner, c.activation_function, 1e-5, rates, self.order
        layers = [layer(f"{side}.layers.{i}", *sizes) for i in range(count)]
        return nn.Stack(layers, dropout=nn.Dropout(c.dropout, f"{side}.first"), **self.around())

    def around(self) -> dict[str, Any]:
        """A stack's positions, and its norms before and after the layers."""
        c = self.config
        positions = nn.Positions(c.max_position_embeddings, c.d_model, OFFSET)
        return {"positions": positions, "first_norm": nn.LayerNorm(c.d_model, 1e-5)}

    @property
    def _head_bias(self) -> Any:
        return None if self.final_logits_bias is None else self.final_logits_bias.array().reshape(-1)


Model = BART
