"""What of a model's weights is trained: all of them, low-rank adapters, or its initial state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError, shown
from models.contract import ParamGroup
from models.layers.adapters import Adapted

FULL, LORA, STATE = MODES = ("full", "lora", "state")
INITIAL = "initial."
"""What the names of a learned state begin with."""
A, B = ".lora_A", ".lora_B"
"""What the names of an adapter's two matrices end with, behind that of its layer."""


@dataclass(frozen=True)
class Tuning:
    """How a model is tuned. Rank, alpha and targets are those of adapters."""

    mode: str
    rank: int = 0
    alpha: float = 0.0
    targets: tuple[str, ...] = ()
    """Linear layers inside a block, by full name, part or last name; none: all of them."""

    @classmethod
    def of(cls, mode: str, rank: int, alpha: float, targets: Any) -> Tuning:
        """One in which only what its mode reads is set, so that equal tunings are equal."""
        return cls(mode, rank, alpha, tuple(targets)) if mode == LORA else cls(mode)

    @classmethod
    def parse(cls, recorded: Any) -> Tuning:
        """The tuning of `as_dict`. Raises `ValueError` for anything else."""
        names = ("mode", "rank", "alpha", "targets")
        if not isinstance(recorded, Mapping) or {*recorded} != {*names}:
            raise ValueError("no tuning")
        mode, rank, alpha, targets = (recorded[name] for name in names)
        sound = (
            mode in (LORA, STATE)
            and type(rank) is int
            and 0 <= rank < 1 << 24
            and type(alpha) in (int, float)
            and isinstance(targets, list | tuple)
            and all(isinstance(name, str) for name in targets)
        )
        if not sound or (mode == LORA and not rank):
            raise ValueError("a tuning of another kind")
        return cls(mode, rank, float(alpha), tuple(targets))

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "targets": [*self.targets]}

    @property
    def scale(self) -> float:
        """What an adapter's product is multiplied by."""
        return self.alpha / self.rank


def tune(model: Any, tuning: Tuning, seed: int | None = None) -> None:
    """Freeze the model's parameters, and give it those that this tuning trains, in place.

    They begin so that the model computes what it did; `seed` decides the adapters' first matrices,
    which are left as they are allocated without it. Raises `UserError` as `check`.
    """
    check(model, tuning)
    model.requires_grad_(False)
    if tuning.mode == STATE:
        model.learn_state()
        return
    draw = None if seed is None else torch.Generator().manual_seed(seed)
    names = adapted_names(model, tuning.targets)
    for block in model.blocks:
        for name in names:
            if name in (layers := linear_layers(block)):
                place, _, last = name.rpartition(".")
                adapted = Adapted(layers[name], tuning.rank, tuning.scale, draw)
                setattr(block.get_submodule(place), last, adapted)
    model.is_adapted = True


def check(model: Any, tuning: Tuning) -> None:
    """Raise `UserError` if the model has no state to learn, or none of the layers that are named.

    Its numbers are not looked at: it may be on the device `meta`, and have fewer layers.
    """
    if tuning.mode == STATE and not model.recurrent:
        able = any(linear_layers(block) for block in model.blocks)
        raise UserError(
            f"tune=state: {model.title} has no recurrent state that could be learned"
            + (": use tune=lora" if able else "")
        )
    if tuning.mode == LORA:
        adapted_names(model, tuning.targets)


def linear_layers(block: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a block, by their name in it."""
    return {name: part for name, part in block.named_modules() if isinstance(part, nn.Linear)}


def adapted_names(model: Any, targets: tuple[str, ...]) -> list[str]:
    """Names within a block that `targets` mean: `att.key`, `att` (all in it) or `key` (every one of
    that name). Raises `UserError` for a target that no layer has, and if there are no layers."""
    every = list(dict.fromkeys(name for block in model.blocks for name in linear_layers(block)))

    def is_meant(name: str, target: str) -> bool:
        return name == target or name.startswith(f"{target}.") or name.endswith(f".{target}")

    if not every:
        raise UserError(
            f"tune=lora: {model.title} has no linear layer in its blocks that could be adapted"
        )
    for target in targets:
        if not any(is_meant(name, target) for name in every):
            raise UserError(
                f"tune.targets: {model.title} has no linear layer {shown(target, 40)} in its "
                f"blocks; it has {', '.join(every)} (att or key mean every one in or of that name)"
            )
    return [name for name in every if not targets or any(is_meant(name, one) for one in targets)]


def trained_names(model: nn.Module) -> list[str]:
    """Names of the parameters that have a gradient."""
    return [name for name, each in model.named_parameters() if each.requires_grad]


def frozen_names(model: nn.Module) -> set[str]:
    """Names in the model's `state_dict` of what a fine-tuning leaves as it is; none where
    everything is trained."""
    trained = {*trained_names(model)}
    if all(name in trained for name, _ in model.named_parameters()):
        return set()
    return {*model.state_dict()} - trained


def tuned_groups(model: nn.Module) -> list[ParamGroup]:
    """The optimizer's groups of a tuned model: adapters decay, as matrices do, a state does not."""
    names = trained_names(model)
    is_state = bool(names) and names[0].startswith(INITIAL)
    return [ParamGroup(tuple(names), decay=not is_state)]


def spared_flops(model: Any, tokens: int) -> int:
    """Operations of a training pass over `tokens` that a tuned model does not need: the products
    for the gradients of frozen matrices, one per matrix of the blocks and of the head."""
    width = model.config.n_embd
    frozen = [each for each in model.blocks.parameters() if not each.requires_grad]
    # A matrix `[H, N]` of C numbers is a vector over channels.
    numbers = sum(each.numel() for each in frozen if each.ndim >= 2 and each.numel() > width)
    if not model.head.weight.requires_grad:
        numbers += model.head.weight.numel()
    return 2 * tokens * numbers


def merged(
    frozen: Mapping[str, Tensor], adapters: Mapping[str, Tensor], tuning: Tuning
) -> dict[str, Tensor]:
    """Weights W + (alpha / rank) B A, in the precision of the adapters, under the names of the
    frozen ones; summed in fp32."""
    result = dict(frozen)
    for name, first in adapters.items():
        if not name.endswith(A):
            continue
        layer = name.removesuffix(A)
        update = tuning.scale * (adapters[f"{layer}{B}"].float() @ first.float())
        result[f"{layer}.weight"] = result[f"{layer}.weight"].float() + update
    (dtype,) = {each.dtype for each in adapters.values()}
    return {name: each.to(dtype) for name, each in result.items()}
