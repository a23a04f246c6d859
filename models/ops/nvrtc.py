"""CUDA kernels: compiled by NVRTC on first use, launched by NVIDIA's cuda-core.

Neither nvcc nor a host compiler is needed; a GPU is needed to launch, not to compile.
"""

from __future__ import annotations

import functools
import importlib
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.ops.build import SOURCES, TAIL_LINES, BuildError, cached, fingerprint

STATIC_SHARED = 48 << 10
"""Bytes of shared memory that every kernel may have; more must be asked for."""

OPTIONS = {"std": "c++17", "ftz": True, "prec_div": False}


MOST_PREPARED = 256
"""Launches that a library remembers for a GPU: a training has few shapes."""
_thread = threading.local()
_streams: dict[int, Any] = {}


class _Loaded(NamedTuple):
    """What of a library is on a GPU."""

    kernels: dict[str, Any]
    prepared: dict[Any, tuple[Any, Any]]
    """Kernels and configurations of launches, by name, grid, block and shared memory."""


def _launch(index: int, kernel: Any, config: Any, values: list[int]) -> None:
    """Launch on the current stream of the current GPU, number `index`."""
    core = _core()
    if getattr(_thread, "device", None) != index:  # backward passes have threads of their own
        core.Device(index).set_current()
        _thread.device = index
    handle = torch.cuda.current_stream().cuda_stream
    stream = _streams.get(handle)
    if stream is None:
        stream = core.Stream.from_handle(handle) if handle else core.LEGACY_DEFAULT_STREAM
        _streams[handle] = stream
    core.launch(stream, config, kernel, *values)


