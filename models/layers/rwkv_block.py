"""What all generations of RWKV share: the block around the mathematics, and the trunk."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from core.errors import UserError
from models.contract import ParamGroup, State
from models.decoding.program import Program
from models.layers.init import InitSchedule, official_groups
from models.layers.matrices import matrices_rounded
from models.layers.norms import LayerNorm
from models.layers.trunk import Block, Mixer, Stream, Trunk
from models.ops.backends import BACKENDS, resolve


class ChannelMix(nn.Module):
    """What the channel mixes share; they see the last token too, through their token shift."""

    key: nn.Linear

    def init_state(self, batch: int, capacity: int | None) -> State:
        """The last token, `[B, C]`: zeros."""
        return {"shift": self.key.weight.new_zeros(batch, self.key.in_features).detach()}


class MatrixTimeMix(Mixer):
    """What the time mixes of RWKV-5, 6 and 7 share: a state of a matrix per head."""

    heads: int
    key: nn.Linear

    def init_state(self, batch: int, capacity: int | None) -> State:
        """The last token, `[B, C]`, and the recurrence's `[B, H, N, N]` in fp32: zeros."""
        width, device = self.key.in_features, self.key.weight.device
        shape = (batch, self.heads, width // self.heads, width // self.heads)
        return {
            "shift": self.key.weight.new_zeros(batch, width).detach(),
            "wkv": torch.zeros(shape, dtype=torch.float32, device=device),
        }

    def learnable_state(self) -> dict[str, Any]:
        """The matrices of the recurrence `[H, N, N]`, from zero; not the last token."""
        return {"wkv": self.init_state(1, None)["wkv"][0]}


class RWKVBlock(Block):
    """x + time mix(norm(x)), then x + channel mix(norm(x)); block 0 also norms the embedding."""

    def __init__(self, n_embd: int, layer: int, att: Mixer, ffn: Any) -> None:
        super().__init__()
        self.ln0 = nn.LayerNorm(n_embd) if layer == 0 else None
        self.ln1 = LayerNorm(n_embd)
        self.att = att
        self.ln2 = LayerNorm(n_embd)
        self.ffn = ffn

    def forward(self, stream: Stream, state: State | None) -> tuple[Stream, State | None]:
        x = stream.x  # [B, T, C]
        x = x if self.ln0 is None else self.ln0(x)
        att, ffn = (None, None) if state is None else (state["att"], state["ffn"])
        with matrices_rounded(self):
            mixed, att, first = self.att(self.ln1(x), att, stream.first_value)
            x, normed = self.ln2.of_sum(x, mixed)
            mixed, ffn = self.ffn(normed, ffn)
        stream = stream._replace(x=x + mixed, first_value=first)
        return stream, None if state is None else {"att": att, "ffn": ffn}

    def init_state(self, batch: int, capacity: int | None) -> State:
        parts = {"att": self.att, "ffn": self.ffn}
        return {name: part.init_state(batch, capacity) for name, part in parts.items()}

    def learnable_state(self) -> dict[str, Any]:
        return {"att": self.att.learnable_state()}

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        return sum(part.flops(batch, length, past, dense) for part in (self.att, self.ffn))

    def step(self, program: Program, x: Tensor, layer: int) -> None:
        if self.ln0 is not None:
            (normed,) = program.norm(x, self.ln0)
            program.emit("copy", [x.shape[1]], [normed, x])
        self.att.step(program, x, self.ln1, layer)
        self.ffn.step(program, x, self.ln2, layer)


class RWKVTrunk(Trunk):
    """Embedding, L blocks, LayerNorm, head; the order of tokens enters through the recurrence."""

    recurrent = True
    options: ClassVar[tuple[str, ...]] = ("wkv",)
    can_span = True
    operator: ClassVar[str]
    """Its recurrence, by the name in `models.ops.backends.BINDINGS`."""
    time_mix: ClassVar[Any]
    channel_mix: ClassVar[Any]
    """The classes of both parts of a block, made from the config and the layer's schedule."""
    lr_scales: ClassVar[dict[str, float]] = {}
    """Learning-rate multipliers of vectors by the end of their name."""

    @property
    def can_step(self) -> bool:
        return self.config.wkv in ("auto", "cpu")

    def build_block(self, layer: int) -> RWKVBlock:
        config = self.config
        schedule = InitSchedule(
            layer, config.n_layer, config.n_embd, is_first=layer == self.first_layer
        )
        att, ffn = self.time_mix(config, schedule), self.channel_mix(config, schedule)
        return RWKVBlock(config.n_embd, layer, att, ffn)

    def build_norm(self) -> LayerNorm:
        return LayerNorm(self.config.n_embd)

    def param_groups(self) -> list[ParamGroup]:
        return official_groups(self, self.lr_scales)

    def mixer_backends(self) -> dict[str, str]:
        return {"wkv": resolve(self.operator, self.config.wkv, self.head.weight.device)}


def check_config(config: Any) -> None:
    """Raise `UserError` for a back end nobody knows, or heads that do not divide the width."""
    check_backend(config)
    head_size = getattr(config, "head_size", 1)
    if config.n_embd % head_size:
        raise UserError(
            f"model.n_embd={config.n_embd} must be a multiple of model.head_size={head_size}"
        )


def check_backend(config: Any) -> None:
    """Raise `UserError` for a back end nobody knows."""
    if config.wkv not in BACKENDS:
        raise UserError(f"model.wkv={config.wkv!r} is not one of {', '.join(BACKENDS)}")


def check_rate_limit(config: Any) -> None:
    """Raise `UserError` for rates that could make a state grow without end."""
    if config.rate_limit is not None and not 0 < config.rate_limit <= 2:
        raise UserError(f"model.rate_limit={config.rate_limit} must be above 0 and at most 2")
