"""RWKV-6, Finch (Peng et al. 2024, arXiv 2404.05892), in the names of the official checkpoints.

| here | paper |
|---|---|
| `time_maa_x`, `_w`, `_k`, `_v`, `_r`, `_g` | mu: weight of the previous token in the token shift |
| `time_maa_w1`, `_w2` | A, B of the low-rank data-dependent mix (ddlerp): w, k, v, r, g |
| `time_decay`, `time_decay_w1`, `_w2` | lambda, A, B of the decay: w_t = exp(-exp(d_t)) (eq. 17) |
| `time_faaaa` | u, the bonus of the current token |
| `wkv6` | eq. 19: Eagle's recurrence with a decay per token |

A token's state per layer is Eagle's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.contract import State
from models.decoding.program import Program
from models.layers import rwkv_block
from models.layers.init import InitSchedule, head_norm, init_matrices, parameter, vector
from models.layers.rwkv_block import MatrixTimeMix, RWKVTrunk, check_config
from models.layers.trunk import linear_flops
from models.ops.elementwise import gate, kernels, shifted, squared_relu, token_shift_mix
from models.ops.elementwise.fused import fused
from models.ops.wkv import wkv6, wkv6_flops
from models.rwkv5 import eagle_step, gated_head_norm

MIXES = 5  # w, k, v, r, g


@dataclass(frozen=True)
class RWKV6Config:
    """Shape letters in brackets; R are ranks."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    head_size: int = 64  # [N]
    n_ffn: int | None = None  # [F]; default 3.5 C, rounded down to a multiple of 32
    lora_mix: int | None = None  # R of the data-dependent mix; default 32, 64 from C = 4096 on
    lora_decay: int | None = None  # R of the decay; default 64, 128 from C = 4096 on
    wkv: str = "auto"  # back end of the recurrence: auto | reference | cpu | cuda

    def __post_init__(self) -> None:
        check_config(self)

    @property
    def hidden(self) -> int:
        """F, the width inside the channel mix."""
        return self.n_ffn or int(3.5 * self.n_embd) // 32 * 32

    @property
    def ranks(self) -> tuple[int, int]:
        """Ranks of the mix and of the decay, as in the released models."""
        scale = 2 if self.n_embd >= 4096 else 1
        return self.lora_mix or 32 * scale, self.lora_decay or 64 * scale


@fused(kernels.dynamic_mix, z="B T C", previous="B C", mu="5 C", change="5 B T C")
def dynamic_mix(z: Tensor, previous: Tensor, mu: Tensor, change: Tensor) -> tuple[Tensor, ...]:
    """The token shift mix_m = z + (prev - z) (mu_m + change_m), five tensors `[B, T, C]`.

    mu, the share of the previous token, thus depends on the data; `previous` is the token before
    the first.
    """
    past = torch.cat([previous[:, None], z[:, :-1]], dim=1)  # [B, T, C]
    shares = mu[:, None, None] + change  # [M, B, T, C]
    return tuple(z + (past - z) * share for share in shares.unbind())


