"""Hard-max attention with heads of size 2, decoded in O(log T) a token and head.

A head returns the value at the key with the largest score, argmax_j q_t . k_j, ties averaged: what
softmax attention tends to at temperature 0. In two dimensions that key is an extreme point of the
keys' convex hull, so decoding needs the hull and not the keys (`models.ops.hull`; the idea is that
of Percepta's "Can LLMs be computers?", 2026, whose weights were compiled and not trained).

    q, k, v = short convolution of W_qkv x        heads of 2 channels, k of length 1
    y_t = mean of v_j over argmax_{j <= t} q_t . k_j                     C / 2 heads
    x + W_o y, then x + SwiGLU                                          as in the Transformer

Keys of length 1 are all extreme, so that each can be found; the best one is the nearest in angle.
With `plane`, keys lie anywhere and a head can find only what is on the hull of what it has seen.

An argmax has no gradient. In a training step the head is a softmax of q . k / tau over all
keys before, tau falling from `temperature` to `final_temperature` during the training; with
`selection=straight_through` it returns the hard value and has the gradient of that softmax. With
`margin`, the objective also holds the mean shortfall of the gap between the two best scores, for
which a softmax is off by at most (n - 1) exp(-gap / tau). Everywhere else, in validation and
decoding alike, and wherever there is a state, selection is hard; with `top_k` a softmax over the k
nearest angles at the final temperature.

A sum knows no order: as in linear attention it enters through the short convolution. What the laws
of the contract say is exact in real numbers; where two scores tie but for rounding, a chunk that
is computed in another order may select another key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from models.contract import State
from models.layers.mixer_block import MixerBlock, MixerTrunk, ShortConvolution
from models.layers.norms import RMSNorm
from models.layers.trunk import Mixer, linear_flops
from models.ops.attention import attend, query_key_pairs
from models.ops.hull.operator import (
    ALL,
    backend,
    hard_attention,
    hard_attention_in_the_plane,
    init_cache,
)
from models.transformer import FeedForward

HEAD = 2
"""Channels of a head: in more dimensions hulls are no longer small or quick to search."""
SELECTIONS = ("soft", "straight_through")


@dataclass(frozen=True)
class HullConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C], of C / 2 heads
    n_ffn: int | None = None  # [F]; default 3 C
    n_conv: int = 4  # [K], tokens that a convolution sees, itself included; 1: none
    norm_eps: float = 1e-5
    selection: str = "soft"  # what a training step reads: soft | straight_through
    temperature: float = 0.3  # of the softmax where a training begins
    final_temperature: float = 0.02  # and where it ends
    margin: float = 0.0  # gap of the two best scores below which training pulls them apart; 0: none
    margin_weight: float = 0.1  # of its mean shortfall in the objective
    plane: bool = False  # keys anywhere in the plane, not of length 1
    top_k: int | None = None  # softmax over so many nearest angles; default: hard

    def __post_init__(self) -> None:
        if self.n_embd % HEAD:
            raise UserError(f"model.n_embd={self.n_embd} must be even: heads have 2 channels")
        if self.n_conv < 1:
            raise UserError(f"model.n_conv={self.n_conv} must be 1 or more")
        if self.selection not in SELECTIONS:
            raise UserError(
                f"model.selection={self.selection!r} is not one of {', '.join(SELECTIONS)}"
            )
        if not 0 < self.final_temperature <= self.temperature < math.inf:
            raise UserError(
                f"model.temperature={self.temperature} must be at least model.final_temperature="
                f"{self.final_temperature}, and that above 0"
            )
        if self.margin < 0 or self.margin_weight < 0:
            raise UserError(
                f"model.margin={self.margin} and model.margin_weight={self.margin_weight} must be "
                "0 or more"
            )
        if self.top_k is not None and (self.top_k < 1 or self.plane):
            raise UserError(
                f"model.top_k={self.top_k} must be 1 or more, and needs keys of length 1: "
                "model.plane=false"
            )


class HullAttention(Mixer):
    """W_o of the heads' y, with all of q, k and v from one product and one convolution."""

    def __init__(self, config: HullConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.heads, self.config = width // HEAD, config
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.conv = ShortConvolution(3 * width, config.n_conv)
        self.output = nn.Linear(width, width, bias=False)
        self.temperature = config.temperature
        """What the next training step divides scores by; nothing else asks for it."""
        self.sharpness = _sharpness(config.temperature)
        self.shortfall: Tensor | None = None
        """Mean by which gaps fell short of the margin in the last training step."""

    def forward(
        self, x: Tensor, state: State | None, beside: Any
    ) -> tuple[Tensor, State | None, Any]:
        """x `[B, T, C]` to `[B, T, C]`."""
        conv, cache = (None, None) if state is None else (state["conv"], state["cache"])
        mixed, conv = self.conv(self.qkv(x), conv)  # [B, T, 3 C]
        heads = mixed.unflatten(-1, (3, self.heads, HEAD)).permute(2, 0, 3, 1, 4)
        q, k, v = heads.contiguous().unbind(0)  # [B, H, T, 2] each; flash needs rows in one piece
        if self.is_soft(state):
            y = self._soft(q, k, v)
        else:
            y, cache = self._hard(q, k, v, cache)
        after = None if state is None else {"conv": conv, "cache": cache}
        return self.output(y.transpose(1, 2).flatten(2)), after, beside

    def is_soft(self, state: State | None) -> bool:
        """Whether a call with this state is one of a training step, which has gradients."""
        return state is None and self.training and torch.is_grad_enabled()

    def _soft(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax attention at the temperature of the moment, with gradients."""
        keys = k if self.config.plane else F.normalize(k, dim=-1)
        if self.config.margin:
            self.shortfall = shortfall(q, keys, self.config.margin)
        sharp = q * self.sharpness
        y = attend(sharp, keys, v, "auto")
        if self.config.selection == "straight_through":
            y = y + (self._hard(q, k, v, None)[0] - y).detach()
        return y

    def _hard(
        self, q: Tensor, k: Tensor, v: Tensor, cache: State | None
    ) -> tuple[Tensor, State | None]:
        if self.config.plane:
            return hard_attention_in_the_plane(q, k, v, cache)
        sharpness = 1 / self.config.final_temperature
        return hard_attention(q, k, v, cache, self.config.top_k or ALL, sharpness)

    def anneal(self, share: float) -> None:
        """Set the temperature for a training of which this share is done, from 0 to 1."""
        first, last = self.config.temperature, self.config.final_temperature
        self.temperature = first * (last / first) ** min(max(share, 0.0), 1.0)
        self.sharpness = _sharpness(self.temperature)

    def reset(self) -> None:
        """Initial values of the convolution."""
        self.conv.reset()

    def init_state(self, batch: int, capacity: int | None) -> State:
        """The last tokens of the convolution `[B, K-1, 3 C]`, and the cache of the heads."""
        weight = self.output.weight
        return {
            "conv": self.conv.init_state(batch, weight),
            "cache": init_cache(
                (batch, self.heads), HEAD, capacity or 0, self.config.plane, weight.device
            ),
        }

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        """Those of softmax attention, which a training step computes and whose limit this is."""
        rows, width = batch * length, self.output.in_features
        return (
            linear_flops(self.qkv, rows)
            + linear_flops(self.output, rows)
            + self.conv.flops(batch, length)
            + 4 * batch * width * query_key_pairs(length, past, None, dense)
        )


def _sharpness(temperature: float) -> Tensor:
    """What queries are multiplied by, a scalar on the CPU: `attend` divides by sqrt(2). A tensor,
    since to a compiler another number is another graph."""
    return torch.tensor(math.sqrt(HEAD) / temperature, dtype=torch.float64, device="cpu")


def shortfall(q: Tensor, k: Tensor, margin: float) -> Tensor:
    """The mean of max(0, margin - gap), the gap that of the two best scores q . k / |q|, causal.

    q, k `[B, H, T, 2]`; a scalar. The first token has no second key and does not count. Holds all
    scores `[B, H, T, T]`.
    """
    length = q.shape[2]
    if length < 2:
        return q.new_zeros(())
    scores = F.normalize(q, dim=-1) @ k.transpose(-1, -2)
    unseen = ~torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    best = scores.masked_fill(unseen, -math.inf).topk(2, dim=-1).values[:, :, 1:]
    return F.relu(margin - (best[..., 0] - best[..., 1])).mean()


class HullBlock(MixerBlock):
    """The Transformer's block around `HullAttention`."""

    mixer: HullAttention

    @property
    def compile_problem(self) -> str:
        if self.mixer.config.selection == "soft":
            return ""
        return "selection=straight_through searches in every step, which is no graph"

    def is_graph(self, state: State | None) -> bool:
        """Only in a training step: a hard selection is a search."""
        return self.mixer.is_soft(state)

    def anneal(self, share: float) -> None:
        self.mixer.anneal(share)


class Hull(MixerTrunk):
    """Embedding, L blocks, RMSNorm, head."""

    Config = HullConfig
    title = "hard-max attention"
    operator = "hull"
    chooses = True
    can_file = False  # arenas hold numbers of nodes, which C++ follows
    options = ("selection", "plane", "top_k", "margin", "n_conv")

    def build_block(self, layer: int) -> HullBlock:
        c = self.config
        ffn = FeedForward(c.n_embd, c.n_ffn or 3 * c.n_embd)
        return HullBlock(HullAttention(c), ffn, self.build_norm)

    def build_norm(self) -> RMSNorm:
        return RMSNorm(self.config.n_embd, self.config.norm_eps)

    def mixer_backends(self) -> dict[str, str]:
        return {"hull": backend(self.head.weight.device)}

    def objective(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor, State | None]:
        """Minimise the shortfall of all layers' margins too; see the contract for the rest."""
        loss, reported, state = super().objective(*arguments, **options)
        if self.config.margin and self.training and torch.is_grad_enabled():
            mixers = [block.mixer for block in self.layers if isinstance(block, HullBlock)]
            missing = [mixer.shortfall for mixer in mixers if mixer.shortfall is not None]
            loss = loss + self.config.margin_weight * torch.stack(missing).mean().float()
        return loss, reported, state
