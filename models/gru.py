"""The GRU (Cho et al. 2014, arXiv 1406.1078), one per block, torch's own in the LSTM's block.

A token's state per layer is h alone: C numbers, the least of all models here. As torch has it, the
reset gate is applied behind the product with h and not before it, which lets the products of all
gates be one. Its steps depend on each other through a matrix, so time cannot be parallel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.contract import ParamGroup
from models.layers.init import init_normal, split_decay
from models.layers.network_block import How, NetworkBlock
from models.layers.trunk import Trunk
from models.ops.gru import gru


@dataclass(frozen=True)
class GRUConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    n_ffn: int | None = None  # [F]; default 7 C / 2, which makes a block 13 C^2 like RWKV-4's


class GRUBlock(NetworkBlock):
    """See `NetworkBlock`."""

    leaves = ("h",)
    gates = 3

    def __init__(self, config: GRUConfig) -> None:
        super().__init__(config.n_embd, config.n_ffn or 7 * config.n_embd // 2)

    def build_network(self, width: int) -> None:
        self.gru = nn.GRU(width, width, batch_first=True)

    @property
    def network(self) -> nn.GRU:
        return self.gru

    def run(
        self, x: Tensor, before: list[Tensor], weights: list[Tensor], how: How
    ) -> tuple[Tensor, ...]:
        if torch.compiler.is_compiling():
            y, h = gru(x, before[0][0], weights, torch.is_grad_enabled())
            return y, h[None]
        return torch.gru(x, before[0], weights, *how)


class GRU(Trunk):
    """Embedding, L blocks, LayerNorm, head; the order of tokens enters through the recurrence."""

    Config = GRUConfig
    title = "the GRU"
    recurrent = True

    def initialise(self) -> None:
        init_normal(self, self.config.n_layer, residual=("down.weight",))

    def build_block(self, layer: int) -> GRUBlock:
        return GRUBlock(self.config)

    def build_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.n_embd)

    def param_groups(self) -> list[ParamGroup]:
        return split_decay(self)

    def mixer_backends(self) -> dict[str, str]:
        return {"gru": "torch"}
