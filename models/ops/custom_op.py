"""Operators as PyTorch's dispatcher knows them, and the check of what they are given.

With a schema, an implementation, a fake implementation, a gradient and a count of operations,
autograd, `torch.compile`, `opcheck` and FLOP counters treat an operator like one of PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from core.errors import UserError


def custom_op(
    name: str,
    schema: str,
    implementation: Callable[..., Any],
    shapes: Callable[..., Any],
    *,
    dispatch: str | tuple[str, ...] = "CompositeExplicitAutograd",
    remember: Callable[..., None] | None = None,
    differentiate: Callable[..., Any] | None = None,
    flops: Callable[..., int] | None = None,
) -> Any:
    """Define `crossover::<name>` and return it.

    Args:
        schema: arguments and results in PyTorch's notation, `(Tensor x) -> Tensor`.
        implementation: what is computed, on the devices of the dispatch keys `dispatch`.
        shapes: the fake implementation, which returns empty results.
        remember: `(ctx, inputs, output)`, saves what the gradient needs.
        differentiate: `(ctx, *gradients of results)` to the gradients of all arguments; without
            it the operator has none.
        flops: operations as a function of the shapes of the arguments; default: not counted.
    """
    qualified = f"crossover::{name}"
    torch.library.define(qualified, schema)
    torch.library.impl(qualified, dispatch, implementation)
    torch.library.register_fake(qualified, shapes)
    if differentiate is not None:
        torch.library.register_autograd(qualified, differentiate, setup_context=remember)
    operator = getattr(torch.ops.crossover, name)
    if flops is not None:

        def count(*arguments: Any, **_: Any) -> int:
            return flops(*arguments)

        register_flop_formula(operator)(count)
    return operator.default


class Dimension(NamedTuple):
    """A size that is `number` times the sizes that some letters stand for: `C`, `5`, `2*F`."""

    number: int
    letters: tuple[str, ...]

    def __str__(self) -> str:
        return "*".join(
            [str(self.number)] * (self.number > 1 or not self.letters) + [*self.letters]
        )


class Shape(NamedTuple):
    """What an argument's shape must be, as `shapes` reads it."""

    name: str
    leading: bool
    """Whether any further dimensions may come first; of all arguments alike."""
    dimensions: tuple[Dimension, ...]

    def text(self, sizes: dict[str, Any]) -> str:
        """`[2, 9, C]`: sizes where they are known, letters elsewhere."""
        parts = [*sizes.get("...", ["..."])] if self.leading else []
        for dimension in self.dimensions:
            is_known = all(letter in sizes for letter in dimension.letters)
            factors = [sizes[letter] for letter in dimension.letters] if is_known else []
            parts.append(math.prod(factors, start=dimension.number) if is_known else str(dimension))
        return f"[{', '.join(map(str, parts))}]"


def shapes(**texts: str) -> tuple[Shape, ...]:
    """A table of arguments and their shapes: `shapes(y="B T H N", weight="H*N", x="... C")`."""
    table = []
    for name, text in texts.items():
        words = text.split()
        leading = words[:1] == ["..."]
        dimensions = []
        for word in words[leading:]:
            factors = word.split("*")
            number = math.prod(int(factor) for factor in factors if factor.isdigit())
            letters = tuple(factor for factor in factors if not factor.isdigit())
            dimensions.append(Dimension(number, letters))
        table.append(Shape(name, leading, tuple(dimensions)))
    return tuple(table)


def check_shapes(
    operator: str, table: Sequence[Shape], tensors: Sequence[Tensor], match: str = ""
) -> None:
    """Raise `UserError` naming the first of `tensors` that does not have its shape in the table.

    The table may go on where the tensors end.
    """
    sizes: dict[str, Any] = {}
    for shape, tensor in zip(table, tensors, strict=False):
        if not _fits(shape, tensor.shape, sizes):
            raise UserError(
                f"{operator}: {shape.name} must be {shape.text(sizes)}{match}, "
                f"got {list(tensor.shape)}"
            )


def check_operands(
    operator: str, table: Sequence[Shape], tensors: Sequence[Tensor], same_dtype: Sequence[str]
) -> None:
    """Raise `UserError` naming the first of `tensors` that does not go with the first of them.

    None may be empty; they must have their shapes in the table, be floating-point and on one
    device, and those in `same_dtype` must have the first one's dtype.
    """
    first, like = tensors[0], table[0].name
    if len(first.shape) != len(table[0].dimensions) or 0 in first.shape:
        raise UserError(
            f"{operator}: {like} must be {table[0].text({})}, none of them 0, "
            f"got {list(first.shape)}"
        )
    check_shapes(operator, table, tensors, f" to match {like} {list(first.shape)}")
    for (name, *_), tensor in zip(table, tensors, strict=False):
        if not tensor.is_floating_point():
            raise UserError(
                f"{operator}: {name} must be a floating-point tensor, got {tensor.dtype}"
            )
        if tensor.device != first.device:
            raise UserError(
                f"{operator}: {name} is on {tensor.device}, {like} on {first.device}: "
                "move one of them"
            )
        if tensor.dtype != first.dtype and name in same_dtype:
            raise UserError(
                f"{operator}: {name} must have {like}'s dtype {first.dtype}, got {tensor.dtype}"
            )


def _fits(shape: Shape, actual: torch.Size, sizes: dict[str, Any]) -> bool:
    """Whether the actual shape fits; notes in `sizes` what each new letter stands for."""
    extra = len(actual) - len(shape.dimensions)
    if extra and not (shape.leading and extra > 0):
        return False
    if shape.leading and sizes.setdefault("...", actual[:extra]) != actual[:extra]:
        return False
    for (number, letters), size in zip(shape.dimensions, actual[extra:], strict=True):
        if number == 1 and len(letters) == 1:
            if sizes.setdefault(letters[0], size) != size:
                return False
            continue
        for letter in letters:
            if letter not in sizes:
                if size % number:
                    return False
                sizes[letter] = size // number
            number *= sizes[letter]
        if number != size:
            return False
    return True
