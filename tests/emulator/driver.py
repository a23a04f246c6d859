"""The driver and the compiler of a GPU, replaced: g++ compiles kernels, emulated threads run them.

Everything above them is the product's own: its bindings, its launches, its kernels as they stand in
`cuda/`. Each launch is a process, so that a kernel that crashes or hangs fails one test.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from models.ops import backends, build, nvrtc
from models.ops.build import BuildError
from models.ops.nvrtc import STATIC_SHARED, CudaLibrary

HERE = Path(__file__).parent
SECONDS = 300  # that a launch may take
MOST_THREADS, MOST_BLOCKS, MOST_ROWS = 1024, 1 << 31, 1 << 16  # of a block; of a grid
FLAGS = ("-std=c++17", "-w", "-D__CUDACC__")
POISONED = "-ftrivial-auto-var-init=pattern"  # what a thread has not set is huge; since GCC 12
SANITIZERS = ("thread", "undefined")
_FILES = sorted(path for kind in ("*.h", "*.cpp", "gpu/*.h") for path in HERE.glob(kind))


class WrongKernel(Exception):
    """A kernel did what no kernel may: the emulator's message, or the sanitizer's."""


class Launched(NamedTuple):
    """A launch that has been."""

    kernel: str
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int


@dataclass
class Gpu:
    """The emulated GPU, and how its threads take turns. Tests set what they care about."""

    multiprocessors: int = 4
    capability: tuple[int, int] = (9, 0)
    shared_of_block: int = 227 << 10
    shared_of_multiprocessor: int = 228 << 10
    resident: int = 3
    """Blocks that run at a time."""
    seed: int = 2
    """Order of blocks and threads: 0 theirs, 1 the last first, others random."""
    sanitized: bool = False
    """Under ThreadSanitizer and UBSan."""
    launches: list[Launched] = field(default_factory=list)
    _allowed: dict[str, int] = field(default_factory=dict)
    _given: tuple[Any, ...] = ()

    # ------------------------------------------------------------ cuda.core

    @property
    def __version__(self) -> str:
        return f"emulated {_runtime_key(self.sanitized)}"

    LEGACY_DEFAULT_STREAM = "stream 0"
    ProgramOptions = SimpleNamespace
    LaunchConfig = SimpleNamespace

    def Device(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(set_current=lambda: None)

    def Program(self, text: str, language: str, options: SimpleNamespace) -> SimpleNamespace:
        def compile_to(kind: str) -> SimpleNamespace:
            return SimpleNamespace(code=_compiled(text, options, self.sanitized))

        return SimpleNamespace(compile=compile_to)

    @property
    def ObjectCode(self) -> SimpleNamespace:
        def from_cubin(code: bytes) -> SimpleNamespace:
            return SimpleNamespace(get_kernel=functools.partial(self._kernel, code))

        return SimpleNamespace(from_cubin=from_cubin)

    def _kernel(self, code: bytes, name: str) -> SimpleNamespace:
        if name.encode() + b"\0" not in code:
            raise KeyError(f"no kernel {name}")
        return SimpleNamespace(name=name, handle=name, program=_program(code))

    def launch(self, stream: Any, config: Any, kernel: Any, *values: int) -> None:
        grid = (config.grid,) if isinstance(config.grid, int) else tuple(config.grid)
        x, y, z = (*grid, 1, 1)[:3]
        done = Launched(kernel.name, (x, y, z), config.block, config.shmem_size)
        if not (0 < x < MOST_BLOCKS and 0 < y < MOST_ROWS and 0 < z < MOST_ROWS):
            raise WrongKernel(f"CUDA_ERROR_INVALID_VALUE: a grid of {x} x {y} x {z} blocks")
        if not 0 < config.block <= MOST_THREADS:
            raise WrongKernel(f"CUDA_ERROR_INVALID_VALUE: a block of {config.block} threads")
        if config.shmem_size > self._allowed.get(kernel.handle, STATIC_SHARED):
            raise WrongKernel(f"CUDA_ERROR_INVALID_VALUE: {config.shmem_size} bytes, not asked for")
        self.launches.append(done)
        _run(kernel.program, done, self, values, self._given)

    # ------------------------------------------------------------ cuda.bindings.driver

    CUresult = SimpleNamespace(
        CUDA_SUCCESS=SimpleNamespace(name="CUDA_SUCCESS"),
        CUDA_ERROR_INVALID_VALUE=SimpleNamespace(name="CUDA_ERROR_INVALID_VALUE"),
    )
    CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)

    def cuDeviceGet(self, index: int) -> tuple[Any, int]:
        return self.CUresult.CUDA_SUCCESS, index

    def cuKernelSetAttribute(
        self, attribute: int, value: int, kernel: str, device: int
    ) -> tuple[Any]:
        if value > self.shared_of_block:
            return (self.CUresult.CUDA_ERROR_INVALID_VALUE,)
        self._allowed[kernel] = value
        return (self.CUresult.CUDA_SUCCESS,)

    # ------------------------------------------------------------ in their place

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Be the GPU that PyTorch sees and that every back end "cuda" runs on.

        Tensors stay on the CPU: where they are is the one thing that operators are not asked.
        """
        launch, met = CudaLibrary.launch, dict[int, Any]()

        def noted(library: CudaLibrary, *arguments: Any, **options: Any) -> None:
            kind = self.capability, self.sanitized
            if met.get(id(library)) != kind:  # what it has loaded was for another GPU
                met[id(library)] = kind
                patch.setattr(library, "_loaded", {})
                patch.setattr(library, "_allowed", set())
            self._given = arguments[4:]
            launch(library, *arguments, **options)

        patch.setattr(CudaLibrary, "launch", noted)
        patch.setattr(nvrtc, "_core", lambda: self)
        patch.setattr(nvrtc, "_thread", threading.local())
        patch.setattr(nvrtc, "_streams", {})
        patch.setattr(nvrtc, "_nvrtc_version", lambda: (0, 0))
        patch.setitem(sys.modules, "cuda.bindings.driver", self)
        patch.setattr(torch.cuda, "device", contextlib.nullcontext)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
        patch.setattr(torch.cuda, "get_device_capability", lambda _=None: self.capability)
        patch.setattr(torch.cuda, "get_device_properties", lambda _=None: self._properties())
        patch.setattr(
            backends,
            "kernels",
            lambda operator, backend, *_: (
                None if backend == "reference" else backends.bindings(operator, "cuda")
            ),
        )

    def _properties(self) -> SimpleNamespace:
        return SimpleNamespace(
            multi_processor_count=self.multiprocessors,
            shared_memory_per_block_optin=self.shared_of_block,
            shared_memory_per_multiprocessor=self.shared_of_multiprocessor,
        )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """An emulated GPU; skips where there is no g++ that can make one."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ here")
    try:
        _runtime()
    except BuildError as error:
        pytest.skip(f"g++ cannot compile the emulator: {error}")
    emulated = Gpu()
    emulated.install(monkeypatch)
    return emulated


# ---------------------------------------------------------------- compiling


@functools.cache
def _runtime_key(sanitized: bool) -> str:
    version = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True)
    facts = (version.stdout, FLAGS, _poisoned(), SANITIZERS if sanitized else ())
    return build.fingerprint([*_FILES, Path(__file__)], *facts)


@functools.cache
def _poisoned() -> tuple[str, ...]:
    command = ["g++", POISONED, "-x", "c++", "-fsyntax-only", "/dev/null"]
    is_known = subprocess.run(command, capture_output=True, check=False).returncode == 0
    return (POISONED,) * is_known


@functools.cache
def _runtime() -> Path:
    """The scheduler and the program around a kernel, compiled."""

    def compile_to(path: Path) -> None:
        files = [str(HERE / name) for name in ("scheduler.cpp", "launch.cpp")]
        plain = ["-fno-builtin", "-fno-tree-loop-distribute-patterns"]  # no calls of memset
        _gxx(["-O2", *plain, "-r", "-nostdlib", "-I", str(HERE), *files, "-o", str(path)])

    return build.cached(f"emulator-{_runtime_key(False)}.o", compile_to)


def _compiled(text: str, options: SimpleNamespace, sanitized: bool) -> bytes:
    """A program that runs any kernel of a source. Raises `BuildError`."""
    arch = options.arch.removeprefix("sm_")
    flags = ["-O1", f"-D__CUDA_ARCH__={arch}0", "-I", str(HERE), "-I", options.include_path]
    flags += ["-include", "builtins.h", *_poisoned()]
    if defined := getattr(options, "define_macro", None):
        flags.append(f"-D{defined}")
    if sanitized:
        flags += [
            "-g1",
            *(f"-fsanitize={name}" for name in SANITIZERS),
            "-fno-sanitize-recover=all",
        ]
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, Path(options.name).name + ".cpp"), Path(folder, "program")
        source.write_text(f'#line 1 "{options.name}"\n{text}')
        _gxx([*flags, str(source), str(_runtime()), "-rdynamic", "-ldl", "-o", str(program)])
        return program.read_bytes()


def _gxx(arguments: list[str]) -> None:
    done = subprocess.run(["g++", *FLAGS, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError("\n".join(done.stderr.splitlines()[-build.TAIL_LINES :]))


@functools.cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="emulated-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def _program(code: bytes) -> Path:
    path = _folder() / f"program-{hash(code) & (1 << 64) - 1:x}"
    path.write_bytes(code)
    path.chmod(0o755)
    return path


# ---------------------------------------------------------------- running


def _run(
    program: Path, launch: Launched, gpu: Gpu, values: tuple[int, ...], given: tuple[Any, ...]
) -> None:
    """Run one launch and copy back what it has made of the tensors among `given`.

    Every storage is copied to memory of its own between pages that nobody may touch.
    """
    storages: dict[int, tuple[int, int]] = {}  # number and bytes, by address
    arguments = []
    for value, tensor in zip(values, given, strict=True):
        buffer, place = -1, value & (1 << 64) - 1
        if isinstance(tensor, Tensor) and value:
            storage = tensor.untyped_storage()
            base = storage.data_ptr()
            buffer, _ = storages.setdefault(base, (len(storages), storage.nbytes()))
            place = value - base
        arguments.append(struct.pack("<qQ", buffer, place))
    header = (*launch.grid, launch.threads, launch.shared_bytes, gpu.resident, gpu.seed)
    parts = [
        struct.pack("<9Q128s", *header, len(storages), len(arguments), launch.kernel.encode()),
        *(struct.pack("<Q", size) for _, size in storages.values()),
        *arguments,
    ]
    start = sum(map(len, parts))
    for base, (_, size) in storages.items():
        parts += [ctypes.string_at(base, size), bytes(-size % 16)]
    path = _folder() / "launch"
    path.write_bytes(b"".join(parts))
    command = [str(program), str(path)]
    if gpu.sanitized and (setarch := shutil.which("setarch")):
        command = [setarch, "-R", *command]  # ThreadSanitizer knows no random addresses
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            env={"TSAN_OPTIONS": "halt_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
        )
    except subprocess.TimeoutExpired:
        raise WrongKernel(f"{launch.kernel} has not ended after {SECONDS} s") from None
    if done.returncode:
        raise WrongKernel(f"{launch.kernel}: status {done.returncode}\n{done.stderr[-3000:]}")
    with path.open("rb") as file:
        file.seek(start)
        for base, (_, size) in storages.items():
            ctypes.memmove(base, file.read(size + -size % 16), size)


@contextlib.contextmanager
def changed(
    patch: pytest.MonkeyPatch, edits: dict[str, tuple[str, str]], folder: Path
) -> Iterator[None]:
    """Kernels as they would be with other text in some files of `cuda/`: (old, new) by file."""
    copy = folder / "cuda"
    shutil.copytree(build.SOURCES, copy)
    for name, (old, new) in edits.items():
        text = (copy / name).read_text()
        assert text.count(old) == 1, f"{name} has {text.count(old)} times: {old}"
        (copy / name).write_text(text.replace(old, new))
    with patch.context() as inner:
        inner.setattr(nvrtc, "SOURCES", copy)
        inner.setattr(nvrtc, "cached", functools.partial(_made_anew, folder))
        yield


def _made_anew(folder: Path, name: str, write: Any) -> Path:
    write(folder / name)
    return folder / name
