"""Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464) in the Transformer's block.

A delta rule like RWKV-7's, with one decay and one rate for a whole head and the keys removed where
they are written (equation 10):

    S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T          o_t = S_t q_t / sqrt(N)

It is computed as what it is a special case of, WKV-7 with w = ln alpha in every channel, a = -k,
b = alpha beta k and the written key beta k, by the same kernels: in chunks, by a triangular solve
in each (the WY form). Around it as published: a short convolution and silu on q, k and v, keys and
queries of unit length, alpha_t = exp(-e^A softplus(x W_a + b)), beta_t = sigmoid(x W_b), and
W_o (norm of heads(o) silu(x W_g)). Values are `expand_v` times as wide as keys: a head of them is
as many WKV heads with one key.

A token's state per layer is H N P numbers, P = `expand_v` N, and those that the convolution looks
back at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from models.contract import State
from models.layers.mixer_block import (
    MixerBlock,
    RecurrentMixerTrunk,
    ShortConvolution,
    log_decay,
    reset_decays,
)
from models.layers.norms import RMSNorm
from models.layers.rwkv_block import check_backend, check_rate_limit
from models.layers.trunk import Mixer, linear_flops
from models.ops.wkv import wkv7, wkv7_flops
from models.transformer import FeedForward


@dataclass(frozen=True)
class GatedDeltaNetConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    head_size: int = 64  # [N], of keys and queries
    n_head: int | None = None  # [H]; default as many as 3/4 C has room for
    expand_v: int = 2  # P / N, how much wider values are
    n_ffn: int | None = None  # [F]; default 7 C / 3, which makes a block 13 C^2 like RWKV-4's
    n_conv: int = 4  # [K], tokens that a convolution sees, itself included; 1: none
    rate_limit: float = 1.0  # beta lies between 0 and it; 2 lets a state change its sign
    norm_eps: float = 1e-5
    wkv: str = "auto"  # back end of the recurrence: auto | reference | cpu | cuda

    def __post_init__(self) -> None:
        check_backend(self)
        if min(self.n_conv, self.head_size, self.expand_v, self.heads) < 1:
            raise UserError(
                f"model.n_conv={self.n_conv}, model.head_size={self.head_size}, model.n_head="
                f"{self.heads} and model.expand_v={self.expand_v} must be 1 or more"
            )
        check_rate_limit(self)

    @property
    def heads(self) -> int:
        """H."""
        return self.n_head or max(1, 3 * self.n_embd // (4 * self.head_size))


class GatedDelta(Mixer):
    """W_o (norm(o) silu(g)); q, k and v from one product and one convolution."""

    def __init__(self, config: GatedDeltaNetConfig) -> None:
        super().__init__()
        width, self.backend = config.n_embd, config.wkv
        self.heads, self.size, self.expand = config.heads, config.head_size, config.expand_v
        self.rate_limit = config.rate_limit
        keys = self.heads * self.size
        self.split = (keys, keys, keys * self.expand)
        self.qkv = nn.Linear(width, sum(self.split), bias=False)
        self.conv = ShortConvolution(sum(self.split), config.n_conv)
        self.gate = nn.Linear(width, self.split[2], bias=False)
        self.decay_rate = nn.Linear(width, 2 * self.heads, bias=False)  # of alpha, then of beta
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.norm = RMSNorm(self.size * self.expand, config.norm_eps)
        self.output = nn.Linear(self.split[2], width, bias=False)

    def reset(self) -> None:
        """Initial values of the convolution and the decays, as published."""
        self.conv.reset()
        reset_decays(self.A_log, self.dt_bias, least=0.0)

    def forward(
        self, x: Tensor, state: State | None, beside: Any
    ) -> tuple[Tensor, State | None, Any]:
        """x `[B, T, C]` to `[B, T, C]`."""
        conv, wkv = (None, None) if state is None else (state["conv"], state["wkv"])
        mixed, conv = self.conv(self.qkv(x), conv)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in mixed.split(self.split, -1))
        q = F.normalize(q, dim=-1) / math.sqrt(self.size)  # [B, T, H, N]
        k = F.normalize(k, dim=-1)  # [B, T, H, N]
        raw, rate = self.decay_rate(x).unflatten(-1, (2, self.heads, 1)).unbind(2)  # [B, T, H, 1]
        w = log_decay(raw[..., 0], self.A_log, self.dt_bias)[..., None]  # [B, T, H, 1], fp32
        beta = self.rate_limit * torch.sigmoid(rate)
        b = (w.exp() * beta * k).to(k.dtype)
        keyed = [q, w.expand(k.shape), beta * k, -k, b]
        if self.expand > 1:  # a wide head of values is several with the same key
            keyed = [part.repeat_interleave(self.expand, dim=2) for part in keyed]
        r, w, k, a, b = keyed
        v = v.unflatten(-1, (self.expand, -1)).flatten(2, 3)  # [B, T, H P/N, N] as all others
        y, wkv = wkv7(r, w, k, v, a, b, wkv, self.backend)
        y = y.unflatten(2, (self.heads, -1)).flatten(3)  # [B, T, H, P]
        y = self.norm(y).flatten(2) * F.silu(self.gate(x))
        after = None if state is None else {"conv": conv, "wkv": wkv}
        return self.output(y), after, beside

    def init_state(self, batch: int, capacity: int | None) -> State:
        """The last tokens of the convolution, and the recurrence's `[B, H P/N, N, N]` in fp32."""
        shape = (batch, self.heads * self.expand, self.size, self.size)
        device = self.output.weight.device
        return {
            "conv": self.conv.init_state(batch, self.output.weight),
            "wkv": torch.zeros(shape, dtype=torch.float32, device=device),
        }

    def learnable_state(self) -> dict[str, Any]:
        """The matrices of the recurrence, from zero; not the last tokens."""
        return {"wkv": self.init_state(1, None)["wkv"][0]}

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        linear = (self.qkv, self.gate, self.decay_rate, self.output)
        return (
            sum(linear_flops(layer, batch * length) for layer in linear)
            + self.conv.flops(batch, length)
            + wkv7_flops(batch, length, self.heads * self.expand, self.size)
        )


class GatedDeltaNet(RecurrentMixerTrunk):
    """Embedding, L blocks, RMSNorm, head."""

    Config = GatedDeltaNetConfig
    title = "Gated DeltaNet"
    operator = "wkv7"
    options = ("wkv", "n_conv", "rate_limit")

    def build_block(self, layer: int) -> MixerBlock:
        c = self.config
        ffn = FeedForward(c.n_embd, c.n_ffn or 7 * c.n_embd // 3)
        return MixerBlock(GatedDelta(c), ffn, self.build_norm)

    def build_norm(self) -> RMSNorm:
        return RMSNorm(self.config.n_embd, self.config.norm_eps)
