"""Mamba-2 (Dao and Gu 2024, arXiv 2405.21060): a state space with one decay for each head.

Per head of P channels, with a state of N numbers for each of them (the SSD recurrence, section 5):

    h_t = e^{dt_t A} h_{t-1} + B_t (dt_t x_t)^T          y_t = h_t^T C_t + D x_t

It is computed as what it is a special case of, WKV-6 with w = dt A in every channel of the key B
and the receptance e^w C; what a token reads of itself, (C_t^T B_t) dt_t x_t, is added, because the
bonus of WKV-6 is constant in time. B and C are shared by all heads. Around it as published: one
product for the gate z, x, B, C and dt; a short convolution and silu on x, B and C;
dt = softplus(. + b); W_o norm(y silu(z)). A layer is that alone, x + mixer(norm(x)), unless
`n_ffn` gives it a feed-forward layer too: the published models are twice as deep as Transformers.

A token's state per layer is H N P numbers, and those that the convolution looks back at.
"""

from __future__ import annotations

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
from models.layers.rwkv_block import check_backend
from models.layers.trunk import Mixer, linear_flops
from models.ops.wkv import wkv6, wkv6_flops
from models.transformer import FeedForward


@dataclass(frozen=True)
class Mamba2Config:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    n_inner: int | None = None  # [H P], channels of the mixer; default 2 C
    head_size: int = 64  # [P]
    n_state: int = 128  # [N], numbers of state for each of them
    n_conv: int = 4  # [K], tokens that a convolution sees, itself included; 1: none
    n_ffn: int | None = None  # [F], of a feed-forward layer behind each mixer; default none
    norm_eps: float = 1e-5
    wkv: str = "auto"  # back end of the recurrence: auto | reference | cpu | cuda

    def __post_init__(self) -> None:
        check_backend(self)
        if min(self.n_conv, self.head_size, self.n_state) < 1:
            raise UserError(
                f"model.n_conv={self.n_conv}, model.head_size={self.head_size} and model.n_state="
                f"{self.n_state} must be 1 or more"
            )
        if self.inner % self.head_size:
            raise UserError(
                f"model.n_inner={self.inner} must be a multiple of model.head_size={self.head_size}"
            )
        if max(self.n_state, self.head_size) % min(self.n_state, self.head_size):
            raise UserError(
                f"model.n_state={self.n_state} must be a multiple of model.head_size="
                f"{self.head_size}, or divide it: matrices of state are cut into squares"
            )

    @property
    def inner(self) -> int:
        """H P."""
        return self.n_inner or 2 * self.n_embd


class StateSpace(Mixer):
    """W_o norm(y silu(z)). A matrix of state `[N, P]` is cut into squares, the heads of WKV-6."""

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        inner, size, self.backend = config.inner, config.n_state, config.wkv
        self.heads, self.side = inner // config.head_size, min(size, config.head_size)
        self.keys, self.values = size // self.side, config.head_size // self.side
        self.split = (inner, inner + 2 * size, self.heads)  # z; x, B and C; dt
        self.parts = (inner, size, size)
        self.input = nn.Linear(config.n_embd, sum(self.split), bias=False)
        self.conv = ShortConvolution(sum(self.parts), config.n_conv, bias=True)
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = RMSNorm(inner, config.norm_eps)
        self.output = nn.Linear(inner, config.n_embd, bias=False)

    def reset(self) -> None:
        """Initial values of the convolution and the decays, as published."""
        self.conv.reset()
        reset_decays(self.A_log, self.dt_bias, least=1.0)

    def forward(
        self, x: Tensor, state: State | None, beside: Any
    ) -> tuple[Tensor, State | None, Any]:
        """x `[B, T, C]` to `[B, T, C]`."""
        conv, wkv = (None, None) if state is None else (state["conv"], state["wkv"])
        z, mixed, raw = self.input(x).split(self.split, -1)
        mixed, conv = self.conv(mixed, conv)
        v, b, c = mixed.split(self.parts, -1)
        v = v.unflatten(-1, (self.heads, -1))  # [B, T, H, P]
        w = log_decay(raw, self.A_log, self.dt_bias)[..., None]  # dt A, [B, T, H, 1], fp32
        dt = F.softplus(raw.to(w.dtype) + self.dt_bias)[..., None]  # [B, T, H, 1]
        written = (dt * v).to(v.dtype)
        y, wkv = self._recur(w, b, c, written, wkv)
        y = y + (b * c).sum(-1)[..., None, None] * written + self.D[:, None].to(v.dtype) * v
        y = self.norm(y.flatten(2) * F.silu(z))
        after = None if state is None else {"conv": conv, "wkv": wkv}
        return self.output(y), after, beside

    def _recur(
        self, w: Tensor, b: Tensor, c: Tensor, v: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What the tokens before add, `[B, T, H, P]`: e^w C_t^T h_{t-1}; and the state after.

        w `[B, T, H, 1]`, b and c `[B, T, N]`, v `[B, T, H, P]`.
        """
        batch, length = v.shape[:2]
        squares = (batch, length, self.heads, self.keys, self.values, self.side)

        def cut(x: Tensor) -> Tensor:
            return x.expand(squares).flatten(2, 4)  # [B, T, H N P / side^2, side]

        keys = (self.keys, 1, self.side)
        b, c = (x.unflatten(-1, keys)[:, :, None] for x in (b, c))
        decayed = (c * w.exp()[..., None, None]).to(v.dtype)
        v = v.unflatten(-1, (1, self.values, self.side))
        u = w.new_zeros(self.heads * self.keys * self.values, self.side)
        w = cut(w[..., None, None])
        y, after = wkv6(cut(decayed), w, cut(b), cut(v), u, state, self.backend)
        y = y.unflatten(2, (self.heads, self.keys, self.values)).sum(3)  # over parts of the key
        return y.flatten(3), after

    def init_state(self, batch: int, capacity: int | None) -> State:
        """The last tokens of the convolution, and the squares of all heads' states, in fp32."""
        count = self.heads * self.keys * self.values
        shape, device = (batch, count, self.side, self.side), self.output.weight.device
        return {
            "conv": self.conv.init_state(batch, self.output.weight),
            "wkv": torch.zeros(shape, dtype=torch.float32, device=device),
        }

    def learnable_state(self) -> dict[str, Any]:
        """The matrices of the recurrence, from zero; not the last tokens."""
        return {"wkv": self.init_state(1, None)["wkv"][0]}

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        rows, squares = batch * length, self.heads * self.keys * self.values
        return (
            linear_flops(self.input, rows)
            + linear_flops(self.output, rows)
            + self.conv.flops(batch, length)
            + wkv6_flops(batch, length, squares, self.side)
        )


class Mamba2(RecurrentMixerTrunk):
    """Embedding, L blocks, RMSNorm, head."""

    Config = Mamba2Config
    title = "Mamba-2"
    operator = "wkv6"
    options = ("wkv", "n_conv")

    def build_block(self, layer: int) -> MixerBlock:
        c = self.config
        ffn = FeedForward(c.n_embd, c.n_ffn) if c.n_ffn else None
        return MixerBlock(StateSpace(c), ffn, self.build_norm)

    def build_norm(self) -> RMSNorm:
        return RMSNorm(self.config.n_embd, self.config.norm_eps)
