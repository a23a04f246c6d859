"""The block of the recurrent networks of before attention: torch's own where others mix tokens.

Then a feed-forward layer follows; both are behind a norm and added to the residual stream.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import nullcontext
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.contract import State
from models.layers.trunk import Block, Stream, linear_flops

How = tuple[bool, int, float, bool, bool, bool]
"""Biases; layers; dropout; whether a backward pass follows; both ways; batch first."""


class NetworkBlock(Block):
    """x + network(norm(x)), then x + W_down gelu(W_up norm(x))."""

    leaves: ClassVar[tuple[str, ...]]
    """The vectors of its state, by name: fp32 `[B, C]` each."""
    gates: ClassVar[int]
    """How many times C numbers a token is projected to, and the last output too."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.build_network(width)
        self.ln2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    @abstractmethod
    def build_network(self, width: int) -> None:
        """Make torch's network of one layer the module of the network's name."""

    @property
    @abstractmethod
    def network(self) -> nn.RNNBase:
        """That module."""

    @abstractmethod
    def run(
        self, x: Tensor, before: list[Tensor], weights: list[Tensor], how: How
    ) -> tuple[Tensor, ...]:
        """The outputs `[B, T, C]`, and after them the leaves after the last token, `[1, B, C]`."""

    def forward(self, stream: Stream, state: State | None) -> tuple[Stream, State | None]:
        before = self.init_state(len(stream.x), None) if state is None else state
        mixed, after = self._recur(self.ln1(stream.x), before)
        x = stream.x + mixed
        x = x + self.down(F.gelu(self.up(self.ln2(x))))
        return stream._replace(x=x), None if state is None else after

    def _recur(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """On a CPU in fp32 whatever the precision: oneDNN's has bf16 on a few processors only."""
        on_cpu = x.device.type == "cpu"
        dtype = torch.float32 if on_cpu else x.dtype
        weights = [weight.to(dtype) for weight in self.network.all_weights[0]]
        if not torch.is_grad_enabled():  # else torch adds in another order where none is frozen
            weights = [weight.detach() for weight in weights]
        before = [state[name][None].to(dtype) for name in self.leaves]
        how = (True, 1, 0.0, torch.is_grad_enabled(), False, True)
        with torch.autocast("cpu", enabled=False) if on_cpu else nullcontext():
            y, *after = self.run(x.to(dtype), before, weights, how)
        leaves = zip(self.leaves, after, strict=True)
        return y.to(x.dtype), {name: leaf[0].float() for name, leaf in leaves}

    def init_state(self, batch: int, capacity: int | None) -> State:
        """Zeros `[B, C]`, fp32."""
        width, device = self.up.in_features, self.up.weight.device
        return {name: torch.zeros(batch, width, device=device) for name in self.leaves}

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        """Gates that read x and h; and the feed-forward layer."""
        rows, width = batch * length, self.up.in_features
        gates = 2 * rows * self.gates * width * 2 * width
        return gates + linear_flops(self.up, rows) + linear_flops(self.down, rows)
