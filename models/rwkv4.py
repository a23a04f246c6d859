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

import torch
from torch import Tensor, nn

from models.contract import ParamGroup, State
from models.pointwise import gate, squared_relu, token_shift_mix
from models.trunk import Block, Stream, Trunk, linear_flops
from models.wkv import wkv4, wkv4_flops, wkv4_initial_state
from models.wkv.backends import resolve

EMBEDDING_SCALE = 6e-4  # official: U(-lr, lr) at the usual peak rate; block 0 normalises it away


@dataclass(frozen=True)
class RWKV4Config:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    n_ffn: int | None = None  # [F]; default 4 C
    wkv: str = "auto"  # back end of the recurrence: auto | reference | cpu | cuda


class TimeMix(nn.Module):
    """W_o (sigmoid(r) * wkv(k, v)), with r, k, v read from the token-shifted stream."""

    def __init__(self, config: RWKV4Config, layer: int) -> None:
        super().__init__()
        width = config.n_embd
        self.backend = config.wkv
        depth = layer / max(config.n_layer - 1, 1)  # 0 at the first layer, 1 at the last
        remaining = 1 - layer / config.n_layer  # 1 at the first layer, 1/L at the last
        channel = torch.arange(width) / width
        spread = torch.arange(width) / max(width - 1, 1)
        zigzag = (torch.arange(width) + 1) % 3 - 1

        self.time_decay = nn.Parameter(-5 + 8 * spread ** (0.7 + 1.3 * depth))
        self.time_first = nn.Parameter(math.log(0.3) + 0.5 * zigzag)
        self.time_mix_k = nn.Parameter((channel**remaining)[None, None])
        self.time_mix_v = nn.Parameter((channel**remaining + 0.3 * depth)[None, None])
        self.time_mix_r = nn.Parameter((channel ** (0.5 * remaining))[None, None])
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        """x `[B, T, C]` to `[B, T, C]`."""
        mixes = torch.cat((self.time_mix_k, self.time_mix_v, self.time_mix_r)).squeeze(1)
        before = None if state is None else state["shift"]
        x_k, x_v, x_r = token_shift_mix(x, before, mixes)
        k, v, r = self.key(x_k), self.value(x_v), self.receptance(x_r)
        w = -torch.exp(self.time_decay.float())
        u = self.time_first.float()
        y, wkv = wkv4(w, u, k, v, None if state is None else state["wkv"], self.backend)
        after = None if state is None else {"shift": x[:, -1].clone(), "wkv": wkv}
        return self.output(gate(r, y)), after

    def init_state(self, batch: int) -> State:
        weight = self.key.weight
        return {
            "shift": weight.new_zeros(batch, weight.shape[0]).detach(),
            "wkv": wkv4_initial_state(batch, weight.shape[0], weight.device),
        }

    def flops(self, batch: int, length: int) -> int:
        linear = (self.key, self.value, self.receptance, self.output)
        products = sum(linear_flops(layer, batch * length) for layer in linear)
        return products + wkv4_flops(batch, length, self.key.out_features)


