"""What a layout of Hugging Face says of itself: its configuration and its tensors, each way."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Size, Tensor

from core.errors import UserError, shown
from models.formats.weights import listed

Json = dict[str, Any]
Tensors = Mapping[str, Tensor]
Shapes = Mapping[str, Size]
Change = Callable[[Tensor], Tensor]


MOST = 2**31 - 1  # of a count in config.json


class Family(ABC):
    """One layout: the translation of its config.json and of its tensors.

    `to_theirs` and `to_ours` are inverse to one another. The shapes that a file must have are those
    that `to_theirs` makes of ours, found on the meta device.
    """

    kinds: ClassVar[tuple[str, ...]]
    """Values of `model_type` in config.json."""
    target: ClassVar[str]
    base: ClassVar[str]
    """What the names of all tensors but the head's begin with."""
    embedding: ClassVar[str]
    head: ClassVar[str]
    tied: ClassVar[bool] = False
    """Whether head and embedding are one matrix unless config.json says otherwise."""
    derived: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")
    """Names of tensors that follow from the configuration and are not read."""

    def read_as(self, tensors: Tensors) -> dict[str, Tensor]:
        """Their tensors as the newest version of the layout has them."""
        return dict(tensors)

    @abstractmethod
    def ours(self, path: Path, theirs: Json, shapes: Shapes) -> Json:
        """The fields of our config. Raises `UserError` for an option our model does not have."""

    @abstractmethod
    def theirs(self, config: Any, dtype: torch.dtype) -> Json:
        """What config.json says of a model with our `config`, `model_type` included.

        Raises `UserError` if they have no such model.
        """

    @abstractmethod
    def to_theirs(self, config: Any, tensors: Tensors) -> dict[str, Tensor]:
        """Our tensors under their names and in their shapes.

        Raises `UserError` if a value would not survive.
        """

    @abstractmethod
    def to_ours(self, config: Any, tensors: Tensors, names: Iterable[str]) -> dict[str, Tensor]:
        """Their tensors in our shapes, under those of our `names` that are in them."""


@dataclass(frozen=True)
class Rule:
    """Their name of one of our tensors, and how each becomes the other."""

    name: str
    to_theirs: Change = lambda tensor: tensor
    to_ours: Change = lambda tensor: tensor


def transposed(name: str) -> Rule:
    """The rule for a matrix that they keep the other way round."""
    return Rule(name, lambda tensor: tensor.mT, lambda tensor: tensor.mT)


def flattened(name: str) -> Rule:
    """The rule for a `[1, 1, C]` of ours that is `[C]` there; reading restores the shape."""
    return Rule(name, lambda tensor: tensor.flatten())


class OneToOne(Family):
    """A layout in which each of our tensors is one of theirs."""

    @abstractmethod
    def rule(self, config: Any, name: str) -> Rule:
        """What becomes of our tensor `name`."""

    def to_theirs(self, config: Any, tensors: Tensors) -> dict[str, Tensor]:
        rules = {name: self.rule(config, name) for name in tensors}
        return {rule.name: rule.to_theirs(tensors[name]) for name, rule in rules.items()}

    def to_ours(self, config: Any, tensors: Tensors, names: Iterable[str]) -> dict[str, Tensor]:
        rules = {name: self.rule(config, name) for name in names}
        return {name: rule.to_ours(tensors[rule.name]) for name, rule in rules.items()}


def renamed(name: str, patterns: Iterable[tuple[str, str]]) -> str:
    """`name` with every pattern replaced, in order."""
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name


def refuse(path: Path, theirs: Json, **allowed: tuple[Any, ...]) -> None:
    """Raise `UserError` if a setting has a value that our model does not implement."""

    def problems() -> Iterator[str]:
        for key, values in allowed.items():
            if not _is_among(theirs.get(key), values):
                named = [repr(value) for value in values if value is not None]
                expected = " or ".join(named) or "none"
                yield f"{key}={shown(repr(theirs.get(key)))}, and only {expected} is supported"

    if faults := list(problems()):
        raise UserError(f"{path}: {listed(faults)}")


def _is_among(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Whether `value` is one of these, where 1 is not True and 0 not False."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed)


def flag(path: Path, theirs: Json, key: str, default: bool = False) -> bool:
    """True or false in config.json; null and nothing are `default`. Raises `UserError` for
    anything else: a text would count as true, whatever it says."""
    refuse(path, theirs, **{key: (None, False, True)})
    value = theirs.get(key)
    return default if value is None else bool(value)


def count(path: Path, theirs: Json, key: str, default: int | None = None) -> int:
    """A positive whole number of config.json. Raises `UserError` if it is none, or too large."""
    value = default if theirs.get(key) is None else theirs[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MOST:
        expected = f"expected a positive whole number of at most {MOST}"
        raise UserError(f"{path}: {key}={value!r:.60}; {expected}")
    return value


def number(
    path: Path, theirs: Json, key: str, plausible: tuple[float, float], default: float | None = None
) -> float:
    """A positive number of config.json. Raises `UserError` if it is none, or lies outside what is
    `plausible`: logits would be NaN, or those of another model than was meant."""
    value = default if theirs.get(key) is None else theirs[key]
    least, most = plausible
    if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
        return float(value)
    expected = f"expected a positive number from {least:g} to {most:g}"
    raise UserError(f"{path}: {key}={value!r:.60}; {expected}")


def size(shapes: Shapes, name: str, dimension: int) -> int | None:
    """One size of a tensor in the file; None if it is not there or has none."""
    shape = shapes.get(name)
    return shape[dimension] if shape is not None and len(shape) > dimension else None
