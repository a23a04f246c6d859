"""The GPT-2 style Transformer: learned positions, LayerNorm, GELU.

Radford et al. 2019, in the bias-free form most small trainings use today; `bias=true` gives the
original, with `activation=gelu_tanh`. The head is not tied to the embedding unless `tie_embeddings`
says so, because the trunk is the same for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from models.contract import State
from models.decoding.program import Program
from models.layers.attention_block import (
    Attention,
    AttentionBlock,
    AttentionTrunk,
    check_config,
    dropout,
)
from models.layers.norms import LayerNorm
from models.layers.trunk import Stream, linear_flops

APPROXIMATIONS = {"gelu": "none", "gelu_tanh": "tanh"}
"""Torch's word for how each activation computes the error function."""


@dataclass(frozen=True)
class GPTConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    n_head: int  # [H]
    n_ffn: int | None = None  # [F]; default 4 C
    n_positions: int = 1024  # learned positions: the longest context it can read
    bias: bool = False  # in every linear layer and norm
    attention: str = "auto"  # auto | flash | efficient | cudnn | math
    activation: str | None = None  # gelu | gelu_tanh, its approximation by tanh; default gelu
    dropout: float | None = None  # share of what enters the residual stream; default 0
    tie_embeddings: bool | None = None  # the head's weight is the embedding's; default false

    def __post_init__(self) -> None:
        check_config(self)
        if self.activation not in (None, *APPROXIMATIONS):
            names = ", ".join(APPROXIMATIONS)
            raise UserError(f"model.activation={self.activation!r} is not one of {names}")


class FeedForward(nn.Module):
    """W_down gelu(W_up x)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width = config.n_ffn or 4 * config.n_embd
        self.activation = config.activation or "gelu"
        self.up = nn.Linear(config.n_embd, width, bias=config.bias)
        self.down = nn.Linear(width, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, T, C]` to `[B, T, C]`."""
        hidden = F.gelu(self.up(x), approximate=APPROXIMATIONS[self.activation])  # [B, T, F]
        return self.down(hidden)

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        return sum(linear_flops(layer, batch * length) for layer in (self.up, self.down))

    def step(self, p: Program, x: Tensor, norm: nn.Module, layer: int) -> None:
        (y,) = p.norm(x, norm)
        hidden = p.linear(y, self.up, "hidden", self.activation)
        p.linear(hidden, self.down, x, sink="add")


class GPT(AttentionTrunk):
    """Embedding plus learned positions, L blocks, LayerNorm, head."""

    Config = GPTConfig
    options = ("attention", "dropout", "tie_embeddings")
    length_field = "n_positions"

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.pos_emb = nn.Embedding(config.n_positions, config.n_embd)
        nn.init.normal_(self.pos_emb.weight, std=0.02)

    def build_block(self, layer: int) -> AttentionBlock:
        c = self.config
        att = Attention(c.n_embd, c.n_head, None, c.attention, c.bias)
        return AttentionBlock(att, FeedForward(c), self.build_norm, c.dropout)

    def build_norm(self) -> LayerNorm:
        return LayerNorm(self.config.n_embd, bias=self.config.bias)

    def embed(self, tokens: Tensor, state: State | None) -> Stream:
        past = self.first_position(state, tokens.shape[1])
        if isinstance(past, Tensor):
            return Stream(self.emb(tokens) + self.pos_emb(past), (past, None))
        end = past + tokens.shape[1]
        self.check_positions(end)
        x = self.emb(tokens) + self.pos_emb.weight[past:end]  # [B, T, C] + [T, C]
        return Stream(dropout(x, self.config.dropout, self), (past, None))

    def check_positions(self, end: int) -> None:
        """Raise `UserError` if `end` tokens have no learned positions."""
        if end > self.config.n_positions:
            raise UserError(
                f"gpt has {self.config.n_positions} learned positions, too few for {end} tokens: "
                "raise model.n_positions before training, or use a model without this limit"
            )

    def check_length(self, end: int) -> None:
        self.check_positions(end)

    def reserve_cache(self, program: Program, state: State, rows: slice) -> State:
        self.check_positions(self.past(state) + 1)
        return super().reserve_cache(program, state, rows)

    def embed_step(self, program: Program, x: Tensor) -> None:
        operands: list[Any] = [
            program.tokens,
            self.emb.weight,
            self.pos_emb.weight,
            x,
            program.positions,
        ]
        program.emit("embed", [x.shape[1]], operands)
