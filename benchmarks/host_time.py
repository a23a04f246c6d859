"""Host time of an operator's call: all before a GPU has work, with launches that do nothing.

Tensors lie on the CPU and CUDA's own functions are replaced, so no GPU is needed, and none is
timed: what is left is Crossover's Python, autograd, and the allocation of results. The shortest of
many calls counts, which other processes do not lengthen.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.harness import Row, parse, parser, publish, table
from models.ops import backends, nvrtc
from models.ops.wkv import wkv4, wkv6, wkv7

PROPERTIES = SimpleNamespace(
    major=9,
    minor=0,
    multi_processor_count=132,
    shared_memory_per_multiprocessor=228 << 10,
    shared_memory_per_block_optin=227 << 10,
)


class _Nothing:
    """In the place of cuda-core: every launch is counted and does nothing."""

    LEGACY_DEFAULT_STREAM = None
    launches = 0

    def Device(self, index: int) -> Any:
        return SimpleNamespace(set_current=lambda: None)

    def LaunchConfig(self, **options: Any) -> Any:
        return SimpleNamespace(**options)

    def launch(self, *_: Any) -> None:
        self.launches += 1


@contextlib.contextmanager
def no_gpu() -> Iterator[_Nothing]:
    """Let `backend="cuda"` launch nothing meanwhile, on tensors of the CPU."""
    core = _Nothing()

    def loaded(library: nvrtc.CudaLibrary, device: int) -> Any:
        if device not in library._loaded:
            kernels = {name: SimpleNamespace(handle=name) for name in library.kernels}
            library._loaded[device] = nvrtc._Loaded(kernels, {})
        return library._loaded[device]

    driver = SimpleNamespace(
        CUfunction_attribute=SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8),
        CUresult=SimpleNamespace(CUDA_SUCCESS=0),
        cuDeviceGet=lambda index: (0, index),
        cuKernelSetAttribute=lambda *_: (0,),
    )
    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (nvrtc, "_core", lambda: core),
            (nvrtc, "_thread", threading.local()),
            (nvrtc, "_streams", {}),
            (nvrtc.CudaLibrary, "_kernels", loaded),
            (torch.cuda, "current_device", lambda: 0),
            (torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0)),
            (torch.cuda, "get_device_properties", lambda _=None: PROPERTIES),
            (backends, "resolve", lambda *_: "cuda"),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        stack.enter_context(mock.patch.dict("sys.modules", {"cuda.bindings.driver": driver}))
        backends.kernels.cache_clear()
        try:
            yield core
        finally:
            backends.kernels.cache_clear()


def operands(version: int) -> tuple[Callable[..., Any], list[Tensor]]:
    """An operator and small inputs, in bf16 where the operator's are."""
    torch.manual_seed(0)
    if version == 4:
        k, v = (torch.randn(1, 32, 64).bfloat16() for _ in range(2))
        return wkv4, [-torch.rand(64) - 0.1, torch.randn(64), k, v]
    r, k, v, a, b = (torch.randn(1, 32, 1, 64).bfloat16() for _ in range(5))
    w = -torch.rand(1, 32, 1, 64)
    return (wkv6, [r, w, k, v, torch.randn(1, 64)]) if version == 6 else (wkv7, [r, w, k, v, a, b])


def shortest(call: Callable[[], Any], times: int) -> float:
    """Microseconds of the shortest of so many calls."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return 1e6 * best


def microseconds(version: int, times: int) -> tuple[float, float]:
    """Time of a call without gradients, and of a forward and backward pass together."""
    operator, given = operands(version)
    leaves = [x.requires_grad_() for x in given]
    with no_gpu():
        with torch.no_grad():
            alone = shortest(lambda: operator(*leaves, backend="cuda"), times)
        y = operator(*leaves, backend="cuda")[0]
        grad = torch.ones_like(y)

        def both() -> None:
            torch.autograd.grad(operator(*leaves, backend="cuda")[0], leaves, grad)

        return alone, shortest(both, times)


def main() -> None:
    arguments = parse(parser(__doc__, rounds=2000))

    def rows() -> Iterator[Row]:
        for version in (4, 6, 7):
            alone, both = microseconds(version, arguments.rounds)
            yield Row(f"wkv{version}", (f"{alone:.0f} us", f"{both:.0f} us"))

    columns = ("operator", "forward, no gradients", "forward and backward")
    publish("Host time of an operator's call", table(columns, rows()), arguments=arguments)


if __name__ == "__main__":
    main()
