"""The modern Transformer baseline: RoPE, RMSNorm, SwiGLU, optional grouped-query heads.

Llama's block (Touvron et al. 2023, arXiv 2302.13971), attention by PyTorch's fused kernels. It is
meant to be the best baseline the machine can run: a weak one would make every conclusion worthless.
With `window`, every layer attends to that many tokens only (Jiang et al. 2023, arXiv 2310.06825):
as linear as an RWKV, and a control for what linear cost alone is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError, shown
from models import layer_pattern
from models.contract import State
from models.decoding.program import Program
from models.layers.attention_block import (
    Attention,
    AttentionBlock,
    AttentionTrunk,
    Rotation,
    check_config,
    dropout,
    rope_table,
)
from models.layers.init import orthogonal_head
from models.layers.norms import RMSNorm
from models.layers.trunk import Stream, linear_flops
from models.ops.elementwise import kernels
from models.ops.elementwise.fused import fused

POSITIONS = ("rope", "nope")
"""Without positions the causal mask alone tells places apart (Kazemnejad et al. 2023, arXiv
2305.19466)."""


@dataclass(frozen=True)
class TransformerConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    n_head: int  # [H]
    n_kv_head: int | None = None  # [G], grouped-query attention; default H
    n_ffn: int | None = None  # [F]; default 3 C, which makes a block 13 C^2 like RWKV-4's
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    attention: str = "auto"  # auto | flash | efficient | cudnn | math
    window: int | None = None  # [W], tokens seen, itself included; default all
    head_size: int | None = None  # [N]; default C / H
    qkv_bias: bool | None = None  # of queries, keys and values; default none
    output_bias: bool | None = None  # of what attention adds to the stream; default none
    ffn_bias: bool | None = None  # in the feed-forward layer; default none
    rope_factor: float | None = None  # how much slower slow rotations are (Llama 3.1); default 1
    rope_low: float | None = None  # slow: fewer turns within rope_length tokens; default 1
    rope_high: float | None = None  # fast, and left alone: more turns than that; default 4
    rope_length: int | None = None  # tokens; default 8192
    qk_norm: bool | None = None  # norm of every query and key; default none
    dropout: float | None = None  # share of what enters the residual stream; default 0
    tie_embeddings: bool | None = None  # the head's weight is the embedding's; default false
    windows: str | None = None  # W of the layers, bottom up, again and again: 64*3,all
    emb_norm: bool | None = None  # norm of the embedding; default none
    emb_std: float | None = None  # of its first values; default 0.02
    zero_output: bool | None = None  # what is added to the stream begins as zero; default false
    orthogonal_head: bool | None = None  # as in an RWKV; default false
    n_conv: int | None = None  # [K], tokens that queries, keys and values are convolved over; none
    position: str | None = None  # how attention knows places: rope | nope; default rope

    def __post_init__(self) -> None:
        check_config(self)
        if self.windows is not None and self.window is not None:
            raise UserError(
                f"model.window={self.window} is for all layers, and model.windows={self.windows!r} "
                "for each: choose one"
            )
        if self.windows is not None:
            layer_pattern.windows(self.windows)
        if self.emb_std is not None and not self.emb_std > 0:
            raise UserError(f"model.emb_std={self.emb_std} must be positive")
        if self.position not in (None, *POSITIONS):
            raise UserError(
                f"model.position={shown(repr(self.position), 60)} is not one of "
                f"{', '.join(POSITIONS)}"
            )
        if self.n_conv is not None and self.n_conv < 1:
            raise UserError(f"model.n_conv={self.n_conv} must be 1 or more")
        turn = self.rotation
        if min(turn.factor, turn.length) <= 0 or not 0 < turn.low < turn.high:
            raise UserError(
                f"model.rope_factor={turn.factor} and model.rope_length={turn.length} must be "
                f"positive, and model.rope_low={turn.low} positive and below model.rope_high="
                f"{turn.high}"
            )
        if self.width_of_head % 2 or self.width_of_head < 1:
            raise UserError(
                f"heads of {self.width_of_head} channels cannot be rotated in pairs: choose "
                "model.n_embd, model.n_head or model.head_size so that they are even"
            )

    @property
    def width_of_head(self) -> int:
        """N."""
        return self.head_size or self.n_embd // self.n_head

    def window_of(self, layer: int) -> int | None:
        """W of one layer, counted from 0; None: it sees all tokens."""
        if self.windows is None:
            return self.window
        period = layer_pattern.windows(self.windows)
        return period[layer % len(period)]

    @property
    def rotates(self) -> bool:
        """Whether queries and keys are rotated."""
        return self.position != "nope"

    @property
    def rotation(self) -> Rotation:
        """How positions enter, where they are rotations."""
        return Rotation(
            self.rope_base,
            1.0 if self.rope_factor is None else self.rope_factor,
            1.0 if self.rope_low is None else self.rope_low,
            4.0 if self.rope_high is None else self.rope_high,
            8192 if self.rope_length is None else self.rope_length,
        )


@fused(kernels.swiglu, x="... 2*F")
def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up, `[.., F]`, for x = (gate, up)."""
    gate, up = x.chunk(2, dim=-1)  # [.., F] each
    return F.silu(gate) * up


