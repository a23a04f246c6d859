"""RWKV-5.2, Eagle (Peng et al. 2024, arXiv 2404.05892), in the names of the official checkpoints.

| here | paper |
|---|---|
| `time_mix_r`, `_k`, `_v`, `_g` | mu: weight of the current token in the token shift (eq. 3) |
| `time_decay` | omega: w = exp(-exp(omega)), a decay per key channel, constant in time |
| `time_faaaa` | u, the bonus of the current token |
| `wkv5` | eq. 7: a state per head, `[N, N]`, of sums of k_t v_t^T |
| `ln_x` | the norm of every head on its own |

With `ungated` it is RWKV-5.0: what the heads give is not gated, and there is no g.

A token's state per layer is two shifted vectors and one matrix per head: (2 + N) C numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.contract import State
from models.decoding.program import Program
from models.layers.init import InitSchedule, head_norm, init_matrices, parameter, vector
from models.layers.rwkv_block import MatrixTimeMix, RWKVTrunk, check_config
from models.layers.trunk import linear_flops
from models.ops.elementwise import kernels, shifted, token_shift_mix
from models.ops.elementwise.fused import fused
from models.ops.wkv import wkv5, wkv5_flops
from models.rwkv4 import ChannelMix


@dataclass(frozen=True)
class RWKV5Config:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    head_size: int = 64  # [N]
    n_ffn: int | None = None  # [F]; default 3.5 C, rounded down to a multiple of 32
    ungated: bool | None = None  # RWKV-5.0: the heads' output is not gated; default false
    wkv: str = "auto"  # back end of the recurrence: auto | reference | cpu | cuda

    def __post_init__(self) -> None:
        check_config(self)

    @property
    def hidden(self) -> int:
        """F, the width inside the channel mix."""
        return self.n_ffn or int(3.5 * self.n_embd) // 32 * 32


@fused(kernels.gated_head_norm, y="B T H N", g="B T H*N", weight="H*N", bias="H*N")
def gated_head_norm(y: Tensor, g: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(norm(y) weight + bias) silu(g), `[B, T, C]`, the norm over each head on its own (eq. 8)."""
    normed = F.layer_norm(y, y.shape[-1:], eps=eps).flatten(2) * weight + bias  # [B, T, C]
    return normed * F.silu(g)


def plain_head_norm(y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """norm(y) weight + bias for y `[B, T, H, N]`, as `[B, T, C]` in its precision: no gate."""
    normed = F.layer_norm(y.float(), y.shape[-1:], eps=eps).flatten(2)  # [B, T, C]
    return (normed * weight.float() + bias.float()).to(y.dtype)


class TimeMix(MatrixTimeMix):
    """W_o (norm(wkv(r, k, v)) * silu(g)), with r, k, v, g read from the token-shifted stream."""

    gate: nn.Linear | None

    def __init__(self, config: RWKV5Config, schedule: InitSchedule) -> None:
        super().__init__()
        width = config.n_embd
        self.backend = config.wkv
        self.heads = width // config.head_size
        mix = schedule.channel**schedule.remaining
        self.time_mix_r = vector(schedule.channel ** (0.5 * schedule.remaining))
        self.time_mix_k = vector(mix)
        self.time_mix_v = vector(mix + 0.3 * schedule.depth)
        if not config.ungated:
            self.time_mix_g = vector(schedule.channel ** (0.5 * schedule.remaining))
        self.time_decay = parameter((-6 + 5 * schedule.decay()).view(self.heads, -1))
        self.time_faaaa = parameter(schedule.bonus().view(self.heads, -1))
        self.receptance = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.gate = None if config.ungated else nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.ln_x = head_norm(self.heads, width, schedule)

    def forward(
        self, x: Tensor, state: State | None, beside: Any
    ) -> tuple[Tensor, State | None, Any]:
        mixes = torch.cat(self.mixes()).squeeze(1)  # [4, C], without a gate [3, C]
        before, last = shifted(x, state)  # [B, C]
        x_r, x_k, x_v, *x_g = token_shift_mix(x, before, mixes)  # [B, T, C] each
        r, k, v = (
            layer(mixed).unflatten(-1, (self.heads, -1))
            for layer, mixed in ((self.receptance, x_r), (self.key, x_k), (self.value, x_v))
        )  # [B, T, H, N]
        w = -torch.exp(self.time_decay.float())  # [H, N]
        u = self.time_faaaa.float()  # [H, N]
        wkv = None if state is None else state["wkv"]
        y, wkv = wkv5(r, w, k, v, u, wkv, self.backend)
        norm = self.ln_x
        if self.gate is None:
            y = plain_head_norm(y, norm.weight, norm.bias, norm.eps)  # [B, T, C]
        else:
            y = gated_head_norm(y, self.gate(*x_g), norm.weight, norm.bias, norm.eps)  # [B, T, C]
        after = None if state is None else {"shift": last, "wkv": wkv}  # [B, C], [B, H, N, N]
        return self.output(y), after, beside

    def mixes(self) -> tuple[nn.Parameter, ...]:
        """The shares of the current token for r, k, v and, where there is a gate, g."""
        gate = () if self.gate is None else (self.time_mix_g,)
        return (self.time_mix_r, self.time_mix_k, self.time_mix_v, *gate)

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        linear = (self.receptance, self.key, self.value, self.gate, self.output)
        products = sum(linear_flops(layer, batch * length) for layer in linear if layer is not None)
        width = self.key.out_features
        return products + wkv5_flops(batch, length, self.heads, width // self.heads)

    def step(self, p: Program, x: Tensor, norm: nn.Module, layer: int) -> None:
        x_r, x_k, x_v, *gated = p.norm(x, norm, p.leaf("att", "shift"), self.mixes())
        r = p.linear(x_r, self.receptance, "r")
        k = p.linear(x_k, self.key, "k", parallel=True)
        v = p.linear(x_v, self.value, "v", parallel=True)
        g = None if self.gate is None else p.linear(gated[0], self.gate, "g", parallel=True)
        y = p.buffer("y", x.shape[1])
        eagle_step(p, [r, k, v, g, self.time_decay, None, self.time_faaaa], self.ln_x, y)
        p.linear(y, self.output, x, sink="add")


class RWKV5(RWKVTrunk):
    """Eagle: a matrix of state per head; the channel mix is RWKV-4's."""

    Config = RWKV5Config
    title = "RWKV-5"
    operator = "wkv6"
    options: ClassVar = ("wkv", "ungated")
    time_mix, channel_mix = TimeMix, ChannelMix
    lr_scales: ClassVar = {"time_decay": 2.0}

    def initialise(self) -> None:
        gains = {"att.receptance": 1.0, "att.key": 0.1, "att.value": 1.0, "ffn.key": 1.0}
        gate = {} if self.config.ungated else {"att.gate": 0.1}
        zeros = ("att.output", "ffn.receptance", "ffn.value")
        init_matrices(self, 1e-4, gains | gate, zeros)


def eagle_step(p: Program, operands: list[Any], norm: nn.GroupNorm, y: Tensor) -> None:
    """One token through the recurrence of RWKV-5 and 6, the norm of heads and, if any, the gate."""
    n = [norm.num_groups, y.shape[1] // norm.num_groups]
    p.emit("wkv6", n, [*operands, norm.weight, norm.bias, p.leaf("att", "wkv"), y], norm.eps)