class ChannelMix(nn.Module):
    """sigmoid(r) * W_v relu(k)^2, with r, k read from the token-shifted stream."""

    def __init__(self, config: RWKV4Config, layer: int) -> None:
        super().__init__()
        width, hidden = config.n_embd, config.n_ffn or 4 * config.n_embd
        mix = (torch.arange(width) / width) ** (1 - layer / config.n_layer)
        self.time_mix_k = nn.Parameter(mix[None, None])
        self.time_mix_r = nn.Parameter(mix[None, None].clone())
        self.key = nn.Linear(width, hidden, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        """x `[B, T, C]` to `[B, T, C]`."""
        mixes = torch.cat((self.time_mix_k, self.time_mix_r)).squeeze(1)
        before = None if state is None else state["shift"]
        x_k, x_r = token_shift_mix(x, before, mixes)
        value = self.value(squared_relu(self.key(x_k)))
        after = None if state is None else {"shift": x[:, -1].clone()}
        return gate(self.receptance(x_r), value), after

    def init_state(self, batch: int) -> State:
        weight = self.receptance.weight
        return {"shift": weight.new_zeros(batch, weight.shape[0]).detach()}

    def flops(self, batch: int, length: int) -> int:
        linear = (self.key, self.receptance, self.value)
        return sum(linear_flops(layer, batch * length) for layer in linear)


class RWKV4Block(Block):
    """x + time mix(norm(x)), then x + channel mix(norm(x)); block 0 also norms the embedding."""

    def __init__(self, config: RWKV4Config, layer: int) -> None:
        super().__init__()
        self.ln0 = nn.LayerNorm(config.n_embd) if layer == 0 else None
        self.ln1 = nn.LayerNorm(config.n_embd)
        self.att = TimeMix(config, layer)
        self.ln2 = nn.LayerNorm(config.n_embd)
        self.ffn = ChannelMix(config, layer)

    def forward(self, stream: Stream, state: State | None) -> tuple[Stream, State | None]:
        x = stream if self.ln0 is None else self.ln0(stream)
        mixed, att = self.att(self.ln1(x), None if state is None else state["att"])
        x = x + mixed
        mixed, ffn = self.ffn(self.ln2(x), None if state is None else state["ffn"])
        return x + mixed, None if state is None else {"att": att, "ffn": ffn}

    def init_state(self, batch: int, capacity: int | None) -> State:
        return {"att": self.att.init_state(batch), "ffn": self.ffn.init_state(batch)}

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        return self.att.flops(batch, length) + self.ffn.flops(batch, length)


class RWKV4(Trunk):
    """Embedding, L blocks, LayerNorm, head; the order of tokens enters through the recurrence."""

    Config = RWKV4Config

    def __init__(self, config: RWKV4Config) -> None:
        super().__init__(config)
        init_official(self)

    def build_block(self, layer: int) -> RWKV4Block:
        return RWKV4Block(self.config, layer)

    def build_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.n_embd)

    def param_groups(self) -> list[ParamGroup]:
        """The official groups: matrices decay, the decay learns at 2x and the bonus at 3x."""
        groups: dict[str, list[str]] = {"matrix": [], "decay": [], "bonus": [], "vector": []}
        for name, parameter in self.named_parameters():
            if parameter.squeeze().ndim >= 2:
                groups["matrix"].append(name)
            elif name.endswith("time_decay"):
                groups["decay"].append(name)
            elif name.endswith("time_first"):
                groups["bonus"].append(name)
            else:
                groups["vector"].append(name)
        return [
            ParamGroup(tuple(groups["matrix"]), decay=True),
            ParamGroup(tuple(groups["vector"])),
            ParamGroup(tuple(groups["decay"]), lr_scale=2.0),
            ParamGroup(tuple(groups["bonus"]), lr_scale=3.0),
        ]

    def backends(self) -> dict[str, str]:
        return {"wkv": resolve("wkv4", self.config.wkv, self.head.weight.device)}


def init_official(model: RWKV4) -> None:
    """The official initialisation of matrices, in place; vectors are set where they are made.

    Every mixer starts as the identity (its output projection is zero), so the first loss is that
    of head(norm(norm(embedding))): about ln V + 0.13.
    """
    nn.init.uniform_(model.emb.weight, -EMBEDDING_SCALE, EMBEDDING_SCALE)
    vocab, width = model.head.weight.shape
    nn.init.orthogonal_(model.head.weight, gain=0.5 * math.sqrt(max(vocab / width, 1)))
    for block in model.blocks:
        assert isinstance(block, RWKV4Block)
        nn.init.orthogonal_(block.att.value.weight)
        hidden, width = block.ffn.key.weight.shape
        nn.init.orthogonal_(block.ffn.key.weight, gain=math.sqrt(max(hidden / width, 1)))
        for layer in (block.att.key, block.att.receptance, block.att.output):
            nn.init.zeros_(layer.weight)
        for layer in (block.ffn.receptance, block.ffn.value):
            nn.init.zeros_(layer.weight)