class FeedForward(nn.Module):
    """SwiGLU: W_down (silu(W_gate x) * W_up x) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, n_embd: int, width: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_up = nn.Linear(n_embd, 2 * width, bias=bias)
        self.down = nn.Linear(width, n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, T, C]` to `[B, T, C]`."""
        return self.down(swiglu(self.gate_up(x)))  # through [B, T, 2 F] and [B, T, F]

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        return sum(linear_flops(layer, batch * length) for layer in (self.gate_up, self.down))

    def step(self, p: Program, x: Tensor, norm: nn.Module, layer: int) -> None:
        (y,) = p.norm(x, norm)
        hidden = p.swiglu(y, self.gate_up, "hidden")
        p.linear(hidden, self.down, x, sink="add")


class Transformer(AttentionTrunk):
    """Embedding, L blocks, RMSNorm, head; positions enter as rotations of queries and keys, if they
    do."""

    Config = TransformerConfig
    title = "the Transformer"
    options = (
        "attention", "window", "windows", "qk_norm", "dropout", "tie_embeddings",
        "emb_norm", "emb_std", "zero_output", "orthogonal_head", "n_conv", "position",
    )  # fmt: skip

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.ln_emb = self.build_norm() if config.emb_norm else None

    def initialise(self) -> None:
        super().initialise()
        c = self.config
        if c.emb_std is not None:
            nn.init.normal_(self.emb.weight, std=c.emb_std)
        if c.orthogonal_head:
            orthogonal_head(self.head)
        for name, parameter in self.named_parameters():
            if c.zero_output and name.endswith(("att.output.weight", "ffn.down.weight")):
                nn.init.zeros_(parameter)

    def build_block(self, layer: int) -> AttentionBlock:
        c = self.config
        sizes = (c.n_embd, c.n_head, c.n_kv_head)
        att = Attention(
            *sizes,
            c.attention,
            bool(c.qkv_bias),
            c.window_of(layer),
            c.rotation if c.rotates else None,
            c.head_size,
            bool(c.output_bias),
            (lambda size: RMSNorm(size, c.norm_eps)) if c.qk_norm else None,
            c.n_conv or 1,
        )
        ffn = FeedForward(c.n_embd, c.n_ffn or 3 * c.n_embd, bool(c.ffn_bias))
        return AttentionBlock(att, ffn, self.build_norm, c.dropout)

    def build_norm(self) -> RMSNorm:
        return RMSNorm(self.config.n_embd, self.config.norm_eps)

    def embed(self, tokens: Tensor, state: State | None) -> Stream:
        length, config = tokens.shape[1], self.config
        past = self.first_position(state, length)
        x = self.emb(tokens)  # [B, T, C]
        x = dropout(x if self.ln_emb is None else self.ln_emb(x), config.dropout, self)
        if not config.rotates:
            return Stream(x, (past, None))
        rope = rope_table(past, length, config.width_of_head, config.rotation, x)
        return Stream(x, (past, rope))

    def embed_step(self, program: Program, x: Tensor) -> None:
        super().embed_step(program, x)
        if self.ln_emb is not None:
            (normed,) = program.norm(x, self.ln_emb)
            program.emit("copy", [x.shape[1]], [normed, x])