class CudaLibrary:
    """One source file of `cuda/` and the kernels it defines."""

    def __init__(
        self,
        source: str,
        headers: tuple[str, ...],
        kernels: tuple[str, ...],
        oldest: tuple[int, int] = (7, 5),
        defined: str = "",
    ) -> None:
        """`oldest` is the compute capability that the kernels need, `defined` a macro that chooses
        among those of the file."""
        self.source, self.headers, self.kernels, self.oldest = source, headers, kernels, oldest
        self.options: dict[str, Any] = {**OPTIONS, **({"define_macro": defined} if defined else {})}
        self.name = f"{source} {defined}".strip()
        self._loaded: dict[int, _Loaded] = {}
        self._allowed: set[tuple[str, int, int]] = set()

    def load(self) -> None:
        """Make sure the kernels can run on the current device. Raises `BuildError`."""
        if not torch.cuda.is_available():
            raise BuildError("PyTorch sees no CUDA GPU here")
        self._kernels(torch.cuda.current_device())

    def supports(self, arch: str) -> bool:
        """Whether there are kernels for `arch`, e.g. "sm_90"."""
        number = int(arch.removeprefix("sm_"))
        return divmod(number, 10) >= self.oldest

    def runs_on(self, device: torch.device) -> bool:
        """Whether a GPU is new enough; asked of it until the kernels are loaded."""
        if device.index in self._loaded:
            return True
        return torch.cuda.get_device_capability(device) >= self.oldest

    def compile_for(self, arch: str) -> bytes:
        """The kernels as a cubin for `arch`, e.g. "sm_90". Raises `BuildError`."""
        core = _core()
        options = core.ProgramOptions(
            name=self.source, arch=arch, include_path=str(SOURCES), **self.options
        )
        try:
            program = core.Program((SOURCES / self.source).read_text(), "c++", options=options)
            return program.compile("cubin").code
        except Exception as error:  # cuda-core's own kinds differ from version to version
            tail = "\n".join(str(error).strip().splitlines()[-TAIL_LINES:])
            raise BuildError(
                f"NVRTC could not compile cuda/{self.source} for {arch}:\n{tail}"
            ) from None

    def cubin(self, arch: str) -> Path:
        """The compiled kernels in the cache. Raises `BuildError`."""
        files = [SOURCES / name for name in (self.source, *self.headers)]
        key = fingerprint(files, arch, self.options, _core().__version__, _nvrtc_version())
        stem = self.source.removesuffix(".cu").replace("/", "-")

        def compile_to(path: Path) -> None:
            path.write_bytes(self.compile_for(arch))

        return cached(f"{stem}-{arch}-{key}.cubin", compile_to)

    def launch(
        self,
        name: str,
        device: torch.device,
        grid: int | tuple[int, ...],
        block: int,
        *arguments: int | Tensor | None,
        shared_bytes: int = 0,
    ) -> None:
        """Launch a kernel on the current stream of `device`, without waiting for it.

        Every argument is 64 bits wide, a number or an address, which is how cuda-core passes
        integers. `shared_bytes` is dynamic shared memory; above 48 KiB it is asked for first.
        """
        current = torch.cuda.current_device()
        index = current if device.index is None else device.index
        prepared = self._kernels(index).prepared
        key = (name, grid, block, shared_bytes)
        if key not in prepared:  # before most launches it is: they cost a GPU as much as this
            if len(prepared) >= MOST_PREPARED:
                prepared.clear()
            prepared[key] = self._prepare(index, *key)
        values = [
            0 if x is None else x.data_ptr() if isinstance(x, Tensor) else int(x) for x in arguments
        ]
        with nullcontext() if index == current else torch.cuda.device(index):
            _launch(index, *prepared[key], values)

    def _prepare(
        self, index: int, name: str, grid: int | tuple[int, ...], block: int, shared_bytes: int
    ) -> tuple[Any, Any]:
        """A kernel and the configuration of its launch on GPU number `index`."""
        kernel = self._kernels(index).kernels[name]
        if shared_bytes > STATIC_SHARED and (name, index, shared_bytes) not in self._allowed:
            # cuda-core does not ask for that much dynamic shared memory by itself.
            driver = importlib.import_module("cuda.bindings.driver")
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _, handle = driver.cuDeviceGet(index)
            (status,) = driver.cuKernelSetAttribute(attribute, shared_bytes, kernel.handle, handle)
            if status != driver.CUresult.CUDA_SUCCESS:
                raise BuildError(
                    f"a block cannot have {shared_bytes} bytes of shared memory: {status.name}"
                )
            self._allowed.add((name, index, shared_bytes))
        return kernel, _core().LaunchConfig(grid=grid, block=block, shmem_size=shared_bytes)

    def _kernels(self, device: int) -> _Loaded:
        """The kernels loaded for GPU number `device`. Raises `BuildError`."""
        if device not in self._loaded:
            major, minor = torch.cuda.get_device_capability(device)
            if not self.supports(f"sm_{major}{minor}"):
                raise BuildError(
                    f"the kernels of cuda/{self.source} need a GPU of compute capability "
                    f"{self.oldest[0]}.{self.oldest[1]} or later, this one has {major}.{minor}"
                )
            path = self.cubin(f"sm_{major}{minor}")
            try:
                module = _core().ObjectCode.from_cubin(path.read_bytes())
                kernels = {name: module.get_kernel(name) for name in self.kernels}
                self._loaded[device] = _Loaded(kernels, {})
            except Exception as error:  # a driver older than the compiler, for one
                raise BuildError(f"{path} was built but cannot be loaded: {error}") from None
        return self._loaded[device]


@functools.cache
def _nvrtc_version() -> tuple[int, int]:
    """Version of the compiler. Raises `BuildError` if it cannot be loaded."""
    try:
        _, major, minor = importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except Exception as error:  # missing package, missing or foreign library
        raise BuildError(f"NVRTC cannot be loaded: {error}") from None
    return major, minor


@functools.cache
def _core() -> Any:
    """The module `cuda.core`. Raises `BuildError` if it is not installed."""
    try:
        return importlib.import_module("cuda.core")
    except ImportError as error:
        raise BuildError(
            f"cuda-core is not installed ({error}); pip install -e '.[cuda]' brings it"
        ) from None
