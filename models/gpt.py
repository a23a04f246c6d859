"""The GPT-2 style Transformer: learned positions, LayerNorm, GELU.

Radford et al. 2019, in the bias-free form most small trainings use today; `bias=true` gives the
original. The head is not tied to the embedding, because the trunk is the same for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from models.contract import State
from models.decoding.program import Program
from models.layers.attention_block import Attention, AttentionTrunk
from models.layers.trunk import Block, Stream, linear_flops
from models.long_context import sequence_parallel


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


class FeedForward(nn.Module):
    """W_down gelu(W_up x)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width = config.n_ffn or 4 * config.n_embd
        self.up = nn.Linear(config.n_embd, width, bias=config.bias)
        self.down = nn.Linear(width, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))

    def flops(self, rows: int) -> int:
        return linear_flops(self.up, rows) + linear_flops(self.down, rows)

    def step(self, p: Program, x: Tensor, y: Tensor) -> None:
        """A single token: x += this layer of its norm y."""
        hidden = p.linear(y, self.up, "hidden", "gelu")
        p.linear(hidden, self.down, x, sink="add")


class GPTBlock(Block):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.att = Attention(config.n_embd, config.n_head, None, config.attention, config.bias)
        self.ln2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.ffn = FeedForward(config)

    def forward(self, stream: Stream, state: State | None) -> tuple[Stream, State | None]:
        x, past = stream
        mixed, state = self.att(self.ln1(x), past, state)
        x = x + mixed
        x = x + self.ffn(self.ln2(x))
        return (x, past), state

    def init_state(self, batch: int, capacity: int | None) -> State:
        return self.att.init_state(batch, capacity)

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        return self.att.flops(batch, length, past, dense) + self.ffn.flops(batch * length)

    def step(self, program: Program, x: Tensor, layer: int) -> None:
        (y,) = program.norm(x, self.ln1)
        self.att.step(program, x, y, None)
        (y,) = program.norm(x, self.ln2)
        self.ffn.step(program, x, y)


class GPT(AttentionTrunk):
    """Embedding plus learned positions, L blocks, LayerNorm, head."""

    Config = GPTConfig
    options = ("attention",)
    length_field = "n_positions"
    can_span = True

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.pos_emb = nn.Embedding(config.n_positions, config.n_embd)
        nn.init.normal_(self.pos_emb.weight, std=0.02)

    def build_block(self, layer: int) -> GPTBlock:
        return GPTBlock(self.config)

    def build_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.n_embd, bias=self.config.bias)

    def embed(self, tokens: Tensor, state: State | None) -> Stream:
        past = self.past(state) + sequence_parallel.tokens_before(tokens.shape[1])
        end = past + tokens.shape[1]
        self.check_positions(end)
        return self.emb(tokens) + self.pos_emb.weight[past:end], past

    def check_positions(self, end: int) -> None:
        """Raise `UserError` if `end` tokens have no learned positions."""
        if end > self.config.n_positions:
            raise UserError(
                f"gpt has {self.config.n_positions} learned positions, too few for {end} tokens: "
                "raise model.n_positions before training, or use a model without this limit"
            )

    def reserve_cache(self, program: Program, state: State) -> State:
        self.check_positions(self.past(state) + 1)
        return super().reserve_cache(program, state)

    def embed_step(self, program: Program, x: Tensor) -> None:
        operands: list[Any] = [
            program.tokens,
            self.emb.weight,
            self.pos_emb.weight,
            x,
            program.position,
        ]
        program.emit("embed", [x.shape[1]], operands)
