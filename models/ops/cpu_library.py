"""C++ kernels as shared libraries: built on first use, called through their C interface."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int
from typing import Any

import torch
from torch import Tensor

from models.ops.build import BuildError, shared_library

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


class CpuLibrary:
    """Sources of `cuda/` for this CPU, whose functions are named `<kernel>_<dtype>`.

    `arguments` holds the C signature of each kernel, without the number of threads that ends it.
    """

    def __init__(
        self, name: str, sources: list[str], headers: list[str], arguments: dict[str, list[Any]]
    ) -> None:
        self._name, self._sources, self._headers = name, sources, headers
        self._arguments = arguments
        self._library: ctypes.CDLL | None = None

    def load(self) -> ctypes.CDLL:
        """The library, built if needed. Raises `BuildError`."""
        if self._library is None:
            path = shared_library(self._name, self._sources, self._headers)
            try:
                library = ctypes.CDLL(str(path))
            except OSError as error:
                raise BuildError(f"{path} was built but cannot be loaded: {error}") from None
            for name, arguments in self._arguments.items():
                for dtype in _DTYPES.values():
                    getattr(library, f"{name}_{dtype}").argtypes = [*arguments, c_int]
            self._library = library
        return self._library

    def function(self, name: str, dtype: torch.dtype) -> Any:
        """Kernel `name` for `dtype`, to be called with the number of threads last."""
        return getattr(self.load(), f"{name}_{_DTYPES[dtype]}")

    def call(
        self,
        name: str,
        dtype: torch.dtype,
        sizes: Sequence[int],
        inputs: Sequence[Tensor],
        results: Sequence[Tensor | None],
    ) -> None:
        """Call kernel `name` for `dtype`, which reads the inputs and writes the results.

        Results must be contiguous; None is an address that the kernel leaves alone.
        """
        dense = [x.contiguous() for x in inputs]  # alive until the kernel returns
        addresses = [None if x is None else x.data_ptr() for x in (*dense, *results)]
        self.function(name, dtype)(*sizes, *addresses, torch.get_num_threads())


def allocate_like(like: Tensor) -> Tensor:
    """A contiguous tensor of the shape, dtype and device of `like`, not filled."""
    return like.new_empty(like.shape)
