"""The modern Transformer baseline: RoPE, RMSNorm, SwiGLU, optional grouped-query heads.

Llama's block (Touvron et al. 2023, arXiv 2302.13971), attention by PyTorch's fused kernels. It is
meant to be the best baseline the machine can run: a weak one would make every conclusion worthless.
With `window`, every layer attends to that many tokens only (Jiang et al. 2023, arXiv 2310.06825):
as linear as an RWKV, and a control for what linear cost alone is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.contract import State
from models.decoding.program import Program
from models.layers.attention_block import (
    Attention,
    AttentionBlock,
    AttentionTrunk,
    check_config,
    rope_table,
)
from models.layers.trunk import Stream, linear_flops
from models.ops.elementwise import cpu
from models.ops.elementwise.fused import fused


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

    def __post_init__(self) -> None:
        check_config(self)


@fused(cpu.rms_norm, x="... C", weight="C")
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, the mean over C."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


@fused(cpu.swiglu, x="... 2*F")
def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up, `[.., F]`, for x = (gate, up)."""
    gate, up = x.chunk(2, dim=-1)  # [.., F] each
    return F.silu(gate) * up


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.ones(config.n_embd))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)  # [B, T, C]


class FeedForward(nn.Module):
    """SwiGLU: W_down (silu(W_gate x) * W_up x) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.n_ffn or 3 * config.n_embd
        self.gate_up = nn.Linear(config.n_embd, 2 * width, bias=False)
        self.down = nn.Linear(width, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, T, C]` to `[B, T, C]`."""
        return self.down(swiglu(self.gate_up(x)))  # through [B, T, 2 F] and [B, T, F]

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        return sum(linear_flops(layer, batch * length) for layer in (self.gate_up, self.down))

    def step(self, p: Program, x: Tensor, norm: nn.Module, layer: int) -> None:
        (y,) = p.norm(x, norm)
        hidden = p.buffer("hidden", self.down.in_features)
        n = [self.gate_up.in_features, self.down.in_features]
        p.emit("swiglu", n, [y, self.gate_up.weight, hidden])
        p.linear(hidden, self.down, x, sink="add")


class Transformer(AttentionTrunk):
    """Embedding, L blocks, RMSNorm, head; positions enter as rotations of queries and keys."""

    Config = TransformerConfig
    title = "the Transformer"
    options = ("attention", "window")

    def build_block(self, layer: int) -> AttentionBlock:
        c = self.config
        sizes = (c.n_embd, c.n_head, c.n_kv_head)
        att = Attention(*sizes, c.attention, window=c.window, rope_base=c.rope_base)
        return AttentionBlock(c, att, FeedForward(c), RMSNorm)

    def build_norm(self) -> RMSNorm:
        return RMSNorm(self.config)

    def embed(self, tokens: Tensor, state: State | None) -> Stream:
        length, head_size = tokens.shape[1], self.config.n_embd // self.config.n_head
        past = self.first_position(state, length)
        x = self.emb(tokens)  # [B, T, C]
        return x, (past, rope_table(past, length, head_size, self.config.rope_base, x))