class TimeMix(MatrixTimeMix):
    """W_o (norm(wkv(r, w, k, v)) * silu(g)); how much of the last token each sees depends on x."""

    matrices = ("time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2")

    def __init__(self, config: RWKV6Config, schedule: InitSchedule) -> None:
        super().__init__()
        width = config.n_embd
        self.backend = config.wkv
        self.heads = width // config.head_size
        rank_mix, rank_decay = config.ranks
        mix = schedule.channel**schedule.remaining
        half = schedule.channel ** (0.5 * schedule.remaining)
        self.time_maa_x = vector(1 - mix)
        self.time_maa_w = vector(1 - mix)
        self.time_maa_k = vector(1 - mix)
        self.time_maa_v = vector(1 - (mix + 0.3 * schedule.depth))
        self.time_maa_r = vector(1 - half)
        self.time_maa_g = vector(1 - half)
        self.time_maa_w1 = nn.Parameter(torch.zeros(width, MIXES * rank_mix))
        self.time_maa_w2 = nn.Parameter(torch.empty(MIXES, rank_mix, width).uniform_(-0.01, 0.01))
        self.time_decay = vector(-6 + 5 * schedule.decay())
        self.time_decay_w1 = nn.Parameter(torch.zeros(width, rank_decay))
        self.time_decay_w2 = nn.Parameter(torch.empty(rank_decay, width).uniform_(-0.01, 0.01))
        self.time_faaaa = parameter(schedule.bonus().view(self.heads, -1))
        self.receptance = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.ln_x = head_norm(self.heads, width, schedule)

    def forward(
        self, x: Tensor, state: State | None, beside: Any
    ) -> tuple[Tensor, State | None, Any]:
        before, last = shifted(x, state)  # [B, C]
        (x_x,) = token_shift_mix(x, before, self.time_maa_x.view(1, -1), True)  # [B, T, C]
        low = torch.tanh(x_x @ self.time_maa_w1).unflatten(-1, (MIXES, -1))  # [B, T, M, R]
        change = torch.einsum("btmr,mrc->mbtc", low, self.time_maa_w2)  # [M, B, T, C]
        fixed = (
            self.time_maa_w, self.time_maa_k, self.time_maa_v, self.time_maa_r, self.time_maa_g,
        )  # fmt: skip
        mixes = torch.cat(fixed).squeeze(1)  # [M, C]
        x_w, x_k, x_v, x_r, x_g = dynamic_mix(x, before, mixes, change)  # [B, T, C] each
        r, k, v = (
            layer(mixed).unflatten(-1, (self.heads, -1))
            for layer, mixed in ((self.receptance, x_r), (self.key, x_k), (self.value, x_v))
        )  # [B, T, H, N]
        d = self.time_decay.float() + torch.tanh(x_w @ self.time_decay_w1) @ self.time_decay_w2
        w = -torch.exp(d.float()).unflatten(-1, (self.heads, -1))  # [B, T, H, N]
        u = self.time_faaaa.float()  # [H, N]
        wkv = None if state is None else state["wkv"]
        y, wkv = wkv6(r, w, k, v, u, wkv, self.backend)
        norm = self.ln_x
        y = gated_head_norm(y, self.gate(x_g), norm.weight, norm.bias, norm.eps)  # [B, T, C]
        after = None if state is None else {"shift": last, "wkv": wkv}  # [B, C], [B, H, N, N]
        return self.output(y), after, beside

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        rows, width = batch * length, self.key.out_features
        linear = (self.receptance, self.key, self.value, self.gate, self.output)
        low_rank = (self.time_maa_w1, self.time_maa_w2, self.time_decay_w1, self.time_decay_w2)
        return (
            sum(linear_flops(layer, rows) for layer in linear)
            + sum(2 * rows * matrix.numel() for matrix in low_rank)
            + wkv6_flops(batch, length, self.heads, width // self.heads)
        )

    def step(self, p: Program, x: Tensor, norm: nn.Module, layer: int) -> None:
        width, rank = x.shape[1], self.time_maa_w2.shape[1]
        z, past = p.buffer("z", width), p.buffer("past", width)
        shift = p.leaf("att", "shift")
        (x_x,) = p.norm(x, norm, shift, (self.time_maa_x,), of_current=False, keep=(z, past))
        low = p.low_rank(x_x, self.time_maa_w1, "low", "tanh")
        fixed = (
            self.time_maa_w, self.time_maa_k, self.time_maa_v, self.time_maa_r, self.time_maa_g,
        )  # fmt: skip
        outs = [p.buffer(f"x {name}", width) for name in "wkvrg"]
        p.emit("mix6", [width, rank], [z, past, low, self.time_maa_w2, *fixed, *outs])
        x_w, x_k, x_v, x_r, x_g = outs
        low = p.low_rank(x_w, self.time_decay_w1, "low w", "tanh")
        r = p.linear(x_r, self.receptance, "r", parallel=True)
        k = p.linear(x_k, self.key, "k", parallel=True)
        v = p.linear(x_v, self.value, "v", parallel=True)
        g = p.linear(x_g, self.gate, "g", parallel=True)
        d = p.low_rank(low, self.time_decay_w2, "d")
        y = p.buffer("y", width)
        eagle_step(p, [r, k, v, g, self.time_decay, d, self.time_faaaa], self.ln_x, y)
        p.linear(y, self.output, x, sink="add")


class ChannelMix(rwkv_block.ChannelMix):
    """sigmoid(r) * W_v relu(k)^2, with r, k read from the token-shifted stream."""

    def __init__(self, config: RWKV6Config, schedule: InitSchedule) -> None:
        super().__init__()
        width, hidden = config.n_embd, config.hidden
        self.time_maa_k = vector(1 - schedule.channel ** (schedule.remaining**3))
        self.time_maa_r = vector(1 - schedule.channel ** (schedule.remaining**3))
        self.key = nn.Linear(width, hidden, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        """x `[B, T, C]` to `[B, T, C]`."""
        mixes = torch.cat((self.time_maa_k, self.time_maa_r)).squeeze(1)  # [2, C]
        before, last = shifted(x, state)  # [B, C]
        x_k, x_r = token_shift_mix(x, before, mixes, True)  # [B, T, C] each
        value = self.value(squared_relu(self.key(x_k)))  # [B, T, C], through [B, T, F]
        after = None if state is None else {"shift": last}
        return gate(self.receptance(x_r), value), after

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        linear = (self.key, self.receptance, self.value)
        return sum(linear_flops(layer, batch * length) for layer in linear)

    def step(self, p: Program, x: Tensor, norm: nn.Module, layer: int) -> None:
        shift, mixes = p.leaf("ffn", "shift"), (self.time_maa_k, self.time_maa_r)
        x_k, x_r = p.norm(x, norm, shift, mixes, of_current=False)
        k = p.linear(x_k, self.key, "ffn k", "squared_relu")
        r = p.linear(x_r, self.receptance, "r", parallel=True)
        p.linear(k, self.value, x, sink="add_gated", gate=r)


class RWKV6(RWKVTrunk):
    """Finch: Eagle with a token shift and a decay that depend on the data."""

    Config = RWKV6Config
    title = "RWKV-6"
    operator = "wkv6"
    time_mix, channel_mix = TimeMix, ChannelMix
    lr_scales: ClassVar = {"time_decay": 2.0}

    def initialise(self) -> None:
        gains = {"att.receptance": 1.0, "att.key": 0.1, "att.value": 1.0, "att.gate": 0.1}
        zeros = ("att.output", "ffn.receptance", "ffn.value")
        init_matrices(self, 1e-4, gains | {"ffn.key": 1.0}, zeros)
