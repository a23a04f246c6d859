"""How the native passes of every formula are called, whatever the device.

A formula of `cuda/elementwise/` is a struct of 64-bit fields, the same on a CPU and on a GPU:
sizes, tensors, a number, what is written. `cpu.py` and `cuda.py` run it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
MOST_FIELDS = 24  # of the struct of a formula
MOST_MIXES = 6  # results of one whose number is not fixed
_MODULES = {"cpu": "models.ops.elementwise.cpu", "cuda": "models.ops.elementwise.cuda"}


class Pass(NamedTuple):
    """One pass over memory."""

    source: str
    """The file of `cuda/elementwise/` that its kernel is in, without the ending."""
    walk: str
    """How it goes over memory: flat, channels, rows, heads or tokens."""
    name: str
    dtype: torch.dtype
    """What goes into and out of layers has it."""
    stream: torch.dtype
    """The residual stream has it."""
    sizes: tuple[int, ...]
    fields: list[Any]
    """What follows the sizes: tensors, None for those that are not there, numbers."""
    totals: list[Tensor]
    """Those of the fields that are sums over rows."""

    @property
    def function(self) -> str:
        """Its name in C."""
        both = f"{self.name}_{DTYPES[self.dtype]}"
        return both if self.stream == self.dtype else f"{both}_{DTYPES[self.stream]}"


def run(one: Pass, device: str) -> None:
    """Compute a pass with the kernels of a device."""
    importlib.import_module(_MODULES[device]).run(one)


class Kernel:
    """The two native passes of one formula, `<name>` and `<name>_backward`.

    The sizes are the last dimensions of the first tensor behind the product of all others. The
    backward pass reads what is kept and the gradients of the results.

    Args:
        tensors: their names.
        source, walk: see `Pass`.
        trailing: dimensions that stay apart in the sizes.
        weights: the names of those that are in fp32; their gradients are sums over rows.
        stream: the names of tensors and results that have the residual stream's dtype; what is
            neither has that of what goes into and out of layers.
        results: their names, or the tensor with one row for each, whose number is a size too.
        like: the tensor that the results resemble; default: the first.
        halves: whether the last dimension of the results, and the last size, is half of that.
        constant: whether a number follows the tensors.
        wide: whether the results are in fp32 whatever the tensors are.
        keeps: tensors and results that the backward pass reads; default: all tensors.
        alike: for tensors that are not kept, the tensor or result that their gradient resembles.
    """

    def __init__(
        self,
        source: str,
        walk: str,
        name: str,
        tensors: str,
        *,
        trailing: int,
        weights: str = "",
        stream: str = "",
        results: str = "out",
        like: str | None = None,
        halves: bool = False,
        constant: bool = False,
        wide: bool = False,
        keeps: str | None = None,
        alike: dict[str, str] | None = None,
    ) -> None:
        self.tensors = tuple(tensors.split())
        self.weights, self.stream = weights.split(), stream.split()
        self.is_weight = [tensor in self.weights for tensor in self.tensors]
        self.like = self.tensors.index(like) if like else 0
        self.keeps = tuple(keeps.split()) if keeps else self.tensors
        self.source, self.walk, self.name = source, walk, name
        self._counted = self.tensors.index(results) if results in self.tensors else None
        self.results = () if self._counted is not None else tuple(results.split())
        self._trailing, self._halves, self._wide = trailing, halves, wide
        self._alike = {name: name for name in self.tensors} | (alike or {})
        self.constant = constant

    # ---------------------------------------------------------------- dtypes

    def dtype_of(self, name: str, dtype: torch.dtype, stream: torch.dtype) -> torch.dtype:
        """The dtype of a tensor or result: layers take `dtype`, the residual stream is `stream`."""
        if name in self.weights or (self._wide and name not in self.tensors):
            return torch.float32
        return stream if name in self.stream else dtype

    def names_of_results(self, arguments: Sequence[Any]) -> tuple[str, ...]:
        """The results, where some were counted by a tensor."""
        return self.results if self._counted is None else ("out",) * len(arguments[self._counted])

    # ---------------------------------------------------------------- passes

    def forward(self, device: str, dtype: torch.dtype, arguments: Sequence[Any]) -> list[Tensor]:
        """The results of the formula."""
        given = [x.contiguous() if isinstance(x, Tensor) else x for x in arguments]
        results = self.empty_results(dtype, given)
        tensors, constants = given[: len(self.tensors)], given[len(self.tensors) :]
        fields = [*tensors, *constants, *self._padded(results)]
        run(self._pass(self.name, dtype, given[0], fields, results, []), device)
        return results

    def backward(
        self, device: str, dtype: torch.dtype, kept: Sequence[Any], grads: Sequence[Tensor]
    ) -> list[Tensor]:
        """The gradients of all tensors; `kept` ends with the number, where there is one."""
        given = [x.contiguous() if isinstance(x, Tensor) else x for x in kept]
        grads = [x.contiguous() for x in grads]
        written = self.empty_gradients(dtype, given, grads)
        totals = [x for x, summed in zip(written, self.is_weight, strict=True) if summed]
        others = [x for x, summed in zip(written, self.is_weight, strict=True) if not summed]
        fields = [*given, *self._padded(grads), *others, *totals]
        run(self._pass(f"{self.name}_backward", dtype, given[0], fields, grads, totals), device)
        return written

    def empty_results(self, dtype: torch.dtype, arguments: Sequence[Any]) -> list[Tensor]:
        """Tensors for the results."""
        like, stream = arguments[self.like], self._stream_dtype(dtype, arguments[0])
        shape = (*like.shape[:-1], like.shape[-1] // 2) if self._halves else like.shape
        return [
            like.new_empty(shape, dtype=self.dtype_of(name, dtype, stream))
            for name in self.names_of_results(arguments)
        ]

    def empty_gradients(
        self, dtype: torch.dtype, kept: Sequence[Any], grads: Sequence[Tensor]
    ) -> list[Tensor]:
        """Tensors for the gradients of all tensors."""
        known = dict(zip(self.results, grads, strict=False)) | dict(
            zip(self.keeps, kept, strict=False)
        )
        stream = self._stream_dtype(dtype, kept[0])
        return [
            kept[0].new_empty(
                known[self._alike[name]].shape, dtype=self.dtype_of(name, dtype, stream)
            )
            for name in self.tensors
        ]

    def size(self, first: Tensor) -> int:
        """Channels of a vector's row, or of a sum within one, given the first tensor."""
        return int(first.shape[-1]) // (2 if self._halves else 1)

    def _stream_dtype(self, dtype: torch.dtype, first: Tensor) -> torch.dtype:
        return first.dtype if self.stream else dtype

    def _padded(self, passed: list[Tensor]) -> list[Tensor | None]:
        """The addresses, as many as the struct has room for."""
        if self._counted is None:
            return [*passed]
        return [*passed, *[None] * (MOST_MIXES - len(passed))]

    def _pass(
        self,
        name: str,
        dtype: torch.dtype,
        first: Tensor,
        fields: list[Any],
        passed: Sequence[Tensor],
        totals: list[Tensor],
    ) -> Pass:
        sizes = [*first.shape[first.dim() - self._trailing :]]
        sizes.insert(0, first.numel() // math.prod(sizes))
        if self._halves:
            sizes[-1] //= 2
        if self._counted is not None:
            sizes.append(len(passed))
        stream = self._stream_dtype(dtype, first)
        return Pass(self.source, self.walk, name, dtype, stream, tuple(sizes), fields, totals)


gate = Kernel("pointwise", "flat", "gate", "r x", like="x", trailing=0)
squared_relu = Kernel("pointwise", "flat", "squared_relu", "x", trailing=0)
swiglu = Kernel("pointwise", "channels", "swiglu", "x", trailing=1, halves=True)
log_decay = Kernel(
    "pointwise", "channels", "log_decay", "e w0", weights="w0", trailing=1, wide=True
)
value_residual = Kernel(
    "pointwise", "channels", "value_residual", "v first e v0", weights="v0", trailing=1
)
token_shift_mix = Kernel(
    "shift",
    "tokens",
    "token_shift_mix",
    "z previous mu",
    weights="mu",
    trailing=2,
    results="mu",
    constant=True,
)
dynamic_mix = Kernel(
    "shift",
    "tokens",
    "dynamic_mix",
    "z previous mu change",
    weights="mu",
    trailing=2,
    results="mu",
)
delta_keys = Kernel(
    "heads",
    "heads",
    "delta_keys",
    "k e a0 k_k k_a",
    weights="a0 k_k k_a",
    trailing=2,
    results="key a b",
)
gated_head_norm = Kernel(
    "heads",
    "heads",
    "gated_head_norm",
    "y g weight bias",
    weights="weight bias",
    trailing=2,
    like="g",
    constant=True,
)
bonus_head_norm = Kernel(
    "heads",
    "heads",
    "bonus_head_norm",
    "y r k v g r_k weight bias",
    weights="r_k weight bias",
    trailing=2,
    like="g",
    constant=True,
)
layer_norm = Kernel(
    "layer_norms",
    "rows",
    "layer_norm",
    "x weight bias",
    weights="weight bias",
    stream="x",
    trailing=1,
    constant=True,
    keeps="x weight",
    alike={"bias": "weight"},
)
rms_norm = Kernel(
    "rms_norms",
    "rows",
    "rms_norm",
    "x weight",
    weights="weight",
    stream="x",
    trailing=1,
    constant=True,
)
add_layer_norm = Kernel(
    "layer_norms",
    "rows",
    "add_layer_norm",
    "x delta weight bias",
    weights="weight bias",
    stream="x sum",
    trailing=1,
    constant=True,
    results="sum out",
    keeps="sum weight",
    alike={"x": "sum", "delta": "sum", "bias": "weight"},
)
add_rms_norm = Kernel(
    "rms_norms",
    "rows",
    "add_rms_norm",
    "x delta weight",
    weights="weight",
    stream="x sum",
    trailing=1,
    constant=True,
    results="sum out",
    keeps="sum weight",
    alike={"x": "sum", "delta": "sum"},
)
