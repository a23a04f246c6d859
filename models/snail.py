"""SNAIL (Mishra, Rohaninejad, Chen and Abbeel 2018, arXiv 1707.03141), one per block.

A stack of causal convolutions, each of which sees twice as far as the one below, and attention
over what they made; all are joined to their inputs as further channels and never added:

    z_0 = norm(x)                                                     C channels
    a_i = tanh(f_i) sigmoid(g_i),  f_i, g_i = W_i [z_i(t), z_i(t - 2^i)]         F filters
    z_{i+1} = [z_i, a_i]                                              i = 0 .. D - 1
    r = softmax(q k / sqrt N) v, causal, of z_D                       N channels
    x + W_o [z_D, r]

As published, but for its last line: there, channels grow through the whole network, and here they
are brought back to C at the end of each block, by a convolution of width 1 as theirs at the end of
the network is, so that blocks stack. Positions are known by the convolutions alone.

The state is what the convolutions still reach, all inputs of the last one for 2^(D-1) tokens, of
which those below read the last ones; and keys and values of all tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from core.errors import UserError
from models.contract import State
from models.layers.attention_block import AttentionTrunk, grow_cache, write_cache
from models.layers.init import init_normal
from models.layers.norms import RMSNorm
from models.layers.trunk import Block, Stream, linear_flops
from models.ops.attention import KERNELS, attend, query_key_pairs
from models.ops.short_convolution import last_tokens


@dataclass(frozen=True)
class SNAILConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    n_dense: int = 4  # [D], convolutions of a block, the last of which looks back 2^(D-1) tokens
    n_filter: int | None = None  # [F], channels that each adds; default 3 C / 8
    head_size: int | None = None  # [N], of keys and of values; default C / 2
    norm_eps: float = 1e-5
    attention: str = "auto"  # auto | flash | efficient | cudnn | math

    def __post_init__(self) -> None:
        if not 1 <= self.n_dense <= 16:
            raise UserError(f"model.n_dense={self.n_dense} must be from 1 to 16")
        for name in ("n_filter", "head_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"model.{name}={value} must be 1 or more")
        if self.attention != "auto" and self.attention not in KERNELS:
            names = ", ".join(["auto", *KERNELS])
            raise UserError(f"model.attention={self.attention!r} is not one of {names}")


class DenseConvolution(nn.Module):
    """One of the convolutions, of two tokens that are `distance` apart."""

    def __init__(self, width: int, filters: int, distance: int) -> None:
        super().__init__()
        self.distance = distance
        self.now = nn.Linear(width, 2 * filters)
        self.before = nn.Linear(width, 2 * filters, bias=False)

    def forward(self, z: Tensor, history: Tensor) -> Tensor:
        """z `[B, T, W]` to `[B, T, W + F]`; of `history` `[B, R, >= W]`, the tokens before."""
        width, length = z.shape[2], z.shape[1]
        earlier = history[:, history.shape[1] - self.distance :, :width].to(z.dtype)
        earlier = torch.cat((earlier, z), dim=1)[:, :length]
        content, gate = (self.now(z) + self.before(earlier)).chunk(2, dim=-1)
        return torch.cat((z, content.tanh() * gate.sigmoid()), dim=-1)

    def flops(self, rows: int) -> int:
        """Both of its taps, for so many tokens."""
        return linear_flops(self.now, rows) + linear_flops(self.before, rows)


class SNAILBlock(Block):
    """x + W_o of all channels: the input's, the convolutions' and those that attention read."""

    def __init__(self, config: SNAILConfig) -> None:
        super().__init__()
        width, self.kernel = config.n_embd, config.attention
        filters = config.n_filter or max(1, 3 * width // 8)
        size = config.head_size or max(1, width // 2)
        self.ln = RMSNorm(width, config.norm_eps)
        self.dense = nn.ModuleList(
            DenseConvolution(width + i * filters, filters, 2**i) for i in range(config.n_dense)
        )
        self.reach, self.kept = 2 ** (config.n_dense - 1), width + (config.n_dense - 1) * filters
        self.qkv = nn.Linear(self.kept + filters, 3 * size, bias=False)
        self.output = nn.Linear(self.kept + filters + size, width, bias=False)

    @property
    def convolutions(self) -> list[DenseConvolution]:
        """From the nearest to the farthest, under their own type."""
        return cast(list[DenseConvolution], list(self.dense))

    def forward(self, stream: Stream, state: State | None) -> tuple[Stream, State | None]:
        z = self.ln(stream.x)
        shape = (len(z), self.reach, self.kept)
        history = z.new_zeros(shape) if state is None else state["conv"]
        for convolution in self.convolutions:
            z = convolution(z, history)
        q, k, v = self.qkv(z)[:, None].chunk(3, dim=-1)  # [B, 1, T, N] each: one head
        if state is not None:
            past, length = stream.positions[0], z.shape[1]
            kept = z[..., : self.kept].to(history.dtype)
            conv = last_tokens(torch.cat((history, kept), dim=1), self.reach)
            cache = grow_cache(state, past, past + length, None)
            k = write_cache(cache["k"], k, past, None)  # [B, 1, S, N]
            v = write_cache(cache["v"], v, past, None)
            state = {"conv": conv, **cache}
        r = attend(q, k, v, self.kernel)[:, 0]  # [B, T, N]
        x = stream.x + self.output(torch.cat((z, r), dim=-1))
        return stream._replace(x=x), state

    def init_state(self, batch: int, capacity: int | None) -> State:
        """Zeros `[B, 2^(D-1), C + (D-1) F]` before the first token; no keys and values yet."""
        like = self.qkv.weight
        shape = (batch, 1, capacity or 0, self.qkv.out_features // 3)
        return {
            "conv": like.new_zeros(batch, self.reach, self.kept).detach(),
            **{name: like.new_empty(shape).detach() for name in ("k", "v")},
        }

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        """All linear layers, and two products of N for each query and key."""
        rows, size = batch * length, self.qkv.out_features // 3
        convolutions = sum(one.flops(rows) for one in self.convolutions)
        linears = linear_flops(self.qkv, rows) + linear_flops(self.output, rows)
        pairs = query_key_pairs(length, past, None, dense)
        return convolutions + linears + 4 * batch * size * pairs


class SNAIL(AttentionTrunk):
    """Embedding, L blocks, RMSNorm, head."""

    Config = SNAILConfig
    title = "SNAIL"
    options = ("n_dense", "attention")
    can_span = False
    can_step = False
    can_fix = False

    def initialise(self) -> None:
        """Initial values are those of GPT-2, but for the matrices of blocks, which keep the size of
        what they are given: no norm stands between one convolution and the next."""
        init_normal(self, self.config.n_layer, residual=())
        for block in self.blocks:
            for layer in block.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def embed(self, tokens: Tensor, state: State | None) -> Stream:
        return Stream(self.emb(tokens), (self.past(state), None))

    def build_block(self, layer: int) -> SNAILBlock:
        return SNAILBlock(self.config)

    def build_norm(self) -> RMSNorm:
        return RMSNorm(self.config.n_embd, self.config.norm_eps)

    def mixer_backends(self) -> dict[str, str]:
        return {"attention": "torch" if self.config.attention == "auto" else self.config.attention}
