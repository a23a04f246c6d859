"""RWKV-4 (Peng et al. 2023, arXiv 2305.13048), in the names of the official checkpoints.

| here | paper |
|---|---|
| `time_mix_k`, `_v`, `_r` | mu: weight of the current token in the token shift (section 3) |
| `time_decay` | w = -exp(time_decay) < 0, the log decay per channel |
| `time_first` | u, the bonus of the current token |
| `wkv4` | wkv_t (section 3; stable form in appendix D): decayed average of v weighted by e^k |

A token's state per layer is two shifted vectors and (aa, bb, pp) of the recurrence: 5 C numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.contract import State
from models.decoding.program import Program
from models.layers import rwkv_block
from models.layers.init import InitSchedule, init_matrices, parameter, vector
from models.layers.rwkv_block import RWKVTrunk, check_config
from models.layers.trunk import Mixer, linear_flops
from models.ops.elementwise import gate, shifted, squared_relu, token_shift_mix
from models.ops.wkv import wkv4, wkv4_flops, wkv4_initial_state


@dataclass(frozen=True)
class RWKV4Config:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    n_ffn: int | None = None  # [F]; default 4 C
    wkv: str = "auto"  # back end of the recurrence: auto | reference | cpu | cuda

    def __post_init__(self) -> None:
        check_config(self)

    @property
    def hidden(self) -> int:
        """F, the width inside the channel mix."""
        return self.n_ffn or 4 * self.n_embd


class TimeMix(Mixer):
    """W_o (sigmoid(r) * wkv(k, v)), with r, k, v read from the token-shifted stream."""

    def __init__(self, config: RWKV4Config, schedule: InitSchedule) -> None:
        super().__init__()
        width = config.n_embd
        self.backend = config.wkv
        mix = schedule.channel**schedule.remaining
        self.time_decay = parameter(-5 + 8 * schedule.decay())
        self.time_first = parameter(math.log(0.3) + 0.5 * schedule.zigzag)
        self.time_mix_k = vector(mix)
        self.time_mix_v = vector(mix + 0.3 * schedule.depth)
        self.time_mix_r = vector(schedule.channel ** (0.5 * schedule.remaining))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, state: State | None, beside: Any
    ) -> tuple[Tensor, State | None, Any]:
        mixes = torch.cat((self.time_mix_k, self.time_mix_v, self.time_mix_r)).squeeze(1)  # [3, C]
        before, last = shifted(x, state)  # [B, C]
        x_k, x_v, x_r = token_shift_mix(x, before, mixes)  # [B, T, C] each
        k, v, r = self.key(x_k), self.value(x_v), self.receptance(x_r)  # [B, T, C]
        w = -torch.exp(self.time_decay.float())  # [C]
        u = self.time_first.float()  # [C]
        wkv = None if state is None else state["wkv"]
        y, wkv = wkv4(w, u, k, v, wkv, self.backend)
        after = None if state is None else {"shift": last, "wkv": wkv}  # [B, C], [B, 3, C]
        return self.output(gate(r, y)), after, beside

    def init_state(self, batch: int, capacity: int | None) -> State:
        """The last token, `[B, C]`: zeros; and the recurrence's `[B, 3, C]`, fp32."""
        weight = self.key.weight
        return {
            "shift": weight.new_zeros(batch, weight.shape[0]).detach(),
            "wkv": wkv4_initial_state(batch, weight.shape[0], weight.device),
        }

    def learnable_state(self) -> dict[str, Any]:
        """The value `[1, C]` of a token before the first, from zero.

        Its weight stays e^-5: the logits are nearly those of before, and no sum of weights can come
        near zero. With no weight, as the state is otherwise, its value would have no gradient.
        """
        width, device = len(self.key.weight), self.key.weight.device
        weight = torch.tensor([[1.0], [-5.0]], device="cpu").repeat(1, width)
        return {"wkv": (torch.zeros(1, width, device=device), weight)}

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        linear = (self.key, self.value, self.receptance, self.output)
        products = sum(linear_flops(layer, batch * length) for layer in linear)
        return products + wkv4_flops(batch, length, self.key.out_features)

    def step(self, p: Program, x: Tensor, norm: nn.Module, layer: int) -> None:
        mixes = self.time_mix_k, self.time_mix_v, self.time_mix_r
        x_k, x_v, x_r = p.norm(x, norm, p.leaf("att", "shift"), mixes)
        k = p.linear(x_k, self.key, "k")
        v = p.linear(x_v, self.value, "v", parallel=True)
        r = p.linear(x_r, self.receptance, "r", parallel=True)
        y = p.buffer("y", x.shape[1])
        state = p.leaf("att", "wkv")
        p.emit("wkv4", [x.shape[1]], [r, k, v, self.time_decay, self.time_first, state, y])
        p.linear(y, self.output, x, sink="add")


class ChannelMix(rwkv_block.ChannelMix):
    """sigmoid(r) * W_v relu(k)^2, with r, k read from the token-shifted stream."""

    def __init__(self, config: RWKV4Config, schedule: InitSchedule) -> None:
        super().__init__()
        width, hidden = config.n_embd, config.hidden
        self.time_mix_k = vector(schedule.channel**schedule.remaining)
        self.time_mix_r = vector(schedule.channel**schedule.remaining)
        self.key = nn.Linear(width, hidden, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        """x `[B, T, C]` to `[B, T, C]`."""
        mixes = torch.cat((self.time_mix_k, self.time_mix_r)).squeeze(1)  # [2, C]
        before, last = shifted(x, state)  # [B, C]
        x_k, x_r = token_shift_mix(x, before, mixes)  # [B, T, C] each
        value = self.value(squared_relu(self.key(x_k)))  # [B, T, C], through [B, T, F]
        after = None if state is None else {"shift": last}
        return gate(self.receptance(x_r), value), after

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        linear = (self.key, self.receptance, self.value)
        return sum(linear_flops(layer, batch * length) for layer in linear)

    def step(self, p: Program, x: Tensor, norm: nn.Module, layer: int) -> None:
        mixes = self.time_mix_k, self.time_mix_r
        x_k, x_r = p.norm(x, norm, p.leaf("ffn", "shift"), mixes)
        k = p.linear(x_k, self.key, "ffn k", "squared_relu")
        r = p.linear(x_r, self.receptance, "r", parallel=True)
        p.linear(k, self.value, x, sink="add_gated", gate=r)


class RWKV4(RWKVTrunk):
    """The first generation that scaled: a vector of state per channel, decayed at a fixed rate."""

    Config = RWKV4Config
    title = "RWKV-4"
    operator = "wkv4"
    time_mix, channel_mix = TimeMix, ChannelMix
    lr_scales: ClassVar = {"time_decay": 2.0, "time_first": 3.0}

    def initialise(self) -> None:
        gains = {
            "att.value": 1.0,
            "ffn.key": math.sqrt(max(self.config.hidden / self.config.n_embd, 1)),
        }
        zeros = ("att.key", "att.receptance", "att.output", "ffn.receptance", "ffn.value")
        init_matrices(self, 6e-4, gains, zeros)
