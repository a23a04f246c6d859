"""The CUDA kernels of `cuda/wkv4_cuda.cu`: compiled by NVRTC on first use, launched by cuda-core.

Neither nvcc nor a host compiler is needed; a GPU is needed to launch, not to compile.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.wkv.build import SOURCES, TAIL_LINES, BuildError, cached, fingerprint
from models.wkv.reference import CHUNK

SOURCE = "wkv4_cuda.cu"
HEADERS = ("wkv4_scan.h", "wkv4_board.h", "wkv4_math.h", "pair.h", "elements.h")
OPTIONS = {"std": "c++17", "ftz": True, "prec_div": False}
_DTYPES = ("float32", "bfloat16", "float16")
KERNELS = (
    *(f"wkv4_forward_{dtype}" for dtype in _DTYPES),
    *(f"wkv4_backward_{dtype}" for dtype in _DTYPES),
    "wkv4_reduce",
)

# Of cuda/wkv4_board.h: channels and tokens of a block, segments between full prefixes, threads.
_COLUMN, _SEGMENT, _GROUP, _THREADS = 64, 256, 16, 256
_SUMMARY = 8 * 32  # floats in a block's summary


def load() -> None:
    """Make sure that the kernels can run on the current device. Raises `BuildError`."""
    if not torch.cuda.is_available():
        raise BuildError("PyTorch sees no CUDA GPU here")
    _kernels(torch.cuda.current_device())


def compile_for(arch: str) -> bytes:
    """The kernels as a cubin for `arch`, e.g. "sm_90". Raises `BuildError`."""
    core = _core()
    options = core.ProgramOptions(name=SOURCE, arch=arch, include_path=str(SOURCES), **OPTIONS)
    try:
        program = core.Program((SOURCES / SOURCE).read_text(), "c++", options=options)
        return program.compile("cubin").code
    except Exception as error:  # cuda-core's own kinds differ from version to version
        tail = "\n".join(str(error).strip().splitlines()[-TAIL_LINES:])
        raise BuildError(f"NVRTC could not compile cuda/{SOURCE} for {arch}:\n{tail}") from None


def wkv4_forward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference.wkv4_forward`; the checkpoints are empty unless `save`."""
    batch, length, channels = k.shape
    w, u, k, v, state = (x.contiguous() for x in (w, u, k, v, state))
    y, out = _new(v), _new(state)
    checkpoints = w.new_empty(batch, -(-length // CHUNK) if save else 0, 3, channels)
    saved = checkpoints if save else None
    _scan("wkv4_forward", k, w, u, k, v, state, y, out, saved)
    return y, out, checkpoints


def wkv4_backward(
    w: Tensor,
    u: Tensor,
    k: Tensor,
    v: Tensor,
    checkpoints: Tensor,
    adjoint: Tensor,
    grad_y: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `reference.wkv4_backward`."""
    batch, length, channels = k.shape
    inputs = [x.contiguous() for x in (w, u, k, v, checkpoints, adjoint, grad_y.to(v.dtype))]
    partial = w.new_empty(batch, -(-length // _SEGMENT), 2, channels)
    gk, gv, before, total = _new(k), _new(v), _new(adjoint), w.new_empty(2, channels)
    _scan("wkv4_backward", k, *inputs, partial, gk, gv, before)
    rows, width = partial.numel() // total.numel(), total.numel()
    _launch("wkv4_reduce", k.device, -(-width // 32), 1024, rows, width, partial, total)
    return total[0].clone(), total[1].clone(), gk, gv, before


def _scan(name: str, k: Tensor, *tensors: Tensor | None) -> None:
    """Launch a scan over k's shape with a fresh board for its blocks to talk through."""
    batch, length, channels = k.shape
    columns, segments = batch * -(-channels // _COLUMN), -(-length // _SEGMENT)
    posts, totals = columns * segments, columns * -(-segments // _GROUP)
    flags = torch.zeros(1 + posts + totals, dtype=torch.int32, device=k.device)
    board = torch.empty((posts + totals) * _SUMMARY, device=k.device)
    dtype = str(k.dtype).removeprefix("torch.")
    _launch(
        f"{name}_{dtype}",
        k.device,
        posts,
        _THREADS,
        *k.shape,
        *tensors,
        flags,
        flags[1:],
        flags[1 + posts :],
        board,
        board[posts * _SUMMARY :],
    )


def _launch(
    name: str, device: torch.device, grid: int, block: int, *arguments: int | Tensor | None
) -> None:
    """Launch a kernel on the current stream of `device`, without waiting for it.

    Every argument is 64 bits wide, a number or an address, which is how cuda-core passes integers.
    """
    core = _core()
    values = [
        0 if x is None else x.data_ptr() if isinstance(x, Tensor) else int(x) for x in arguments
    ]
    with torch.cuda.device(device):
        index = torch.cuda.current_device()
        core.Device(index).set_current()  # in this thread: backward passes have their own
        handle = torch.cuda.current_stream().cuda_stream
        stream = core.Stream.from_handle(handle) if handle else core.LEGACY_DEFAULT_STREAM
        config = core.LaunchConfig(grid=grid, block=block)
        core.launch(stream, config, _kernels(index)[name], *values)


@functools.cache
def _kernels(device: int) -> dict[str, Any]:
    """The kernels by name, loaded for GPU number `device`. Raises `BuildError`."""
    core = _core()
    major, minor = torch.cuda.get_device_capability(device)
    path = _cubin(f"sm_{major}{minor}")
    try:
        module = core.ObjectCode.from_cubin(path.read_bytes())
        return {name: module.get_kernel(name) for name in KERNELS}
    except Exception as error:  # a driver older than the compiler, for one
        raise BuildError(f"{path} was built but cannot be loaded: {error}") from None


def _cubin(arch: str) -> Path:
    """The compiled kernels in the cache. Raises `BuildError`."""
    files = [SOURCES / name for name in (SOURCE, *HEADERS)]
    key = fingerprint(files, arch, OPTIONS, _core().__version__, _nvrtc_version())
    return cached(f"cuda-{arch}-{key}.cubin", lambda path: _write(path, compile_for(arch)))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@functools.cache
def _nvrtc_version() -> tuple[int, int]:
    """Of the compiler. Raises `BuildError` if it cannot be loaded."""
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


def _new(like: Tensor) -> Tensor:
    """A contiguous tensor of the shape, dtype and device of `like`, not filled."""
    return like.new_empty(like.shape)
