"""RWKV-7, Goose (Peng et al. 2025, arXiv 2503.14456), in the names of the official checkpoints.

| here | paper |
|---|---|
| `x_r`, `_w`, `_k`, `_v`, `_a`, `_g` | mu: weight of the previous token in the token shift |
| `w0`, `w1`, `w2` | decay: w_t = exp(-e^(-1/2) sigmoid(w0 + tanh(x_w w1) w2)) |
| `a0`, `a1`, `a2` | in-context learning rate: a_t = sigmoid(a0 + x_a a1 a2) |
| `v0`, `v1`, `v2` | value residual: how much of layer 0's value v_t takes; layer 0 has none |
| `g1`, `g2` | gate: g_t = sigmoid(x_g g1) g2 |
| `k_k`, `k_a` | xi, alpha: kappa = normalised k * k_k; written key k (1 + (a - 1) k_a) |
| `r_k` | rho, the bonus of the current token |
| `wkv7` | S_t = S_{t-1} (diag(w_t) - kappa_t^T (a_t * kappa_t)) + v_t^T k_t, y_t = S_t r_t |

With `rate_limit=2` twice as much is removed, a_t in (0, 2) instead of (0, 1): what stands at kappa
may change its sign, which tracking a state needs (Grazzi et al. 2024, arXiv 2411.12537).

A token's state per layer is two shifted vectors and one matrix per head: (2 + N) C numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.contract import State
from models.decoding.program import Program
from models.layers import rwkv_block
from models.layers.init import (
    InitSchedule,
    head_norm,
    head_zigzag,
    init_matrices,
    low_rank,
    vector,
)
from models.layers.rwkv_block import MatrixTimeMix, RWKVTrunk, check_config, check_rate_limit
from models.layers.trunk import linear_flops
from models.ops.elementwise import kernels, shifted, squared_relu, token_shift_mix
from models.ops.elementwise.fused import fused
from models.ops.wkv import wkv7, wkv7_flops

DECAY_SCALE = math.exp(-0.5)
SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class RWKV7Config:
    """Shape letters in brackets; R are ranks, by default those the official trainer suggests."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    head_size: int = 64  # [N]
    n_ffn: int | None = None  # [F]; default 4 C
    lora_decay: int | None = None  # R of w1, w2
    lora_rate: int | None = None  # R of a1, a2
    lora_value: int | None = None  # R of v1, v2
    lora_gate: int | None = None  # R of g1, g2
    wkv: str = "auto"  # back end of the recurrence: auto | reference | cpu | cuda
    rate_limit: float | None = None  # of the rate at which keys are removed; default 1, as released

    def __post_init__(self) -> None:
        check_config(self)
        check_rate_limit(self)

    @property
    def hidden(self) -> int:
        """F, the width inside the channel mix."""
        return self.n_ffn or 4 * self.n_embd

    @property
    def ranks(self) -> dict[str, int]:
        """Ranks of decay, rate, value and gate, by the letter of their parameters."""
        by_hand = {
            "w": self.lora_decay,
            "a": self.lora_rate,
            "v": self.lora_value,
            "g": self.lora_gate,
        }
        factors = {"w": 2.5, "a": 2.5, "v": 1.7, "g": 5.0}
        return {  # factor sqrt(C), rounded to a multiple of 32
            name: by_hand[name] or max(32, 32 * round(factor * math.sqrt(self.n_embd) / 32))
            for name, factor in factors.items()
        }


@fused(kernels.log_decay, e="B T C", w0="C")
def log_decay(e: Tensor, w0: Tensor) -> Tensor:
    """log w = -e^(-1/2) sigmoid(w0 + e), from -0.6065 to 0, in fp32."""
    return -DECAY_SCALE * torch.sigmoid(w0 + e)


@fused(kernels.value_residual, v="B T C", first="B T C", e="B T C", v0="C")
def value_residual(v: Tensor, first: Tensor, e: Tensor, v0: Tensor) -> Tensor:
    """v + (first - v) sigmoid(v0 + e), where first is layer 0's value."""
    return v + (first - v) * torch.sigmoid(v0 + e)


