"""The block of the recurrent networks of before attention: torch's own where others mix tokens.

Then a feed-forward layer follows; both are behind a norm and added to the residual stream.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from models.contract import State
from models.layers.trunk import Block, Stream, linear_flops

How = tuple[bool, int, float, bool, bool, bool]
"""Biases; layers; dropout; whether a backward pass follows; both ways; batch first."""


def _products(x: Any, of_x: Any, of_h: Any) -> int:
    """Products of four gates, each of which reads x `[T, B, C]` and h."""
    length, batch, width = x
    return 2 * length * batch * of_x[0] * (width + of_h[1])


# A whole layer is one operation of oneDNN, which torch's counter of operations does not know.
@register_flop_formula(torch.ops.aten.mkldnn_rnn_layer)
def _forward_flops(x: Any, of_x: Any, of_h: Any, *_: Any, **__: Any) -> int:
    return _products(x, of_x, of_h)


@register_flop_formula(torch.ops.aten.mkldnn_rnn_layer_backward)
def _backward_flops(x: Any, of_x: Any, of_h: Any, *_: Any, **__: Any) -> int:
    return 2 * _products(x, of_x, of_h)


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
        before = [state[name][None] for name in self.leaves]
        y, after = recur(self.network, self.run, x, before, torch.float32)
        leaves = zip(self.leaves, after, strict=True)
        return y, {name: leaf[0].float() for name, leaf in leaves}

    def init_state(self, batch: int, capacity: int | None) -> State:
        """Zeros `[B, C]`, fp32."""
        width, device = self.up.in_features, self.up.weight.device
        return {name: torch.zeros(batch, width, device=device) for name in self.leaves}

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        """Gates that read x and h; and the feed-forward layer."""
        rows, width = batch * length, self.up.in_features
        gates = 2 * rows * self.gates * width * 2 * width
        return gates + linear_flops(self.up, rows) + linear_flops(self.down, rows)


def recur(
    network: nn.RNNBase,
    run: Callable[[Tensor, list[Tensor], list[Tensor], How], tuple[Tensor, ...]],
    x: Tensor,
    before: list[Tensor],
    dtype: torch.dtype,
) -> tuple[Tensor, list[Tensor]]:
    """x `[B, T, C]` through torch's network of one layer, and its leaves `[1, B, C]` after that.

    `run` is torch's function for it, which computes in `dtype` on a CPU, whatever the precision:
    oneDNN's has bf16 on a few processors only.
    """
    on_cpu = x.device.type == "cpu"
    dtype = dtype if on_cpu else x.dtype
    weights = [weight.to(dtype) for weight in network.all_weights[0]]
    if not torch.is_grad_enabled():  # else torch adds in another order where none is frozen
        weights = [weight.detach() for weight in weights]
    how = (True, 1, 0.0, torch.is_grad_enabled(), False, True)
    with torch.autocast("cpu", enabled=False) if on_cpu else nullcontext():
        y, *after = run(x.to(dtype), [leaf.to(dtype) for leaf in before], weights, how)
    return y.to(x.dtype), after
