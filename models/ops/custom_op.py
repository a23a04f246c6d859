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
    """Define `crossover::<name>` and return it, to be called.

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
    function = None
    if differentiate is not None and remember is not None:
        function = _function(name, implementation, remember, differentiate)
    if flops is not None:

        def count(*arguments: Any, **_: Any) -> int:
            return flops(*arguments)

        register_flop_formula(operator)(count)
    return Operator(operator.default, implementation, function)


class Operator:
    """A custom op that is called as Python calls a function where nobody watches.

    PyTorch's dispatcher takes longer for an operator written in Python than a GPU for many of
    them. A compiler, a counter, a profiler, a transformation and tensors that are not plain ones
    still find the operator they know.
    """

    def __init__(self, op: Any, implementation: Callable[..., Any], function: Any) -> None:
        self.op = op
        self._implementation, self._function = implementation, function
        self._makes_list = str(op._schema).endswith("-> Tensor[]")

    def __call__(self, *arguments: Any) -> Any:
        if torch.compiler.is_compiling() or _is_watched() or not _are_plain(arguments):
            return self.op(*arguments)
        if not torch.is_grad_enabled() or not _need_gradients(arguments):
            return self._implementation(*arguments)
        # Without a gradient the dispatcher says so, and only it looks for gradients within lists.
        if self._function is None or any(isinstance(x, list) for x in arguments):
            return self.op(*arguments)
        results = self._function.apply(*arguments)
        return [*results] if isinstance(results, tuple) and self._makes_list else results


def _is_watched() -> bool:
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch.autograd._profiler_enabled()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def _are_plain(arguments: Sequence[Any]) -> bool:
    for x in arguments:
        if type(x) in _PLAIN and not x.is_meta:
            continue
        if isinstance(x, Tensor) or (isinstance(x, list) and not _are_plain(x)):
            return False
    return True


def _need_gradients(arguments: Sequence[Any]) -> bool:
    return any(
        _need_gradients(x) if isinstance(x, list) else isinstance(x, Tensor) and x.requires_grad
        for x in arguments
    )


_PLAIN = {Tensor, torch.nn.Parameter}


def _function(
    name: str,
    implementation: Callable[..., Any],
    remember: Callable[..., None],
    differentiate: Callable[..., Any],
) -> Any:
    """The operator with its gradient, as a function of autograd that no dispatcher knows."""

    def forward(ctx: Any, *arguments: Any) -> Any:
        results = implementation(*arguments)
        remember(ctx, arguments, results)
        ctx.are_listed = isinstance(results, list)
        return tuple(results) if ctx.are_listed else results

    def backward(ctx: Any, *grads: Any) -> Any:
        return differentiate(ctx, [*grads]) if ctx.are_listed else differentiate(ctx, *grads)

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(name, (torch.autograd.Function,), members)


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
    key = None
    if not torch.compiler.is_compiling():  # to which sizes are symbols
        key = (operator, tuple([(x.shape, x.dtype, x.device) for x in tensors]))
        if key in _checked:
            return
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
    if key is not None:
        if len(_checked) >= MOST_CHECKED:
            _checked.clear()
        _checked.add(key)


MOST_CHECKED = 256
"""Calls that were found right and are remembered, by what of their tensors was looked at."""
_checked: set[Any] = set()


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
