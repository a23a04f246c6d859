"""What all generations of RWKV share: the block, ramps of initial values, optimizer groups."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from core.errors import UserError
from models.contract import ParamGroup, State
from models.decoding.program import Program
from models.layers.trunk import Block, Stream, Trunk
from models.ops.backends import BACKENDS

HEAD_NORM_EPS = 64e-5  # of the norm after the recurrence: 8^2 * 1e-5, whatever the head size


class InitSchedule:
    """The quantities official initial values are made of, for one layer.

    `depth` goes from 0 at the first layer to 1 at the last, `remaining` from 1 to 1/L; the others
    are `[C]` over channels.
    """

    def __init__(self, layer: int, n_layer: int, width: int) -> None:
        index = torch.arange(width)
        self.depth = layer / max(n_layer - 1, 1)
        self.remaining = 1 - layer / n_layer
        self.output_gain = ((1 + layer) / n_layer) ** 0.7  # weight of the norm of heads
        self.channel = index / width  # 0 .. 1 - 1/C
        self.spread = index / max(width - 1, 1)  # 0 .. 1
        self.zigzag = (index + 1) % 3 - 1  # 0, 1, -1, 0, ...

    def decay(self) -> Tensor:
        """0 .. 1 over channels, bent more the deeper the layer: the shape of every time_decay."""
        return self.spread ** (0.7 + 1.3 * self.depth)

    def bonus(self) -> Tensor:
        """The time_faaaa of RWKV-5 and 6."""
        return self.depth * (1 - self.spread) + 0.1 * self.zigzag


class RWKVBlock(Block):
    """x + time mix(norm(x)), then x + channel mix(norm(x)); block 0 also norms the embedding."""

    att: Any  # modules with `forward(x, state)`, `init_state(batch)` and `flops(batch, length)`
    ffn: Any

    def __init__(self, n_embd: int, layer: int, att: nn.Module, ffn: nn.Module) -> None:
        super().__init__()
        self.ln0 = nn.LayerNorm(n_embd) if layer == 0 else None
        self.ln1 = nn.LayerNorm(n_embd)
        self.att = att
        self.ln2 = nn.LayerNorm(n_embd)
        self.ffn = ffn

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

    def step(self, program: Program, x: Tensor, layer: int) -> None:
        if self.ln0 is not None:
            (normed,) = program.norm(x, self.ln0)
            program.emit("copy", [x.shape[1]], [normed, x])
        self.att.step(program, x, self.ln1, layer)
        self.ffn.step(program, x, self.ln2)


class RWKVTrunk(Trunk):
    """Embedding, L blocks, LayerNorm, head; the order of tokens enters through the recurrence."""

    recurrent = True
    options = ("wkv",)
    can_span = True
    lr_scales: ClassVar[dict[str, float]] = {}
    """Learning-rate multipliers of vectors by the end of their name."""

    def __init__(self, config: Any) -> None:
        if config.wkv not in BACKENDS:
            raise UserError(f"model.wkv={config.wkv!r} is not one of {', '.join(BACKENDS)}")
        super().__init__(config)

    @property
    def can_step(self) -> bool:
        return self.config.wkv in ("auto", "cpu")

    def build_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.n_embd)

    def param_groups(self) -> list[ParamGroup]:
        """The official groups: weight matrices decay, and a few vectors learn faster."""
        groups: dict[tuple[float, bool], list[str]] = {}
        for name, parameter in self.named_parameters():
            decay = name.endswith(".weight") and parameter.squeeze().ndim >= 2
            scale = next((s for end, s in self.lr_scales.items() if name.endswith(end)), 1.0)
            groups.setdefault((scale, decay), []).append(name)
        return [ParamGroup(tuple(names), *key) for key, names in groups.items()]


def init_matrices(
    model: Trunk, embedding: float, gains: dict[str, float], zeros: Iterable[str]
) -> None:
    """Official initial values of the weight matrices, in place; vectors have theirs already.

    The embedding is U(-embedding, embedding) (block 0 normalises its scale away), the head
    orthogonal with gain 0.5 sqrt(V / C) where V > C. `gains` are those of orthogonal matrices and
    `zeros` are left out at first, both by name within a block. Every mixer thus starts as the
    identity, and the first loss is that of head(norm(norm(embedding))): about ln V + 0.13.
    """
    nn.init.uniform_(model.emb.weight, -embedding, embedding)
    vocab, width = model.head.weight.shape
    nn.init.orthogonal_(model.head.weight, gain=0.5 * math.sqrt(max(vocab / width, 1)))
    for block in model.blocks:
        for name, gain in gains.items():
            nn.init.orthogonal_(block.get_parameter(f"{name}.weight"), gain=gain)
        for name in zeros:
            nn.init.zeros_(block.get_parameter(f"{name}.weight"))


def substate(state: State | None, name: str) -> Any:
    """A part of an optional state."""
    return None if state is None else state[name]


def vector(values: Tensor) -> nn.Parameter:
    """`[C]` as a parameter of the official shape `[1, 1, C]`."""
    return nn.Parameter(values[None, None].clone())


def head_norm(heads: int, width: int, ramps: InitSchedule) -> nn.GroupNorm:
    """The norm of every head on its own, after the recurrence; it holds the parameters `[C]`."""
    norm = nn.GroupNorm(heads, width, eps=HEAD_NORM_EPS)
    nn.init.constant_(norm.weight, ramps.output_gain)
    return norm


def count_heads(n_embd: int, head_size: int) -> int:
    """H. Raises `UserError` if C is not a multiple of the head size."""
    if n_embd % head_size:
        raise UserError(f"model.n_embd={n_embd} must be a multiple of model.head_size={head_size}")
    return n_embd // head_size
