"""RWKV-5.2, Eagle (Peng et al. 2024, arXiv 2404.05892), in the names of the official checkpoints.

| here | paper |
|---|---|
| `time_mix_r`, `_k`, `_v`, `_g` | mu: weight of the current token in the token shift (eq. 3) |
| `time_decay` | omega: w = exp(-exp(omega)), a decay per key channel, constant in time |
| `time_faaaa` | u, the bonus of the current token |
| `wkv5` | eq. 7: a state per head, `[N, N]`, of sums of k_t v_t^T |
| `ln_x` | the norm of every head on its own |

A token's state per layer is two shifted vectors and one matrix per head: (2 + N) C numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.contract import State
from models.decoding.program import Program
from models.layers.rwkv_block import (
    InitSchedule,
    RWKVBlock,
    RWKVTrunk,
    count_heads,
    head_norm,
    init_matrices,
    substate,
    vector,
)
from models.layers.trunk import Operator, linear_flops
from models.long_context.sequence_parallel import recur, shifted
from models.ops.backends import resolve
from models.ops.elementwise import gated_head_norm, token_shift_mix
from models.ops.wkv import wkv5, wkv5_flops, wkv6_initial_state
from models.rwkv4 import ChannelMix


@dataclass(frozen=True)
class RWKV5Config:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    head_size: int = 64  # [N]
    n_ffn: int | None = None  # [F]; default 3.5 C, rounded down to a multiple of 32
    wkv: str = "auto"  # back end of the recurrence: auto | reference | cpu | cuda

    @property
    def hidden(self) -> int:
        """F, the width inside the channel mix."""
        return self.n_ffn or int(3.5 * self.n_embd) // 32 * 32


class TimeMix(nn.Module):
    """W_o (norm(wkv(r, k, v)) * silu(g)), with r, k, v, g read from the token-shifted stream."""

    def __init__(self, config: RWKV5Config, ramps: InitSchedule) -> None:
        super().__init__()
        width = config.n_embd
        self.backend, self.operator = config.wkv, Operator(wkv5)
        self.heads = count_heads(width, config.head_size)
        mix = ramps.channel**ramps.remaining
        self.time_mix_r = vector(ramps.channel ** (0.5 * ramps.remaining))
        self.time_mix_k = vector(mix)
        self.time_mix_v = vector(mix + 0.3 * ramps.depth)
        self.time_mix_g = vector(ramps.channel ** (0.5 * ramps.remaining))
        self.time_decay = nn.Parameter((-6 + 5 * ramps.decay()).view(self.heads, -1))
        self.time_faaaa = nn.Parameter(ramps.bonus().view(self.heads, -1))
        self.receptance = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.ln_x = head_norm(self.heads, width, ramps)

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        """x `[B, T, C]` to `[B, T, C]`."""
        stored = (self.time_mix_r, self.time_mix_k, self.time_mix_v, self.time_mix_g)
        mixes = torch.cat(stored).squeeze(1)
        before, last = shifted(x, state)
        x_r, x_k, x_v, x_g = token_shift_mix(x, before, mixes)
        r, k, v = (
            layer(mixed).unflatten(-1, (self.heads, -1))
            for layer, mixed in ((self.receptance, x_r), (self.key, x_k), (self.value, x_v))
        )
        w = -torch.exp(self.time_decay.float())
        u = self.time_faaaa.float()
        y, wkv = recur(self.operator, (r, w, k, v, u), substate(state, "wkv"), self.backend)
        norm = self.ln_x
        y = gated_head_norm(y, self.gate(x_g), norm.weight, norm.bias, norm.eps)
        after = None if state is None else {"shift": last, "wkv": wkv}
        return self.output(y), after

    def init_state(self, batch: int) -> State:
        weight = self.key.weight
        width = weight.shape[0]
        return {
            "shift": weight.new_zeros(batch, width).detach(),
            "wkv": wkv6_initial_state(batch, self.heads, width // self.heads, weight.device),
        }

    def flops(self, batch: int, length: int) -> int:
        linear = (self.receptance, self.key, self.value, self.gate, self.output)
        products = sum(linear_flops(layer, batch * length) for layer in linear)
        width = self.key.out_features
        return products + wkv5_flops(batch, length, self.heads, width // self.heads)

    def step(self, p: Program, x: Tensor, norm: nn.LayerNorm, layer: int) -> None:
        """Add to the decode program: x += this layer of norm(x), for a single token."""
        mixes = self.time_mix_r, self.time_mix_k, self.time_mix_v, self.time_mix_g
        x_r, x_k, x_v, x_g = p.norm(x, norm, p.leaf("att", "shift"), mixes)
        r = p.linear(x_r, self.receptance, "r")
        k = p.linear(x_k, self.key, "k", parallel=True)
        v = p.linear(x_v, self.value, "v", parallel=True)
        g = p.linear(x_g, self.gate, "g", parallel=True)
        y = p.buffer("y", x.shape[1])
        eagle_step(p, [r, k, v, g, self.time_decay, None, self.time_faaaa], self.ln_x, y)
        p.linear(y, self.output, x, sink="add")


class RWKV5(RWKVTrunk):
    """Eagle: a matrix of state per head; the channel mix is RWKV-4's."""

    Config = RWKV5Config
    title = "RWKV-5"
    lr_scales: ClassVar = {"time_decay": 2.0}

    def __init__(self, config: RWKV5Config) -> None:
        super().__init__(config)
        gains = {"att.receptance": 1.0, "att.key": 0.1, "att.value": 1.0, "att.gate": 0.1}
        zeros = ("att.output", "ffn.receptance", "ffn.value")
        init_matrices(self, 1e-4, gains | {"ffn.key": 1.0}, zeros)

    def build_block(self, layer: int) -> RWKVBlock:
        config, ramps = self.config, InitSchedule(layer, self.config.n_layer, self.config.n_embd)
        att, ffn = TimeMix(config, ramps), ChannelMix(config.n_embd, config.hidden, ramps)
        return RWKVBlock(config.n_embd, layer, att, ffn)

    def mixer_backends(self) -> dict[str, str]:
        return {"wkv": resolve("wkv6", self.config.wkv, self.head.weight.device)}


def eagle_step(p: Program, operands: list[Any], norm: nn.GroupNorm, y: Tensor) -> None:
    """One token through the recurrence of RWKV-5 and 6, the norm of heads and the gate."""
    n = [norm.num_groups, y.shape[1] // norm.num_groups]
    p.emit("wkv6", n, [*operands, norm.weight, norm.bias, p.leaf("att", "wkv"), y], norm.eps)
