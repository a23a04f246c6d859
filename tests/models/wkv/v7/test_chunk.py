"""The GPU kernels, run on the CPU one warp after the other, against fp64.

Tensor cores are emulated from the layout and rounding their manual gives. What this leaves open is
what only a GPU can show: its own arithmetic, and speed.
"""

import ctypes
import functools

import pytest
import torch

from models.wkv import backends, build, wkv7
from models.wkv.build import BuildError
from models.wkv.v7 import cuda
from models.wkv.v7.reference import wkv7_sequential
from tests.models.wkv.v7.cases import FLOOR, NAMES, assert_close, errors, random_case, run

BF16 = 1e-2


try:
    library = ctypes.CDLL(
        str(build.shared_library("chunk", ["wkv7_chunk_host.cpp"], [*cuda.library.headers]))
    )
except BuildError as error:
    pytest.skip(str(error), allow_module_level=True)


def launch(name, device, grid, block, *arguments, shared_bytes=0):
    values = [
        ctypes.c_void_p(x.data_ptr()) if isinstance(x, torch.Tensor) else x for x in arguments
    ]
    values = [ctypes.c_int64(x) if isinstance(x, int) else x for x in values]
    grid = (*grid, 1, 1)[:3]
    getattr(library, name)(*map(ctypes.c_int64, grid), *values)


@pytest.fixture
def machine(monkeypatch):
    """Sets the number of multiprocessors of the emulated GPU."""

    def multiprocessors(count):
        monkeypatch.setattr(cuda, "_machine", lambda device: (count, 1 << 20))

    multiprocessors(1)
    return multiprocessors


@pytest.fixture
def scan(monkeypatch, machine):
    """wkv7 through the whole operator, with the emulated kernels under it."""
    monkeypatch.setattr(cuda.library, "launch", launch)
    monkeypatch.setattr(backends, "kernels", lambda operator, name: cuda)
    monkeypatch.setattr(backends, "resolve", lambda operator, backend, *rest: backend)
    return functools.partial(wkv7, backend="cuda")


def truth(case):
    return run(wkv7_sequential, case, torch.float64)


def in_dtype(case, dtype):
    half = {name: getattr(case, name).to(dtype) for name in ("r", "k", "v", "a", "b", "grad_y")}
    return case._replace(**half)


@pytest.mark.parametrize("length", [1, 5, 32, 33, 100, 300])
def test_float32_agrees_with_float64(scan, length):
    case = random_case(1, length, 2, 64, seed=length, fresh=length % 2 == 0)
    assert_close(run(scan, case), truth(case), 1e-5)
