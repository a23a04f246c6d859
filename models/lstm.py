"""The LSTM (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000), one per block.

The recurrent network of before attention, in the block that everybody has here: torch's own
`nn.LSTM` where others mix tokens, then a feed-forward layer, both behind a norm and added to the
residual stream. A token's state per layer is h and c: 2 C numbers. Its steps depend on each other
through a matrix, so time cannot be parallel: it is the control for what that costs.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from models.contract import ParamGroup, State
from models.layers.init import init_normal, split_decay
from models.layers.trunk import Block, Stream, Trunk, linear_flops


def _products(x: Any, weights: Any) -> int:
    """Products of four gates, each of which reads x `[T, B, C]` and h."""
    length, batch, width = x
    return 2 * length * batch * weights[0] * 2 * width


# A whole layer is one operation of oneDNN, which torch's counter of operations does not know.
@register_flop_formula(torch.ops.aten.mkldnn_rnn_layer)
def _forward_flops(x: Any, weights: Any, *_: Any, **__: Any) -> int:
    return _products(x, weights)


@register_flop_formula(torch.ops.aten.mkldnn_rnn_layer_backward)
def _backward_flops(x: Any, weights: Any, *_: Any, **__: Any) -> int:
    return 2 * _products(x, weights)


@dataclass(frozen=True)
class LSTMConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    n_ffn: int | None = None  # [F]; default 5 C / 2, which makes a block 13 C^2 like RWKV-4's


class LSTMBlock(Block):
    """x + lstm(norm(x)), then x + W_down gelu(W_up norm(x))."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        width, hidden = config.n_embd, config.n_ffn or 5 * config.n_embd // 2
        self.ln1 = nn.LayerNorm(width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.ln2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, stream: Stream, state: State | None) -> tuple[Stream, State | None]:
        before = self.init_state(len(stream), None) if state is None else state
        mixed, after = self._recur(self.ln1(stream), before)
        x = stream + mixed
        x = x + self.down(F.gelu(self.up(self.ln2(x))))
        return x, None if state is None else after

    def _recur(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """On a CPU in fp32 whatever the precision: oneDNN's has bf16 on a few processors only."""
        on_cpu = x.device.type == "cpu"
        dtype = torch.float32 if on_cpu else x.dtype
        weights = [weight.to(dtype) for weight in self.lstm.all_weights[0]]
        before = [state[name][None].to(dtype) for name in ("h", "c")]
        # Biases; one layer; no dropout; whether a backward pass follows; one way; batch first.
        how = (True, 1, 0.0, torch.is_grad_enabled(), False, True)
        with torch.autocast("cpu", enabled=False) if on_cpu else nullcontext():
            y, h, c = torch.lstm(x.to(dtype), before, weights, *how)
        return y.to(x.dtype), {"h": h[0].float(), "c": c[0].float()}

    def init_state(self, batch: int, capacity: int | None) -> State:
        """Zeros `[B, C]`, fp32."""
        width, device = self.up.in_features, self.up.weight.device
        return {name: torch.zeros(batch, width, device=device) for name in ("h", "c")}

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        """Four gates read x and h; and the feed-forward layer."""
        rows, width = batch * length, self.up.in_features
        gates = 2 * rows * 4 * width * 2 * width
        return gates + linear_flops(self.up, rows) + linear_flops(self.down, rows)


class LSTM(Trunk):
    """Embedding, L blocks, LayerNorm, head; the order of tokens enters through the recurrence."""

    Config = LSTMConfig
    title = "the LSTM"
    recurrent = True

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        init_normal(self, config.n_layer, residual=("down.weight",))

    def build_block(self, layer: int) -> LSTMBlock:
        return LSTMBlock(self.config)

    def build_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.n_embd)

    def param_groups(self) -> list[ParamGroup]:
        return split_decay(self)

    def mixer_backends(self) -> dict[str, str]:
        return {"lstm": "torch"}
