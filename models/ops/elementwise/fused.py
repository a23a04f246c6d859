"""A formula written once, in torch, that is one native pass over memory on a CPU and on a GPU.

    @fused(kernels.squared_relu, x="...")
    def squared_relu(x: Tensor) -> Tensor:
        return x.relu().square()

The body says what is computed: autograd and compilers understand it, and it runs wherever there is
no native kernel. Half precision is widened to fp32 before it and rounded once after it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from models.ops import backends
from models.ops.custom_op import check_shapes, custom_op, shapes
from models.ops.elementwise import cuda
from models.ops.elementwise.kernels import DTYPES, Kernel

NATIVE_DTYPES = tuple(DTYPES)
MOST_CHECKED = 256
"""Combinations of shapes that a formula remembers as right: a training has few."""
_WIDE = {torch.bfloat16: torch.float32, torch.float16: torch.float32}
_two_stages: set[str] = set()
"""Ops whose results include sums over rows."""
_kept_plain = False
_meant: str | None = None
_built: dict[str, bool] = {}
_log = logging.getLogger("crossover.wkv")


class Fused:
    """What `fused` makes of a formula: call it like the function.

    The results of a formula beside the residual stream have the stream's dtype or, under autocast
    with a stream in fp32, that of autocast, as its kernel says.
    """

    def __init__(self, plain: Callable[..., Any], kernel: Kernel, texts: dict[str, str]) -> None:
        signature = inspect.signature(plain)
        kinds = {p.name: p.annotation for p in signature.parameters.values()}
        tensors = [name for name, kind in kinds.items() if kind == "Tensor"]
        assert tensors == [*kernel.tensors] == [*texts], (plain, tensors)
        name = plain.__name__.strip("_")
        self.__doc__, self.__name__, self.plain = plain.__doc__, name, plain
        self.kernel, self._shapes = kernel, shapes(**texts)
        self._single = signature.return_annotation == "Tensor"
        self._tensors = len(tensors)
        self._checked: set[tuple[torch.Size, ...]] = set()
        constants = [f"{kind} {name}" for name, kind in kinds.items() if kind != "Tensor"]
        if kernel.stream:  # or what it takes says so
            constants.append("ScalarType dtype")
        self._op = custom_op(
            name,
            _schema(tensors, constants),
            lambda *given: kernel.forward(device_of(given[0]), *self._with_dtype(given)),
            lambda *given: kernel.empty_results(*self._with_dtype(given)),
            dispatch=("CPU", "CUDA"),
            remember=self._remember,
            differentiate=self._differentiate,
        )
        if kernel.weights:
            _two_stages.add(f"{name}_backward")
        self._backward_op = custom_op(
            f"{name}_backward",
            _schema(kernel.keeps, [*constants, "Tensor[] grads"]),
            lambda *given: kernel.backward(
                device_of(given[0]), *self._with_dtype(given[:-1]), given[-1]
            ),
            lambda *given: kernel.empty_gradients(*self._with_dtype(given[:-1]), given[-1]),
            dispatch=("CPU", "CUDA"),
        )

    def __call__(self, *arguments: Any) -> Any:
        self._check(arguments[: self._tensors])
        dtype = self._dtype(arguments)
        like = arguments[self.kernel.like]
        if native(like, self.kernel.walk, self.kernel.size(arguments[0])):
            given = self._converted(arguments, dtype, like.dtype, torch.float32)
            results = self._op(*given, *([dtype] if self.kernel.stream else []))
        else:
            results = self._compute(dtype, *arguments)
        return results[0] if self._single else tuple(results)

    def _dtype(self, arguments: Sequence[Any]) -> torch.dtype:
        """The dtype of what goes into and out of layers."""
        like: Tensor = arguments[self.kernel.like]
        if self.kernel.stream and like.dtype == torch.float32:
            device = like.device.type
            if torch.is_autocast_enabled(device):
                return torch.get_autocast_dtype(device)
        return like.dtype

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

    def _converted(self, arguments: Sequence[Any], dtype: Any, stream: Any, wide: Any) -> list[Any]:
        """The tensors in the dtypes of layers, of the stream and of weights, and the constant."""
        kernel = self.kernel
        converted = []
        for name, x in zip(kernel.tensors, arguments, strict=False):
            if name in kernel.weights:
                converted.append(x.to(wide))
            else:
                converted.append(x.to(stream if name in kernel.stream else dtype))
        return [*converted, *arguments[self._tensors :]]

    def _compute(self, dtype: torch.dtype, *arguments: Any) -> list[Tensor]:
        """The formula in torch, in fp32 at least."""
        stream = arguments[self.kernel.like].dtype
        wide = _WIDE.get(dtype, dtype) if stream in NATIVE_DTYPES else stream
        given = self._converted(arguments, dtype, stream, wide)
        results = self.plain(*(x.to(wide) if isinstance(x, Tensor) else x for x in given))
        results = [results] if self._single else [*results]
        names = self.kernel.names_of_results(arguments)
        dtypes = [self.kernel.dtype_of(name, dtype, stream) for name in names]
        if stream not in NATIVE_DTYPES:  # fp64
            return results
        return [x.to(kind) for x, kind in zip(results, dtypes, strict=True)]

    def _with_dtype(self, arguments: Sequence[Any]) -> tuple[torch.dtype, Sequence[Any]]:
        """The dtype of what goes into and out of layers, and the other arguments of an op."""
        if self.kernel.stream:
            return arguments[-1], arguments[:-1]
        return arguments[self.kernel.like].dtype, arguments

    def _remember(self, ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        known = dict(zip(self.kernel.results, output, strict=False))
        known |= dict(zip(self.kernel.tensors, inputs, strict=False))
        ctx.save_for_backward(*(known[name] for name in self.kernel.keeps))
        ctx.constants = inputs[self._tensors :]
        ctx.results = [(x.shape, x.dtype) for x in output]

    def _differentiate(self, ctx: Any, grads: list[Tensor | None]) -> tuple[Tensor | None, ...]:
        kept = ctx.saved_tensors
        filled = [
            kept[0].new_zeros(shape, dtype=dtype) if grad is None else grad
            for grad, (shape, dtype) in zip(grads, ctx.results, strict=True)
        ]
        gradients = self._backward_op(*kept, *ctx.constants, filled)
        return *gradients, *(None for _ in ctx.constants)


def _schema(tensors: Sequence[str], others: Sequence[str]) -> str:
    return f"({', '.join([*(f'Tensor {name}' for name in tensors), *others])}) -> Tensor[]"


def fused(kernel: Kernel, **shapes: str) -> Callable[[Callable[..., Any]], Fused]:
    """Compute the decorated formula with `kernel` where it can be built.

    The formula takes the kernel's tensors in their order, then a number where the kernel has one.
    `shapes` are those of the tensors, in the letters of docs/shapes.md; a call that does not fit
    them raises `UserError`. The formula becomes the custom op `crossover::<its name>`.
    """

    def decorate(formula: Callable[..., Any]) -> Fused:
        return Fused(formula, kernel, shapes)

    return decorate


def device_of(x: Tensor) -> str:
    """The type of device whose kernels compute with `x`."""
    return _meant or x.device.type


def native(x: Tensor, walk: str = "", size: int = 0) -> bool:
    """Whether native kernels take `x`, which go over memory in such a way (`kernels.Pass`) with
    sums over so many channels.

    On a GPU they are for what runs as it is written: within `torch.compile` the formulas are the
    compiler's, which fuses them with what is around them.
    """
    device = device_of(x)
    if _kept_plain or device not in ("cpu", "cuda") or x.dtype not in NATIVE_DTYPES:
        return False
    if device == "cuda" and (torch.compiler.is_compiling() or not cuda.fits(walk, size)):
        return False
    return _meant is not None or _can_be_built(device)


def launches(op: str) -> int:
    """How many kernels the op `crossover::<op>` is on the device that is meant."""
    return 2 if _meant == "cuda" and op in _two_stages else 1


@contextlib.contextmanager
def native_disabled() -> Iterator[None]:
    """Compute every formula in plain torch meanwhile, as a device without native kernels does."""
    global _kept_plain
    before, _kept_plain = _kept_plain, True
    try:
        yield
    finally:
        _kept_plain = before


@contextlib.contextmanager
def native_as_on(device: str) -> Iterator[None]:
    """Compute every formula as on this type of device meanwhile, wherever the tensors are: for
    traces without a device."""
    global _meant
    before, _meant = _meant, device
    try:
        yield
    finally:
        _meant = before


def _can_be_built(device: str) -> bool:
    """Whether this machine can build the kernels, asked once per process."""
    if device not in _built:
        if device == "cpu":
            _built[device] = backends.resolve("pointwise", "auto", torch.device(device)) == device
        else:
            problem = backends.why_not("pointwise", device)
            _built[device] = problem is None
            if problem:
                _notice(problem)
    return _built[device]


@functools.cache
def _notice(reason: str) -> None:
    """Say once that formulas are chains of PyTorch's operations."""
    _log.warning(
        "elementwise: NO KERNELS ON THIS GPU, every formula is several passes over memory (%s)",
        reason.splitlines()[0],
    )


# The mark that torch.compiler.assume_constant_result would set, which first imports the whole
# compiler: 3 s and 77 MB in every process, and in what every memory probe reads.
_can_be_built._dynamo_marked_constant = True  # type: ignore[attr-defined]
