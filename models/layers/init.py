"""Initial values and optimizer groups: those of the attention models, then those of RWKV."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models.contract import ParamGroup

HEAD_NORM_EPS = 64e-5  # of the norm after the recurrence: 8^2 * 1e-5, whatever the head size


def init_normal(
    model: nn.Module, n_layer: int, residual: tuple[str, ...], std: float = 0.02
) -> None:
    """GPT-2's initialisation (Radford et al. 2019, section 2.3), in place.

    Every matrix is N(0, std); those whose name ends in `residual` are scaled by 1/sqrt(2 L), so
    that the residual stream does not grow with depth; biases are 0 and norms keep weight 1.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            scale = 1 / math.sqrt(2 * n_layer) if name.endswith(residual) else 1.0
            nn.init.normal_(parameter, std=std * scale)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def split_decay(model: nn.Module) -> list[ParamGroup]:
    """Matrices decay, vectors do not: the usual AdamW grouping of Transformers."""
    matrices = [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]
    vectors = [name for name, parameter in model.named_parameters() if parameter.ndim < 2]
    return [ParamGroup(tuple(matrices), decay=True), ParamGroup(tuple(vectors))]


class InitSchedule:
    """The quantities official initial values of an RWKV are made of, for one layer.

    `depth` goes from 0 at the first layer to 1 at the last, `remaining` from 1 to 1/L; the others
    are `[C]` over channels, on a CPU. `is_first` says whether no layer of its kind is below.
    """

    def __init__(self, layer: int, n_layer: int, width: int, is_first: bool) -> None:
        index = torch.arange(width, device="cpu")
        self.layer, self.is_first = layer, is_first
        self.depth = layer / max(n_layer - 1, 1)
        self.remaining = 1 - layer / n_layer
        self.output_gain = ((1 + layer) / n_layer) ** 0.7  # weight of the norm of heads
        self.channel = index / width  # 0 .. 1 - 1/C
        self.spread = index / max(width - 1, 1)  # 0 .. 1
        self.zigzag = (index + 1) % 3 - 1  # 0, 1, -1, 0, ...

    def decay(self) -> Tensor:
        """0 .. 1 over channels, bent more the deeper the layer: the shape of every time_decay."""
        return self.spread ** (0.7 + 1.3 * self.depth)

    def bonus(self) -> Tensor:
        """The time_faaaa of RWKV-5 and 6."""
        return self.depth * (1 - self.spread) + 0.1 * self.zigzag


def init_matrices(
    model: Any, embedding: float, gains: dict[str, float], zeros: Iterable[str]
) -> None:
    """Official initial values of the weight matrices, in place; vectors have theirs already.

    The embedding is U(-embedding, embedding) (block 0 normalises its scale away), the head
    orthogonal with gain 0.5 sqrt(V / C) where V > C. `gains` are those of orthogonal matrices and
    `zeros` are left out at first, both by name within a block. Every mixer thus starts as the
    identity, and the first loss is that of head(norm(norm(embedding))): about ln V + 0.13.
    """
    nn.init.uniform_(model.emb.weight, -embedding, embedding)
    orthogonal_head(model.head)
    for block in model.blocks:
        for name, gain in gains.items():
            nn.init.orthogonal_(block.get_parameter(f"{name}.weight"), gain=gain)
        for name in zeros:
            nn.init.zeros_(block.get_parameter(f"{name}.weight"))


def orthogonal_head(head: nn.Linear) -> None:
    """The head of an RWKV at first, in place."""
    vocab, width = head.weight.shape
    nn.init.orthogonal_(head.weight, gain=0.5 * math.sqrt(max(vocab / width, 1)))


def official_groups(model: nn.Module, lr_scales: dict[str, float]) -> list[ParamGroup]:
    """The official groups of an RWKV: weight matrices decay, and a few vectors learn faster.

    `lr_scales` holds the learning-rate multipliers of vectors by the end of their name.
    """
    groups: dict[tuple[float, bool], list[str]] = {}
    for name, parameter in model.named_parameters():
        decay = name.endswith(".weight") and parameter.squeeze().ndim >= 2
        scale = next((s for end, s in lr_scales.items() if name.endswith(end)), 1.0)
        groups.setdefault((scale, decay), []).append(name)
    return [ParamGroup(tuple(names), *key) for key, names in groups.items()]


def parameter(values: Tensor) -> nn.Parameter:
    """Initial values as a parameter, on the device on which the model is built.

    They are computed on a CPU: arithmetic on the meta device would import the compiler, which takes
    two seconds.
    """
    return nn.Parameter(torch.empty(values.shape, dtype=values.dtype).copy_(values))


def vector(values: Tensor) -> nn.Parameter:
    """`[C]` as a parameter of the official shape `[1, 1, C]`."""
    return parameter(values[None, None])


def low_rank(width: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """`[C, R]` zeros and `[R, C]` orthogonal with gain 0.1, applied as x @ first @ second."""
    gain = 0.1 * math.sqrt(max(rank / width, 1))
    second = nn.init.orthogonal_(torch.empty(rank, width), gain=gain)
    return nn.Parameter(torch.zeros(width, rank)), nn.Parameter(second)


def head_norm(heads: int, width: int, schedule: InitSchedule) -> nn.GroupNorm:
    """The norm of every head on its own, after the recurrence; it holds the parameters `[C]`."""
    norm = nn.GroupNorm(heads, width, eps=HEAD_NORM_EPS)
    nn.init.constant_(norm.weight, schedule.output_gain)
    return norm


def head_zigzag(width: int, head_size: int) -> Tensor:
    """`[C]`, on a CPU: within each head from -1 to 1, as s |s| of a linear ramp s."""
    middle = (head_size - 1) / 2
    ramp = (torch.arange(width, device="cpu") % head_size - middle) / max(middle, 0.5)
    return ramp * ramp.abs()
