"""A formula written once, in torch, that is one native pass over memory on a CPU.

    @fused(cpu.squared_relu, x="...")
    def squared_relu(x: Tensor) -> Tensor:
        return x.relu().square()

The body says what is computed: autograd and compilers understand it, and it runs wherever there is
no native kernel. Half precision is widened to fp32 before it and rounded once after it.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from ctypes import POINTER, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from models.ops import backends
from models.ops.cpu_library import CpuLibrary
from models.ops.custom_op import check_shapes, custom_op, shapes

NATIVE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_CHECKED = 256
"""Combinations of shapes that a formula remembers as right: a training has few."""
_WIDE = {torch.bfloat16: torch.float32, torch.float16: torch.float32}
_kept_plain = False
_built: bool | None = None


class Kernel:
    """The two C++ passes of one formula, `<name>` and `<name>_backward`.

    In C they take sizes, the tensors, a constant where there is one, then what they write; the
    backward pass reads the gradients of the results before it writes those of the tensors. The
    sizes are the last dimensions of the first tensor behind the product of all others.

    Args:
        library: the library that exports both, for every dtype.
        tensors: their names.
        weights: the names of those that are in fp32; the others have the dtype of the result.
        trailing: dimensions that stay apart in the sizes.
        like: the tensor that the results resemble; default: the first.
        halves: whether the last dimension of the results, and the last size, is half of that.
        count: the number of results, or the tensor with one row for each, which is a size too.
        array: whether the results are handed over as an array of addresses.
        constant: whether a number follows the tensors.
        wide: whether the results are in fp32 whatever the tensors are.
    """

    def __init__(
        self,
        library: CpuLibrary,
        name: str,
        tensors: str,
        *,
        trailing: int,
        weights: str = "",
        like: str | None = None,
        halves: bool = False,
        count: int | str = 1,
        array: bool = False,
        constant: bool = False,
        wide: bool = False,
    ) -> None:
        self.tensors = tuple(tensors.split())
        self.is_weight = [tensor in weights.split() for tensor in self.tensors]
        self.like = self.tensors.index(like) if like else 0
        self.wide = wide
        self._library, self._name = library, name
        self._trailing, self._halves, self._array = trailing, halves, array
        self._counted = None if isinstance(count, int) else self.tensors.index(count)
        self._count = count if isinstance(count, int) else 0
        self._functions: dict[tuple[str, torch.dtype], Any] = {}
        addresses = [c_void_p] * len(self.tensors)
        sizes = [*[c_int64] * (trailing + 1), *[c_int] * (self._counted is not None)]
        reads = [*sizes, *addresses, *[c_float] * constant]
        passes = [POINTER(c_void_p)] if array else [c_void_p] * int(count)
        library.declare(name, [*reads, *passes])
        library.declare(f"{name}_backward", [*reads, *passes, *addresses])

    def forward(self, *arguments: Any) -> list[Tensor]:
        """The results of the formula."""
        given = [x.contiguous() if isinstance(x, Tensor) else x for x in arguments]
        like = given[self.like]
        shape = (*like.shape[:-1], like.shape[-1] // 2) if self._halves else like.shape
        dtype = torch.float32 if self.wide else like.dtype
        count = self._count if self._counted is None else len(given[self._counted])
        results = [like.new_empty(shape, dtype=dtype) for _ in range(count)]
        self._call(self._name, given, results, [])
        return results

    def backward(self, *arguments: Any) -> list[Tensor]:
        """The gradients of all tensors; the last argument lists those of the results."""
        *tensors, grads = arguments
        given = [x.contiguous() if isinstance(x, Tensor) else x for x in tensors]
        results = [x.new_empty(x.shape) for x in given if isinstance(x, Tensor)]
        self._call(f"{self._name}_backward", given, [x.contiguous() for x in grads], results)
        return results

    def _call(
        self, name: str, given: Sequence[Any], passed: list[Tensor], written: list[Tensor]
    ) -> None:
        dtype, first = given[self.like].dtype, given[0]
        function = self._functions.get((name, dtype))
        if function is None:
            function = self._functions[name, dtype] = self._library.function(name, dtype)
        sizes = [*first.shape[first.dim() - self._trailing :]]
        sizes.insert(0, first.numel() // math.prod(sizes))
        if self._halves:
            sizes[-1] //= 2
        if self._counted is not None:
            sizes.append(len(passed))
        addresses = [x.data_ptr() for x in passed]
        function(
            *sizes,
            *[x.data_ptr() if isinstance(x, Tensor) else x for x in given],
            *([(c_void_p * len(addresses))(*addresses)] if self._array else addresses),
            *[x.data_ptr() for x in written],
            torch.get_num_threads(),
        )


class Fused:
    """What `fused` makes of a formula: call it like the function."""

    def __init__(self, plain: Callable[..., Any], kernel: Kernel, texts: dict[str, str]) -> None:
        signature = inspect.signature(plain)
        kinds = {p.name: p.annotation for p in signature.parameters.values()}
        tensors = [name for name, kind in kinds.items() if kind == "Tensor"]
        assert tensors == [*kernel.tensors] == [*texts], (plain, tensors)
        name = plain.__name__.strip("_")
        self.__doc__, self.__name__, self.plain = plain.__doc__, name, plain
        self._kernel, self._shapes = kernel, shapes(**texts)
        self._single = signature.return_annotation == "Tensor"
        self._tensors = len(tensors)
        self._checked: set[tuple[torch.Size, ...]] = set()
        arguments = ", ".join(f"{kind} {name}" for name, kind in kinds.items())
        self._op = custom_op(
            name,
            f"({arguments}) -> Tensor[]",
            kernel.forward,
            self._fake,
            dispatch="CPU",
            remember=self._remember,
            differentiate=self._differentiate,
        )
        self._backward_op = custom_op(
            f"{name}_backward",
            f"({arguments}, Tensor[] grads) -> Tensor[]",
            kernel.backward,
            lambda *given: [x.new_empty(x.shape) for x in given[: self._tensors]],
            dispatch="CPU",
        )

    def __call__(self, *arguments: Any) -> Any:
        self._check(arguments[: self._tensors])
        like = arguments[self._kernel.like]
        if native(like):
            results = self._op(*self._converted(arguments, like.dtype, torch.float32))
        else:
            results = self._compute(*arguments)
        return results[0] if self._single else tuple(results)

    def _check(self, tensors: Sequence[Tensor]) -> None:
        """Raise `UserError` naming the first tensor that does not fit."""
        if torch.compiler.is_compiling():
            check_shapes(self.__name__, self._shapes, tensors)
            return
        given = tuple([x.shape for x in tensors])
        if given not in self._checked:
            check_shapes(self.__name__, self._shapes, tensors)
            if len(self._checked) >= MOST_CHECKED:
                self._checked.clear()
            self._checked.add(given)

    def _converted(self, arguments: Sequence[Any], dtype: Any, wide: Any) -> list[Any]:
        """The tensors in one dtype, weights in another, and the constant."""
        tensors = zip(arguments, self._kernel.is_weight, strict=False)
        converted = [x.to(wide if is_weight else dtype) for x, is_weight in tensors]
        return [*converted, *arguments[self._tensors :]]

    def _compute(self, *arguments: Any) -> list[Tensor]:
        """The formula in torch, in fp32 at least."""
        dtype = arguments[self._kernel.like].dtype
        wide = _WIDE.get(dtype, dtype)
        given = self._converted(arguments, dtype, wide)
        results = self.plain(*(x.to(wide) if isinstance(x, Tensor) else x for x in given))
        results = [results] if self._single else [*results]
        return results if self._kernel.wide else [x.to(dtype) for x in results]

    def _fake(self, *arguments: Any) -> list[Tensor]:
        return [x.new_empty(x.shape) for x in self._compute(*arguments)]

    def _remember(self, ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        ctx.save_for_backward(*inputs[: self._tensors])
        ctx.constants = inputs[self._tensors :]
        ctx.results = [(x.shape, x.dtype) for x in output]

    def _differentiate(self, ctx: Any, grads: list[Tensor | None]) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        filled = [
            tensors[0].new_zeros(shape, dtype=dtype) if grad is None else grad
            for grad, (shape, dtype) in zip(grads, ctx.results, strict=True)
        ]
        gradients = self._backward_op(*tensors, *ctx.constants, filled)
        return *gradients, *(None for _ in ctx.constants)


def fused(kernel: Kernel, **shapes: str) -> Callable[[Callable[..., Any]], Fused]:
    """Compute the decorated formula with `kernel` where it can be built.

    The formula takes the kernel's tensors in their order, then a number where the kernel has one.
    `shapes` are those of the tensors, in the letters of docs/shapes.md; a call that does not fit
    them raises `UserError`. The formula becomes the custom op `crossover::<its name>`.
    """

    def decorate(formula: Callable[..., Any]) -> Fused:
        return Fused(formula, kernel, shapes)

    return decorate


def native(x: Tensor) -> bool:
    """Whether the C++ kernels take `x`."""
    fits = x.device.type == "cpu" and x.dtype in NATIVE_DTYPES
    return fits and not _kept_plain and _can_be_built()


@contextlib.contextmanager
def native_disabled() -> Iterator[None]:
    """Compute every formula in plain torch meanwhile, as a device without native kernels does."""
    global _kept_plain
    before, _kept_plain = _kept_plain, True
    try:
        yield
    finally:
        _kept_plain = before


def _can_be_built() -> bool:
    """Whether this machine can build the kernels, asked once per process."""
    global _built
    if _built is None:
        _built = backends.resolve("pointwise", "auto", torch.device("cpu")) == "cpu"
    return _built


# The mark that torch.compiler.assume_constant_result would set, which first imports the whole
# compiler: 3 s and 77 MB in every process, and in what every memory probe reads.
_can_be_built._dynamo_marked_constant = True  # type: ignore[attr-defined]
