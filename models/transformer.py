"""The modern Transformer baseline: RoPE, RMSNorm, SwiGLU, optional grouped-query heads.

Llama's block (Touvron et al. 2023, arXiv 2302.13971), attention by PyTorch's fused kernels. It is
meant to be the best baseline the machine can run: a weak one would make every conclusion worthless.
With `window`, every layer attends to that many tokens only (Jiang et al. 2023, arXiv 2310.06825):
as linear as an RWKV, and a control for what linear cost alone is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.contract import State
from models.decoding.program import Program
from models.layers.attention_block import Attention, AttentionTrunk, rope_table
from models.layers.trunk import Block, Stream, linear_flops
from models.long_context import sequence_parallel
from models.ops.elementwise import rms_norm, swiglu


@dataclass(frozen=True)
class TransformerConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    n_head: int  # [H]
    n_kv_head: int | None = None  # [G], grouped-query attention; default H
    n_ffn: int | None = None  # [F]; default 3 C, which makes a block 13 C^2 like RWKV-4's
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    attention: str = "auto"  # auto | flash | efficient | cudnn | math
    window: int | None = None  # [W], tokens seen, itself included; default all


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.ones(config.n_embd))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class FeedForward(nn.Module):
    """SwiGLU: W_down (silu(W_gate x) * W_up x) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.n_ffn or 3 * config.n_embd
        self.gate_up = nn.Linear(config.n_embd, 2 * width, bias=False)
        self.down = nn.Linear(width, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(swiglu(self.gate_up(x)))

    def flops(self, rows: int) -> int:
        return linear_flops(self.gate_up, rows) + linear_flops(self.down, rows)

    def step(self, p: Program, x: Tensor, y: Tensor) -> None:
        """A single token: x += this layer of its norm y."""
        hidden = p.buffer("hidden", self.down.in_features)
        n = [self.gate_up.in_features, self.down.in_features]
        p.emit("swiglu", n, [y, self.gate_up.weight, hidden])
        p.linear(hidden, self.down, x, sink="add")


class TransformerBlock(Block):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.rope_base = config.rope_base
        self.ln1 = RMSNorm(config)
        self.att = Attention(
            config.n_embd,
            config.n_head,
            config.n_kv_head,
            config.attention,
            window=config.window,
        )
        self.ln2 = RMSNorm(config)
        self.ffn = FeedForward(config)

    def forward(self, stream: Stream, state: State | None) -> tuple[Stream, State | None]:
        x, past, rope = stream
        mixed, state = self.att(self.ln1(x), past, state, rope)
        x = x + mixed
        x = x + self.ffn(self.ln2(x))
        return (x, past, rope), state

    def init_state(self, batch: int, capacity: int | None) -> State:
        return self.att.init_state(batch, capacity)

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        return self.att.flops(batch, length, past, dense) + self.ffn.flops(batch * length)

    def step(self, program: Program, x: Tensor, layer: int) -> None:
        (y,) = program.norm(x, self.ln1)
        self.att.step(program, x, y, self.rope_base)
        (y,) = program.norm(x, self.ln2)
        self.ffn.step(program, x, y)


class Transformer(AttentionTrunk):
    """Embedding, L blocks, RMSNorm, head; positions enter as rotations of queries and keys."""

    Config = TransformerConfig
    title = "the Transformer"
    options = ("attention", "window")
    can_span = True

    def build_block(self, layer: int) -> TransformerBlock:
        return TransformerBlock(self.config)

    def build_norm(self) -> RMSNorm:
        return RMSNorm(self.config)

    def embed(self, tokens: Tensor, state: State | None) -> Stream:
        past = self.past(state) + sequence_parallel.tokens_before(tokens.shape[1])
        x = self.emb(tokens)
        head_size = self.config.n_embd // self.config.n_head
        return x, past, rope_table(past, tokens.shape[1], head_size, self.config.rope_base, x)
