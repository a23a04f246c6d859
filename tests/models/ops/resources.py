"""What the compiled CUDA kernels take of a multiprocessor: the table of `docs/kernel_resources.md`.

`python -m tests.models.ops.resources [SOURCE ...] [sm_90 ...]` compiles all kernels for all GPUs,
or some for some, and writes their rows; minutes.
"""

from __future__ import annotations

import io
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from models.ops import nvrtc
from models.ops.elementwise import cuda as elementwise
from models.ops.nvrtc import CudaLibrary
from models.ops.wkv4 import cuda as cuda4
from models.ops.wkv6 import cuda as cuda6
from models.ops.wkv7 import cuda as cuda7
from models.ops.wkv7 import steps

GPUS = {
    "sm_75": "T4, RTX 20",
    "sm_80": "A100",
    "sm_86": "RTX 30, A40",
    "sm_89": "RTX 40, L40S",
    "sm_90": "H100, H200",
    "sm_100": "B200",
    "sm_120": "RTX 50",
}
LIBRARIES: dict[str, CudaLibrary] = {
    one.name: one
    for one in (
        cuda4.library,
        *cuda6.libraries.values(),
        cuda7.tiles,
        *steps.libraries.values(),
        elementwise.library,
        *elementwise.libraries.values(),
    )
}
"""By their source and what it is compiled for."""
TABLE = Path(__file__).parents[3] / "docs" / "kernel_resources.md"
MISSING = ("-", "?")  # no kernels for that generation; not measured yet
_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame, "
    r"(?P<spilled>\d+) bytes spill stores.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
_ROW = re.compile(r"^\| `(\w+)` \|(.*)\|$", re.MULTILINE)


class Resources(NamedTuple):
    """Of a thread: registers and bytes of them spilled to its stack; of a block: bytes of variables
    in shared memory, to which launches may add."""

    registers: int
    spilled: int
    shared: int

    @classmethod
    def read(cls, cell: str) -> Resources:
        registers, spilled, shared = cell.split()
        return cls(int(registers), int(spilled), int(shared))

    def __str__(self) -> str:
        return " ".join(map(str, self))


def architectures(source: str) -> tuple[str, ...]:
    """Those that a source has kernels for."""
    return tuple(arch for arch in GPUS if LIBRARIES[source].supports(arch))


def measured(source: str, arch: str) -> dict[str, Resources]:
    """By kernel, as ptxas says."""
    core, logs, library = nvrtc._core(), io.StringIO(), LIBRARIES[source]
    options = core.ProgramOptions(
        name=library.source,
        arch=arch,
        include_path=str(nvrtc.SOURCES),
        ptxas_options=["-v"],
        **library.options,
    )
    program = core.Program((nvrtc.SOURCES / library.source).read_text(), "c++", options=options)
    program.compile("cubin", logs=logs)
    found = {}
    for kernel in _KERNEL.finditer(logs.getvalue()):
        shared = re.search(r"(\d+) bytes smem", kernel["rest"])
        found[kernel["name"]] = Resources(
            int(kernel["registers"]), int(kernel["spilled"]), int(shared[1]) if shared else 0
        )
    return found


def complaint(source: str, arch: str) -> str | None:
    """What NVRTC's front end says against a source, or None; it makes no code."""
    import cuda.bindings.nvrtc as compiler

    library = LIBRARIES[source]
    text = (nvrtc.SOURCES / library.source).read_bytes()
    _, program = compiler.nvrtcCreateProgram(text, source.encode(), 0, None, None)
    options = [
        f"-arch=compute_{arch[3:]}",
        f"-I{nvrtc.SOURCES}",
        "-std=c++17",
        "-fdevice-syntax-only",
        *(f"-D{defined}" for defined in [library.options.get("define_macro")] if defined),
    ]
    given = [one.encode() for one in options]
    (status,) = compiler.nvrtcCompileProgram(program, len(given), given)
    if status == compiler.nvrtcResult.NVRTC_SUCCESS:
        return None
    _, size = compiler.nvrtcGetProgramLogSize(program)
    log = bytearray(size)
    compiler.nvrtcGetProgramLog(program, log)
    return log.decode()


def version() -> str:
    """Of the compiler."""
    return "NVRTC {}.{}".format(*nvrtc._nvrtc_version())


def recorded() -> tuple[str, dict[tuple[str, str], Resources]]:
    """The compiler's version, and the table: by kernel and architecture."""
    text = TABLE.read_text()
    cells = {
        (name, arch): Resources.read(cell)
        for name, row in _ROW.findall(text)
        for arch, cell in zip(GPUS, row.split("|"), strict=True)
        if cell.strip() not in MISSING
    }
    (made_by,) = re.findall(r"NVRTC \d+\.\d+", text)
    return made_by, cells


def write(cells: dict[tuple[str, str], Resources]) -> None:
    """Put the table into its page."""
    text = TABLE.read_text()
    head = re.sub(r"NVRTC \d+\.\d+", version(), text.split("| kernel |")[0])
    rows = [f"| kernel | {' | '.join(f'{arch}: {gpus}' for arch, gpus in GPUS.items())} |"]
    rows.append("|---" * (len(GPUS) + 1) + "|")
    for library in LIBRARIES.values():
        for name in library.kernels:
            unknown = [MISSING[library.supports(arch)] for arch in GPUS]
            row = " | ".join(
                str(cells.get((name, arch), other))
                for arch, other in zip(GPUS, unknown, strict=True)
            )
            rows.append(f"| `{name}` | {row} |")
    TABLE.write_text(head + "\n".join(rows) + "\n")


def main(words: list[str]) -> None:
    """Measure and write, for GPUs among the words or all, and for sources among them or all."""
    _, cells = recorded()
    gpus = {word for word in words if word in GPUS} or GPUS.keys()
    sources = [word for word in words if word not in GPUS] or list(LIBRARIES)
    jobs = [(source, arch) for source in sources for arch in architectures(source) if arch in gpus]
    with ProcessPoolExecutor(2) as pool:
        tables = pool.map(measured, *zip(*jobs, strict=True))
        for (source, arch), found in zip(jobs, tables, strict=True):
            print(source, arch, flush=True)
            cells |= {(name, arch): found[name] for name in LIBRARIES[source].kernels}
            write(cells)


if __name__ == "__main__":
    main(sys.argv[1:])
