"""The emulated GPU: what it computes, and the faults that it finds, on small kernels of its own."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.ops import nvrtc
from models.ops.build import BuildError
from models.ops.nvrtc import CudaLibrary
from tests.emulator.driver import Gpu, WrongKernel

SOURCE = """
#include "common/elements.h"
#define KERNEL(NAME, ...) extern "C" __global__ void NAME(__VA_ARGS__)
#define BLOCK (blockIdx.x * blockDim.x + threadIdx.x)
using Index = long long;
using Row = float[64];

KERNEL(places, int* out) {
  Index block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  out[block * blockDim.x + threadIdx.x] = 1000 * block + threadIdx.x;
}
KERNEL(turned, const float* in, float* out) {
  GPU_SHARED(Row, row);
  row[threadIdx.x] = in[BLOCK];
  __syncthreads();
  out[BLOCK] = row[63 - threadIdx.x];
}
KERNEL(turned_at_once, const float* in, float* out) {
  GPU_SHARED(Row, row);
  row[threadIdx.x] = in[BLOCK];
  out[BLOCK] = row[63 - threadIdx.x];
}
KERNEL(turned_in_warps, const float* in, float* out) {
  GPU_SHARED(Row, row);
  row[threadIdx.x] = in[BLOCK];
  __syncwarp();
  out[BLOCK] = row[threadIdx.x ^ 31];
}
KERNEL(asked_for, float* out, Index i) {
  float* memory = static_cast<float*>(gpu::shared_memory());
  out[threadIdx.x] = memory[i];
}
KERNEL(lanes, const float* in, float* out, int* least) {
  float x = in[threadIdx.x];
  out[threadIdx.x] = __shfl_xor_sync(~0u, x, 5) + 100 * __shfl_sync(~0u, x, 3);
  least[threadIdx.x] = __reduce_min_sync(~0u, int(x));
}
KERNEL(product, const bf16* a, const bf16* b, float* d) {
#if __CUDA_ARCH__ >= 800
  using Tile = bf16[16][16];
  GPU_SHARED(Tile, left);
  GPU_SHARED(Tile, right);
  int lane = threadIdx.x, half = lane / 16;
  for (int i = lane; i < 256; i += 32) left[i / 16][i % 16] = a[i], right[i / 16][i % 16] = b[i];
  __syncwarp();
  unsigned x[4], y[4];
  gpu::load_matrices<false>(&left[lane % 16][8 * half], x);
  gpu::load_matrices<true>(&right[lane % 16][8 * half], y);
  for (int side = 0; side < 2; side++) {
    float sum[4] = {};
    gpu::multiply_matrices(sum, x, y[2 * side], y[2 * side + 1]);
    for (int i = 0; i < 4; i++)
      d[(lane / 4 + i / 2 * 8) * 16 + 8 * side + lane % 4 * 2 + i % 2] = sum[i];
  }
#endif
}
KERNEL(converted, const float* in, float* out, float* half, float* two) {
  bf16 x;
  fp16 y;
  from_float(in[threadIdx.x], x);
  from_float(in[threadIdx.x], y);
  out[threadIdx.x] = to_float(x);
  half[threadIdx.x] = to_float(y);
  two[threadIdx.x] = gpu::quick_exp2(in[threadIdx.x]);
}
KERNEL(barrier_of_some) {
  if (threadIdx.x) __syncthreads();
}
KERNEL(barrier_of_half_a_warp) {
  if (threadIdx.x < 16) __syncwarp();
  else __shfl_sync(~0u, 1, 0);
}
KERNEL(lanes_left_alone) {
  if (threadIdx.x < 16) __syncwarp();
}
KERNEL(at, float* out, Index i) {
  if (threadIdx.x == 0) out[i] = 1;
}
KERNEL(below_shared) {
  GPU_SHARED(Row, row);
  Index before = -1;
  row[before] = threadIdx.x;
}
KERNEL(from_nowhere, float* out, const float* in) { out[threadIdx.x] = in[threadIdx.x]; }
KERNEL(message, float* data, unsigned* flag) {
  if (threadIdx.x) return;
  if (blockIdx.x == 0) {
    data[0] = 7;
    gpu::store_release(flag, 1);
  } else {
    while (!gpu::load_acquire(flag)) __nanosleep(20);
    data[1] = data[0];
  }
}
KERNEL(message_without_order, float* data, unsigned* flag) {
  if (threadIdx.x) return;
  if (blockIdx.x == 0) {
    data[0] = 7;
    atomicAdd(flag, 1u);
  } else {
    while (!atomicAdd(flag, 0u)) __nanosleep(20);
    data[1] = data[0];
  }
}
KERNEL(shift, Index* out, Index by) { out[threadIdx.x] = int(1) << int(by); }
"""
NAMES = tuple(re.findall(r"^KERNEL\((\w+)", SOURCE, re.MULTILINE))
Launch = Callable[..., None]


@pytest.fixture
def launch(gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """launch(kernel, grid, threads, ...) of `SOURCE`."""
    product = nvrtc.SOURCES
    (tmp_path / "small.cu").write_text(SOURCE)
    for folder in product.iterdir():
        if folder.is_dir():
            (tmp_path / folder.name).symlink_to(folder)
    monkeypatch.setattr(nvrtc, "SOURCES", tmp_path)
    library = CudaLibrary("small.cu", ("common/elements.h",), NAMES)

    def launch(
        kernel: str, grid: int | tuple[int, ...], threads: int, *given: Tensor | int, **more: int
    ) -> None:
        library.launch(kernel, torch.device("cpu"), grid, threads, *given, **more)

    return launch


SEEDS = pytest.mark.parametrize("seed", [0, 1, 2, 3])


@SEEDS
def test_every_thread_of_every_block_runs_once(gpu: Gpu, launch: Launch, seed: int) -> None:
    gpu.seed = seed
    out = torch.full((2 * 3 * 4, 40), -1, dtype=torch.int32)
    launch("places", (2, 3, 4), 40, out)
    assert torch.equal(out, 1000 * torch.arange(24)[:, None] + torch.arange(40))
    assert gpu.launches[0].grid == (2, 3, 4) and gpu.launches[0].threads == 40


@pytest.mark.parametrize("sanitized", [False, True])
@SEEDS
def test_a_barrier_orders_shared_memory(
    gpu: Gpu, launch: Launch, seed: int, sanitized: bool
) -> None:
    gpu.seed, gpu.sanitized = seed, sanitized
    x, out = torch.randn(5, 64), torch.empty(5, 64)
    launch("turned", 5, 64, x, out)
    assert torch.equal(out, x.flip(1))
    launch("turned_in_warps", 5, 64, x, out)
    assert torch.equal(out.view(5, 2, 32), x.view(5, 2, 32).flip(2))


def test_a_missing_barrier_shows_in_values_and_as_a_race(gpu: Gpu, launch: Launch) -> None:
    x, out = torch.randn(5, 64), torch.empty(5, 64)
    launch("turned_at_once", 5, 64, x, out)
    assert out.isnan().any()  # what shared memory is before anybody writes it
    gpu.sanitized = True
    with pytest.raises(WrongKernel, match="data race"):
        launch("turned_at_once", 5, 64, x, out)


def test_lanes_exchange_registers(launch: Launch) -> None:
    x, out, least = torch.randn(64) * 100, torch.empty(64), torch.empty(64, dtype=torch.int32)
    launch("lanes", 1, 64, x, out, least)
    lane, first = torch.arange(64), torch.arange(64) // 32 * 32
    assert torch.equal(out, x[first + (lane - first ^ 5)] + 100 * x[first + 3])
    assert torch.equal(least, x.int().view(2, 32).amin(1).repeat_interleave(32).int())


def test_matrices_are_loaded_and_multiplied(launch: Launch) -> None:
    a, b, d = torch.randn(16, 16).bfloat16(), torch.randn(16, 16).bfloat16(), torch.empty(16, 16)
    launch("product", 1, 32, a, b, d)
    assert torch.allclose(d, a.float() @ b.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("capability", [(7, 5), (9, 0)])
def test_numbers_are_rounded_as_pytorch_does(
    gpu: Gpu, launch: Launch, capability: tuple[int, int]
) -> None:
    """On sm_75, bf16 comes from the code that CPUs use too."""
    gpu.capability = capability
    bits = torch.randint(-(1 << 31), 1 << 31, (1000,), dtype=torch.int64).int()
    x = torch.cat([bits.view(torch.float32), torch.tensor([0.0, -0.0, 6e-8, 65519, 65520, -1e9])])
    x = torch.where(x.isfinite() & (x.abs() > 2e-38), x, torch.zeros(()))
    out, half, two = (torch.empty_like(x) for _ in range(3))
    launch("converted", 1, len(x), x, out, half, two)
    assert torch.equal(out, x.bfloat16().float())
    assert torch.equal(half, x.half().float())
    finite = two.isfinite() & (x > -126)
    assert torch.allclose(two[finite], torch.exp2(x[finite]), rtol=1e-6)


def test_a_barrier_that_not_all_threads_reach(launch: Launch) -> None:
    with pytest.raises(WrongKernel, match="barrier"):
        launch("barrier_of_some", 1, 64)


def test_lanes_at_different_operations(launch: Launch) -> None:
    with pytest.raises(WrongKernel, match="different operations"):
        launch("barrier_of_half_a_warp", 1, 32)
    with pytest.raises(WrongKernel, match="deadlock"):
        launch("lanes_left_alone", 1, 32)


@pytest.mark.parametrize("place", [-1, 10, 100])
@pytest.mark.parametrize("seed", [2, 3])
def test_a_write_beside_a_tensor(gpu: Gpu, launch: Launch, place: int, seed: int) -> None:
    gpu.seed = seed
    with pytest.raises(WrongKernel, match=r"buffer 0 of 40 bytes"):
        launch("at", 1, 32, torch.zeros(10), place)


def test_a_view_is_written_in_its_place(launch: Launch) -> None:
    x = torch.zeros(10)
    launch("at", 1, 32, x[3:], 2)
    assert x[5] == 1 and x.sum() == 1


def test_a_write_before_shared_memory(launch: Launch) -> None:
    with pytest.raises(WrongKernel, match=r"shared memory|nobody owns"):
        launch("below_shared", 1, 32)


def test_an_argument_too_few(launch: Launch) -> None:
    with pytest.raises(WrongKernel, match="nobody owns"):
        launch("from_nowhere", 1, 32, torch.zeros(32))


def test_shared_memory_is_what_was_asked_for(gpu: Gpu, launch: Launch) -> None:
    out, most = torch.zeros(32), gpu.shared_of_block
    launch("asked_for", 1, 32, out, most // 4 - 1, shared_bytes=most)
    assert out.isnan().all()
    with pytest.raises(WrongKernel, match="nobody owns"):
        launch("asked_for", 1, 32, out, most // 4, shared_bytes=most)
    with pytest.raises(BuildError, match=r"a block cannot have \d+ bytes of shared memory"):
        launch("asked_for", 1, 32, out, 0, shared_bytes=most + 16)


@pytest.mark.parametrize("sanitized", [False, True])
def test_blocks_speak_through_flags(gpu: Gpu, launch: Launch, sanitized: bool) -> None:
    gpu.sanitized = sanitized
    data, flag = torch.zeros(2), torch.zeros(1, dtype=torch.int32)
    launch("message", 2, 32, data, flag)
    assert data.tolist() == [7, 7]


def test_a_flag_without_order_is_a_race(gpu: Gpu, launch: Launch) -> None:
    gpu.sanitized = True
    with pytest.raises(WrongKernel, match="data race"):
        launch("message_without_order", 2, 32, torch.zeros(2), torch.zeros(1, dtype=torch.int32))


@SEEDS
def test_a_block_that_waits_for_one_that_cannot_begin(gpu: Gpu, launch: Launch, seed: int) -> None:
    gpu.seed, gpu.resident = seed, 1
    data, flag = torch.zeros(2), torch.zeros(1, dtype=torch.int32)
    flag_of_nobody = torch.zeros(1, dtype=torch.int32)
    launch("message", 1, 32, data, flag)
    with pytest.raises(WrongKernel, match="for ever"):
        gpu.seed = 1
        launch("message", 2, 32, data, flag_of_nobody)


def test_undefined_arithmetic(gpu: Gpu, launch: Launch) -> None:
    gpu.sanitized = True
    with pytest.raises(WrongKernel, match="shift exponent 40 is too large"):
        launch("shift", 1, 32, torch.zeros(32, dtype=torch.int64), 40)
