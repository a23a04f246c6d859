"""The Transformer's block around another mixer.

What linear attention, Gated DeltaNet and Mamba-2 share: the block, the short convolution, the
decays and the trunk; and with them hard-max attention, but for the decays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.contract import ParamGroup, State
from models.layers.init import init_normal, split_decay
from models.layers.trunk import Block, Mixer, Stream, Trunk
from models.ops.backends import resolve
from models.ops.short_convolution import short_convolution, short_convolution_flops

STEPS = (1e-3, 0.1)
"""Between which softplus(b) of a decay is drawn, evenly in its logarithm."""


class MixerBlock(Block):
    """x + mixer(norm(x)), then, where there is a feed-forward layer, x + it(norm(x))."""

    def __init__(self, mixer: Mixer, ffn: Any, norm: Callable[[], nn.Module]) -> None:
        """`ffn` is a module from `[B, T, C]` to the same with `flops`, or None."""
        super().__init__()
        self.ln1 = norm()
        self.mixer = mixer
        self.ln2 = None if ffn is None else norm()
        self.ffn = ffn

    def forward(self, stream: Stream, state: State | None) -> tuple[Stream, State | None]:
        mixed, state, _ = self.mixer(self.ln1(stream.x), state, None)
        x = stream.x + mixed
        if self.ln2 is not None:
            x = x + self.ffn(self.ln2(x))
        return stream._replace(x=x), state

    def init_state(self, batch: int, capacity: int | None) -> State:
        return self.mixer.init_state(batch, capacity)

    def learnable_state(self) -> dict[str, Any]:
        return self.mixer.learnable_state()

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        parts = [self.mixer] if self.ffn is None else [self.mixer, self.ffn]
        return sum(part.flops(batch, length, past, dense) for part in parts)


class ShortConvolution(nn.Module):
    """See `models.ops.short_convolution`; one that sees 1 token hands on what it is given."""

    def __init__(self, channels: int, width: int, bias: bool = False, silu: bool = True) -> None:
        super().__init__()
        self.channels, self.width, self.silu = channels, width, silu
        self.weight = nn.Parameter(torch.empty(channels, width)) if width > 1 else None
        self.bias = nn.Parameter(torch.zeros(channels)) if bias and width > 1 else None
        self.reset()

    def reset(self) -> None:
        """Initial weights as torch's convolutions have them: uniform, within 1 / sqrt(width)."""
        if self.weight is not None:
            end = 1 / math.sqrt(self.width)
            nn.init.uniform_(self.weight, -end, end)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x `[B, T, C]` to the same, and the tokens that a next call needs."""
        if self.weight is None:
            return x, state
        return short_convolution(x, self.weight, self.bias, state, self.silu)

    def init_state(self, batch: int, like: Tensor) -> Tensor:
        """The tokens before the first, `[B, K-1, C]`: zeros, of the device and dtype of `like`."""
        return like.new_zeros(batch, self.width - 1, self.channels).detach()

    def flops(self, batch: int, length: int) -> int:
        if self.weight is None:
            return 0
        return short_convolution_flops(batch, length, self.channels, self.width)


class MixerTrunk(Trunk):
    """A trunk of such blocks, whose mixers have `reset`: initial values of what is no matrix."""

    def initialise(self) -> None:
        init_normal(self, self.config.n_layer, ("mixer.output.weight", "ffn.down.weight"))
        for block in self.blocks:
            block.get_submodule("mixer").reset()  # type: ignore[operator]

    def param_groups(self) -> list[ParamGroup]:
        return split_decay(self)


class RecurrentMixerTrunk(MixerTrunk):
    """One whose mixers are recurrences of the WKV operators."""

    recurrent = True
    can_span = True
    operator: ClassVar[str]
    """Its recurrence, by the name in `models.ops.backends.BINDINGS`."""

    def mixer_backends(self) -> dict[str, str]:
        return {"wkv": resolve(self.operator, self.config.wkv, self.head.weight.device)}


def log_decay(raw: Tensor, A_log: Tensor, dt_bias: Tensor) -> Tensor:
    """-e^A softplus(raw + b), `[B, T, H]`: zero or negative, in fp32."""
    wide = torch.promote_types(raw.dtype, torch.float32)
    return -A_log.to(wide).exp() * F.softplus(raw.to(wide) + dt_bias)


def reset_decays(A_log: Tensor, dt_bias: Tensor, least: float) -> None:
    """e^A from U(`least`, 16), and b so that softplus(b) lies between `STEPS`, in place."""
    if A_log.is_meta:  # nothing to fill, and arithmetic there would import the compiler
        return
    with torch.no_grad():
        nn.init.uniform_(A_log, max(least, 1e-4), 16.0)
        A_log.log_()
        nn.init.uniform_(dt_bias, math.log(STEPS[0]), math.log(STEPS[1]))
        dt_bias.exp_()
        dt_bias += torch.log(-torch.expm1(-dt_bias))  # the inverse of softplus
