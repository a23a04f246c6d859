"""An elementwise formula as one native pass on the CPU, and as plain torch anywhere else."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from models.ops import backends

_NATIVE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_kept_plain = False


class Fused:
    """`plain(...)`, computed by native kernels where they can be built.

    `plain` says what is computed, in torch that autograd and compilers understand; its annotations
    (`Tensor`, `float`) give the custom op its schema, `crossover::<name of plain>`. It takes the
    tensor whose device and dtype decide first. `forward` takes the same arguments and returns a
    list of results; `backward` takes them too, then the list of their gradients, and returns the
    gradients of all tensor arguments.
    """

    def __init__(
        self,
        plain: Callable[..., Any],
        forward: Callable[..., list[Tensor]],
        backward: Callable[..., list[Tensor]],
    ) -> None:
        name = plain.__name__.strip("_")
        kinds = {p.name: p.annotation for p in inspect.signature(plain).parameters.values()}
        arguments = ", ".join(f"{kind} {argument}" for argument, kind in kinds.items())
        self._plain = plain
        self._tensors = [kind == "Tensor" for kind in kinds.values()]
        _register(name, f"({arguments}) -> Tensor[]", forward, self._shapes)
        schema = f"({arguments}, Tensor[] grads) -> Tensor[]"
        _register(f"{name}_backward", schema, backward, self._backward_shapes)
        self._op = getattr(torch.ops.crossover, name).default
        self._backward_op = getattr(torch.ops.crossover, f"{name}_backward").default
        torch.library.register_autograd(
            f"crossover::{name}", self._differentiate, setup_context=self._remember
        )

    def __call__(self, *arguments: Any) -> tuple[Tensor, ...]:
        """All results, as a tuple."""
        if native(arguments[0]):
            return tuple(self._op(*arguments))
        results = self._plain(*arguments)
        return results if isinstance(results, tuple) else (results,)

    def _shapes(self, *arguments: Any) -> list[Tensor]:
        results = self._plain(*arguments)
        results = results if isinstance(results, tuple) else (results,)
        return [result.new_empty(result.shape) for result in results]

    def _backward_shapes(self, *arguments: Any) -> list[Tensor]:
        return [x.new_empty(x.shape) for x in arguments[:-1] if isinstance(x, Tensor)]

    def _remember(self, ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))
        ctx.constants = [x for x in inputs if not isinstance(x, Tensor)]
        ctx.shapes = [(x.shape, x.dtype) for x in output]

    def _differentiate(self, ctx: Any, grads: list[Tensor | None]) -> tuple[Tensor | None, ...]:
        tensors, constants = iter(ctx.saved_tensors), iter(ctx.constants)
        arguments = [next(tensors if is_tensor else constants) for is_tensor in self._tensors]
        filled = [
            arguments[0].new_zeros(shape, dtype=dtype) if grad is None else grad
            for grad, (shape, dtype) in zip(grads, ctx.shapes, strict=True)
        ]
        results = iter(self._backward_op(*arguments, filled))
        return tuple(next(results) if is_tensor else None for is_tensor in self._tensors)


def native(x: Tensor) -> bool:
    """Whether the C++ kernels take `x`."""
    fits = x.device.type == "cpu" and x.dtype in _NATIVE_DTYPES
    return fits and not _kept_plain and _built()


@contextlib.contextmanager
def native_disabled() -> Iterator[None]:
    """Compute every formula in plain torch meanwhile, as a device without native kernels does."""
    global _kept_plain
    before, _kept_plain = _kept_plain, True
    try:
        yield
    finally:
        _kept_plain = before


def _built() -> bool:
    return backends.resolve("pointwise", "auto", torch.device("cpu")) == "cpu"


# The mark that torch.compiler.assume_constant_result would set, which first imports the whole
# compiler: 3 s and 77 MB in every process, and in what every memory probe reads.
_built._dynamo_marked_constant = True  # type: ignore[attr-defined]


def to_fp32(*tensors: Tensor) -> list[Tensor]:
    """Half precision as fp32, in which every formula here is evaluated; others as they are."""
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


def _register(name: str, schema: str, implementation: Any, shapes: Any) -> None:
    torch.library.define(f"crossover::{name}", schema)
    torch.library.impl(f"crossover::{name}", "CPU", implementation)
    torch.library.register_fake(f"crossover::{name}", shapes)
