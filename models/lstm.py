"""The LSTM (Hochreiter and Schmidhuber 1997; forget gates of Gers et al. 2000), one per block.

The recurrent network of before attention, in the block that everybody has here: torch's own
`nn.LSTM` where others mix tokens, then a feed-forward layer, both behind a norm and added to the
residual stream. A token's state per layer is h and c: 2 C numbers. Its steps depend on each other
through a matrix, so time cannot be parallel: it is the control for what that costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.contract import ParamGroup
from models.layers.init import init_normal, split_decay
from models.layers.network_block import How, NetworkBlock
from models.layers.trunk import Trunk
from models.ops.lstm import lstm


@dataclass(frozen=True)
class LSTMConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    n_ffn: int | None = None  # [F]; default 5 C / 2, which makes a block 13 C^2 like RWKV-4's


class LSTMBlock(NetworkBlock):
    """See `NetworkBlock`."""

    leaves = ("h", "c")
    gates = 4

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config.n_embd, config.n_ffn or 5 * config.n_embd // 2)

    def build_network(self, width: int) -> None:
        self.lstm = nn.LSTM(width, width, batch_first=True)

    @property
    def network(self) -> nn.LSTM:
        return self.lstm

    def run(
        self, x: Tensor, before: list[Tensor], weights: list[Tensor], how: How
    ) -> tuple[Tensor, ...]:
        if torch.compiler.is_compiling():
            h, c = (each[0] for each in before)
            y, h, c = lstm(x, h, c, weights, torch.is_grad_enabled())
            return y, h[None], c[None]
        return torch.lstm(x, before, weights, *how)


class LSTM(Trunk):
    """Embedding, L blocks, LayerNorm, head; the order of tokens enters through the recurrence."""

    Config = LSTMConfig
    title = "the LSTM"
    recurrent = True

    def initialise(self) -> None:
        init_normal(self, self.config.n_layer, residual=("down.weight",))

    def build_block(self, layer: int) -> LSTMBlock:
        return LSTMBlock(self.config)

    def build_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.n_embd)

    def param_groups(self) -> list[ParamGroup]:
        return split_decay(self)

    def mixer_backends(self) -> dict[str, str]:
        return {"lstm": "torch"}