@fused(kernels.delta_keys, k="B T H N", e="B T H N", a0="H N", k_k="H N", k_a="H N")
def delta_keys(
    k: Tensor, e: Tensor, a0: Tensor, k_k: Tensor, k_a: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The keys of the delta rule, `[B, T, H, N]`: written, removed, and how much of it is."""
    rate = torch.sigmoid(a0 + e)  # the in-context learning rate a_t
    kappa = F.normalize(k * k_k, dim=-1, eps=SMALLEST_NORM)  # in every head
    return k * (1 + (rate - 1) * k_a), -kappa, kappa * rate


@fused(
    kernels.bonus_head_norm,
    y="B T H N", r="B T H N", k="B T H N", v="B T H N", g="B T H*N",
    r_k="H N", weight="H*N", bias="H*N",
)  # fmt: skip
def bonus_head_norm(
    y: Tensor,
    r: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    r_k: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> Tensor:
    """(norm(y) weight + bias + (sum over the head of r k r_k) v) g, `[B, T, C]`."""
    normed = F.layer_norm(y, y.shape[-1:], eps=eps).flatten(2) * weight + bias  # [B, T, C]
    bonus = (r * k * r_k).sum(-1, keepdim=True) * v  # [B, T, H, N]
    return (normed + bonus.flatten(2)) * g


class TimeMix(MatrixTimeMix):
    """W_o ((norm(wkv) + bonus) * g): a delta rule edits the state, at a rate per channel."""

    matrices = ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2")

    def __init__(self, config: RWKV7Config, schedule: InitSchedule) -> None:
        super().__init__()
        width = config.n_embd
        self.backend = config.wkv
        self.rate_limit = config.rate_limit or 1.0
        self.heads = width // config.head_size
        zigzag = head_zigzag(width, config.head_size)
        linear = schedule.spread - 0.5
        self.x_r = vector(1 - schedule.channel ** (0.2 * schedule.remaining))
        self.x_w = vector(1 - schedule.channel ** (0.9 * schedule.remaining))
        self.x_k = vector(1 - schedule.channel ** (0.7 * schedule.remaining))
        self.x_v = vector(1 - schedule.channel ** (0.7 * schedule.remaining))
        self.x_a = vector(1 - schedule.channel ** (0.9 * schedule.remaining))
        self.x_g = vector(1 - schedule.channel ** (0.2 * schedule.remaining))
        bend = schedule.spread ** (1 + schedule.depth**0.3)
        self.w0 = vector(-6 + 6 * bend + 0.5 + 2.5 * zigzag)
        self.w1, self.w2 = low_rank(width, config.ranks["w"])
        self.a0 = vector(-0.19 + 0.3 * zigzag + 0.4 * linear)
        self.a1, self.a2 = low_rank(width, config.ranks["a"])
        self.is_first = schedule.is_first
        if not self.is_first:
            self.v0 = vector(0.73 - 0.4 * linear)
            self.v1, self.v2 = low_rank(width, config.ranks["v"])
        self.g1, self.g2 = low_rank(width, config.ranks["g"])
        self.k_k = vector(0.71 - 0.1 * linear)
        self.k_a = vector(torch.full((width,), 1.02))
        self.r_k = nn.Parameter(torch.full((self.heads, config.head_size), -0.04))
        self.receptance = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.ln_x = head_norm(self.heads, width, schedule)

    def forward(
        self, x: Tensor, state: State | None, v_first: Tensor | None
    ) -> tuple[Tensor, State | None, Tensor]:
        """x `[B, T, C]` to `[B, T, C]`; v_first is the first layer's value, and None there."""
        stored = (self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g)  # [1, 1, C] each
        mixes = torch.cat(stored).squeeze(1)  # [6, C], shares of the token before
        before, last = shifted(x, state)  # [B, C]
        x_r, x_w, x_k, x_v, x_a, x_g = token_shift_mix(x, before, mixes, True)  # [B, T, C] each
        r, k, v = self.receptance(x_r), self.key(x_k), self.value(x_v)  # [B, T, C]
        w = log_decay(torch.tanh(x_w @ self.w1) @ self.w2, self.w0.flatten())  # [B, T, C], fp32
        if v_first is None:
            v_first = v
        else:
            v = value_residual(v, v_first, x_v @ self.v1 @ self.v2, self.v0.flatten())  # [B, T, C]
        g = torch.sigmoid(x_g @ self.g1) @ self.g2  # [B, T, C]
        e = x_a @ self.a1 @ self.a2  # [B, T, C]
        shape = (self.heads, -1)  # of the channels: [.., C] becomes [.., H, N]
        a0, k_k, k_a = self.a0.view(shape), self.k_k.view(shape), self.k_a.view(shape)
        r, w, v = r.unflatten(-1, shape), w.unflatten(-1, shape), v.unflatten(-1, shape)
        k, e = k.unflatten(-1, shape), e.unflatten(-1, shape)
        k, a, b = delta_keys(k, e, a0, k_k, k_a)  # [B, T, H, N]
        if self.rate_limit != 1:
            b = self.rate_limit * b
        wkv = None if state is None else state["wkv"]
        y, wkv = wkv7(r, w, k, v, a, b, wkv, self.backend)
        norm = self.ln_x
        y = bonus_head_norm(y, r, k, v, g, self.r_k, norm.weight, norm.bias, norm.eps)  # [B, T, C]
        after = None if state is None else {"shift": last, "wkv": wkv}  # [B, C], [B, H, N, N]
        return self.output(y), after, v_first

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        rows, width = batch * length, self.key.out_features
        linear = (self.receptance, self.key, self.value, self.output)
        low_rank = [p for name, p in self.named_parameters() if name[:-1] in "wavg" and p.ndim == 2]
        return (
            sum(linear_flops(layer, rows) for layer in linear)
            + sum(2 * rows * matrix.numel() for matrix in low_rank)
            + wkv7_flops(batch, length, self.heads, width // self.heads)
        )

    def step(self, p: Program, x: Tensor, norm: nn.Module, layer: int) -> None:
        width = x.shape[1]
        shift = p.leaf("att", "shift")
        mixes = self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g
        x_r, x_w, x_k, x_v, x_a, x_g = p.norm(x, norm, shift, mixes, of_current=False)
        r = p.linear(x_r, self.receptance, "r")
        k = p.linear(x_k, self.key, "k", parallel=True)
        v = p.linear(x_v, self.value, "v", parallel=True)
        low_w = p.low_rank(x_w, self.w1, "low w", "tanh", parallel=True)
        low_a = p.low_rank(x_a, self.a1, "low a", parallel=True)
        low_g = p.low_rank(x_g, self.g1, "low g", "sigmoid", parallel=True)
        e_v = None
        if not self.is_first:
            low_v = p.low_rank(x_v, self.v1, "low v", parallel=True)
            e_v = p.low_rank(low_v, self.v2, "e v")
        e_w = p.low_rank(low_w, self.w2, "e w", parallel=not self.is_first)
        e_a = p.low_rank(low_a, self.a2, "e a", parallel=True)
        g = p.low_rank(low_g, self.g2, "g", parallel=True)
        first, y = p.buffer("v first", width), p.buffer("y", width)
        operands = [
            r, k, v, g, e_w, e_a, e_v, self.w0, self.a0, None if self.is_first else self.v0,
            self.k_k, self.k_a, self.r_k, self.ln_x.weight, self.ln_x.bias,
            p.leaf("att", "wkv"), first, y,
        ]  # fmt: skip
        n = [self.heads, width // self.heads, self.is_first]
        p.emit("wkv7", n, operands, self.ln_x.eps)
        p.linear(y, self.output, x, sink="add")


class ChannelMix(rwkv_block.ChannelMix):
    """W_v relu(k)^2, with k read from the token-shifted stream; no gate."""

    def __init__(self, config: RWKV7Config, schedule: InitSchedule) -> None:
        super().__init__()
        width, hidden = config.n_embd, config.hidden
        self.x_k = vector(1 - schedule.channel ** (schedule.remaining**4))
        self.key = nn.Linear(width, hidden, bias=False)
        self.value = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        """x `[B, T, C]` to `[B, T, C]`."""
        before, last = shifted(x, state)  # [B, C]
        (x_k,) = token_shift_mix(x, before, self.x_k.view(1, -1), True)  # [B, T, C]
        after = None if state is None else {"shift": last}
        return self.value(squared_relu(self.key(x_k))), after  # [B, T, F] inside

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        return sum(linear_flops(layer, batch * length) for layer in (self.key, self.value))

    def step(self, p: Program, x: Tensor, norm: nn.Module, layer: int) -> None:
        (x_k,) = p.norm(x, norm, p.leaf("ffn", "shift"), (self.x_k,), of_current=False)
        k = p.linear(x_k, self.key, "ffn k", "squared_relu")
        p.linear(k, self.value, x, sink="add")


class RWKV7(RWKVTrunk):
    """Goose: a state that learns in context, by a generalised delta rule."""

    Config = RWKV7Config
    title = "RWKV-7"
    options: ClassVar = ("wkv", "rate_limit")
    operator = "wkv7"
    time_mix, channel_mix = TimeMix, ChannelMix
    lr_scales: ClassVar = {"att.w0": 2.0}

    @property
    def can_step(self) -> bool:
        return super().can_step and self.config.rate_limit in (None, 1)

    def initialise(self) -> None:
        gains = {"att.receptance": 1.0, "att.key": 0.1, "att.value": 1.0, "ffn.key": 1.0}
        init_matrices(self, 1e-4, gains, zeros=("att.output", "ffn.value"))
