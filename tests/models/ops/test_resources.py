"""Every kernel compiles for every GPU generation in use and takes what its table says."""

import pytest
import torch

from models.ops.build import BuildError
from models.ops.wkv7 import cuda as cuda7
from tests.emulator.driver import Gpu
from tests.models.ops import resources
from tests.models.ops.resources import LIBRARIES, architectures

pytest.importorskip("cuda.core", reason="the optional group [cuda] is not installed")

ALL = [(source, arch) for source in LIBRARIES for arch in architectures(source)]
ALIKE = ("OF_float32", "OF_float16")  # the same text as for bf16
SOME = [
    pytest.param(source, arch, marks=[pytest.mark.slow] * source.endswith(ALIKE))
    for source, arch in ALL
]
REGISTERS = 65536  # of a multiprocessor


@pytest.mark.parametrize(("source", "arch"), SOME)
def test_the_compiler_accepts_every_source_for_every_gpu(source: str, arch: str) -> None:
    assert resources.complaint(source, arch) is None


@pytest.mark.slow
@pytest.mark.parametrize(("source", "arch"), ALL)
def test_kernels_take_what_the_table_says(source: str, arch: str) -> None:
    """Not more, where another version of the compiler is installed."""
    made_by, table = resources.recorded()
    found = resources.measured(source, arch)
    assert found.keys() == set(LIBRARIES[source].kernels)
    for name, one in found.items():
        expected = table[name, arch]
        if made_by == resources.version():
            assert one == expected, name
        assert one.spilled <= expected.spilled + 64 and one.shared <= expected.shared, name


def test_every_kernel_has_a_row() -> None:
    _, table = resources.recorded()
    names = {name for library in LIBRARIES.values() for name in library.kernels}
    assert {name for name, _ in table} <= names
    supported = {
        (name, arch)
        for source, library in LIBRARIES.items()
        for arch in architectures(source)
        for name in library.kernels
    }
    assert table.keys() == supported


def test_blocks_of_wkv7_share_a_multiprocessor_as_planned() -> None:
    _, table = resources.recorded()
    for dtype, width in (("bfloat16", 2), ("float16", 4), ("float32", 4)):
        for name, plan in (("forward", cuda7._FORWARD), ("backward", cuda7._BACKWARD)):
            for arch in architectures("wkv7/gpu.cu"):
                if used := table.get((f"wkv7_{name}_{dtype}", arch)):
                    kernel = plan[width]
                    threads = kernel.threads * kernel.resident
                    assert used.registers * threads <= REGISTERS, (name, dtype, arch)


def test_a_gpu_that_is_too_old_is_told(gpu: Gpu) -> None:
    gpu.capability = (7, 0)
    x = torch.zeros(1, 1, 1, 64)
    with pytest.raises(BuildError, match=r"need a GPU of compute capability 7\.5 or later.*7\.0"):
        cuda7.wkv7_forward(x, x, x, x, x, x, torch.zeros(1, 1, 64, 64), False)
