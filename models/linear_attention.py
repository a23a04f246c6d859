"""Linear attention (Katharopoulos et al. 2020, arXiv 2006.16236) in the Transformer's block.

Softmax's exp(q^T k) is replaced by phi(q)^T phi(k), phi = elu + 1, so that what all tokens before
add up to is a state of one size (equations 16 to 20):

    S_t = S_{t-1} + phi(k_t) v_t^T          z_t = z_{t-1} + phi(k_t)
    y_t = S_t^T phi(q_t) / (z_t^T phi(q_t))

S is what WKV-5 computes with a decay of 1 and a bonus of 1, by the same kernels. A sum knows no
order, and their learned positions would end with their table: order enters through a convolution
over the last `n_conv` queries, keys and values, as in later linear models (Yang et al. 2024, arXiv
2406.06484); `n_conv=1` leaves it out. A token's state per layer is (N + 1) C numbers, and 3 C for
each token that the convolution looks back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from models.contract import State
from models.layers.mixer_block import MixerBlock, RecurrentMixerTrunk, ShortConvolution
from models.layers.norms import RMSNorm
from models.layers.rwkv_block import check_config
from models.layers.trunk import Mixer, linear_flops
from models.ops.short_convolution import running_sum
from models.ops.wkv import wkv5, wkv5_flops
from models.transformer import FeedForward

SMALLEST = 1e-6
"""Added to the normaliser, as in the authors' code."""


@dataclass(frozen=True)
class LinearAttentionConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]
    head_size: int = 64  # [N]
    n_ffn: int | None = None  # [F]; default 3 C
    n_conv: int = 4  # [K], tokens that a convolution sees, itself included; 1: none
    norm_eps: float = 1e-5
    wkv: str = "auto"  # back end of the recurrence: auto | reference | cpu | cuda

    def __post_init__(self) -> None:
        check_config(self)
        if self.n_conv < 1:
            raise UserError(f"model.n_conv={self.n_conv} must be 1 or more")


def feature_map(x: Tensor) -> Tensor:
    """phi = elu + 1, which is positive; in fp32."""
    return F.elu(x.to(torch.promote_types(x.dtype, torch.float32))) + 1


class LinearAttention(Mixer):
    """W_o of the heads' y, with all of q, k and v from one product and one convolution."""

    def __init__(self, config: LinearAttentionConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.heads, self.backend = width // config.head_size, config.wkv
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.conv = ShortConvolution(3 * width, config.n_conv)
        self.output = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, state: State | None, beside: Any
    ) -> tuple[Tensor, State | None, Any]:
        """x `[B, T, C]` to `[B, T, C]`."""
        conv, wkv, z = (None if state is None else state[name] for name in ("conv", "wkv", "z"))
        mixed, conv = self.conv(self.qkv(x), conv)  # [B, T, 3 C]
        q, k, v = mixed.unflatten(-1, (3, self.heads, -1)).unbind(2)  # [B, T, H, N] each
        q, k = feature_map(q), feature_map(k)  # fp32
        wide = k.dtype
        u = torch.ones_like(k[0, 0], dtype=wide)  # [H, N]
        y, wkv = wkv5(q, torch.zeros_like(u), k, v.to(wide), u, wkv, self.backend)
        sums, z = running_sum(k, z)  # [B, T, H, N], [B, H, N]
        y = y / ((q * sums).sum(-1, keepdim=True) + SMALLEST)
        after = None if state is None else {"conv": conv, "wkv": wkv, "z": z}
        return self.output(y.flatten(2).to(x.dtype)), after, beside

    def reset(self) -> None:
        """Initial values of the convolution."""
        self.conv.reset()

    def init_state(self, batch: int, capacity: int | None) -> State:
        """The last tokens of the convolution `[B, K-1, 3 C]`, S `[B, H, N, N]`, z `[B, H, N]`."""
        size, device = self.output.in_features // self.heads, self.output.weight.device
        shape = (batch, self.heads, size)
        return {
            "conv": self.conv.init_state(batch, self.output.weight),
            "wkv": torch.zeros(*shape, size, dtype=torch.float32, device=device),
            "z": torch.zeros(shape, dtype=torch.float32, device=device),
        }

    def learnable_state(self) -> dict[str, Any]:
        """S and z, from zero; not the last tokens."""
        return {name: self.init_state(1, None)[name][0] for name in ("wkv", "z")}

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        rows, width = batch * length, self.output.in_features
        return (
            linear_flops(self.qkv, rows)
            + linear_flops(self.output, rows)
            + self.conv.flops(batch, length)
            + wkv5_flops(batch, length, self.heads, width // self.heads)
        )


class LinearTransformer(RecurrentMixerTrunk):
    """Embedding, L blocks, RMSNorm, head."""

    Config = LinearAttentionConfig
    title = "linear attention"
    operator = "wkv6"
    options = ("wkv", "n_conv")

    def build_block(self, layer: int) -> MixerBlock:
        c = self.config
        ffn = FeedForward(c.n_embd, c.n_ffn or 3 * c.n_embd)
        return MixerBlock(LinearAttention(c), ffn, self.build_norm)

    def build_norm(self) -> RMSNorm:
        return RMSNorm(self.config.n_embd, self.config.norm_eps)
