"""The GPU kernels of every formula, launched as on a GPU, on emulated threads, against fp64."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from models.ops.elementwise import cuda
from models.ops.elementwise.fused import native_as_on
from tests.emulator.driver import Gpu
from tests.models.ops.closeness import moved
from tests.models.ops.elementwise.cases import FUSED, NAMES, case
from tests.models.ops.elementwise.compare import as_tuple, compare, rounding

Shape = tuple[int, int, int, int]
ODD: Shape = (2, 33, 3, 7)
WHOLE: Shape = (1, 40, 2, 64)
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
names = pytest.mark.parametrize("name", NAMES)
some = pytest.mark.parametrize(
    "name", [name if name in ("delta_keys", "token_shift_mix") else slow(name) for name in NAMES]
)
STREAMS = [name for name, (formula, _) in FUSED.items() if formula.kernel.stream]


@pytest.fixture(autouse=True)
def on_a_gpu(gpu: Gpu) -> Iterator[None]:
    with native_as_on("cuda"):
        yield


def passes(name: str, shape: Shape, change: Any = None) -> list[Tensor]:
    """Results and gradients of all tensors."""
    fused, _, tensors = case(name, shape)
    leaves = [(change(x) if change else x).detach().requires_grad_() for x in tensors]
    got = as_tuple(fused(*leaves))
    torch.manual_seed(1)
    return [*got, *torch.autograd.grad(got, leaves, [torch.randn_like(x) for x in got])]


@names
@pytest.mark.parametrize("shape", [ODD, WHOLE, slow((1, 1, 1, 3)), slow((3, 70, 5, 20))])
def test_agrees_with_float64(gpu: Gpu, name: str, shape: Shape) -> None:
    gpu.seed = shape[1]
    compare(*case(name, shape), rounding(torch.float32))
    assert gpu.launches


@names
@pytest.mark.slow
@pytest.mark.parametrize("shape", [ODD, WHOLE])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name: str, shape: Shape, dtype: torch.dtype) -> None:
    compare(*case(name, shape, dtype), rounding(dtype))


@pytest.mark.parametrize("name", [slow(STREAMS[0]), *STREAMS[1:2], *map(slow, STREAMS[2:])])
@pytest.mark.parametrize("shape", [slow(ODD), WHOLE])
@pytest.mark.parametrize("dtype", [torch.bfloat16, slow(torch.float16)])
def test_the_stream_stays_in_float32_under_autocast(
    name: str, shape: Shape, dtype: torch.dtype
) -> None:
    fused, plain, tensors = case(name, shape, dtype, torch.float32)
    with torch.autocast("cpu", dtype):
        kinds = {x.dtype for x in as_tuple(fused(*tensors))}
        assert kinds == ({dtype, torch.float32} if name.startswith("add") else {dtype})
        compare(fused, plain, tensors, rounding(dtype))


@pytest.mark.parametrize("capability", [(7, 5)])
@pytest.mark.slow
def test_a_gpu_without_conversions_to_bf16(gpu: Gpu, capability: tuple[int, int]) -> None:
    gpu.capability = capability
    compare(*case("gate", WHOLE, torch.bfloat16), rounding(torch.bfloat16))


@pytest.mark.parametrize("name", ["rms_norm", slow("add_layer_norm")])
@pytest.mark.parametrize("width", [slow(264), 1000, slow(1024), slow(8192)])
def test_rows_that_a_block_shares(gpu: Gpu, name: str, width: int) -> None:
    compare(*case(name, (1, 5, 1, width)), rounding(torch.float32))
    assert gpu.launches[0].threads == -(-width // 256) * 32


def test_rows_and_heads_that_are_too_wide_are_left_to_torch(gpu: Gpu) -> None:
    for name, shape in (("rms_norm", (1, 2, 1, 8200)), ("delta_keys", (1, 2, 1, 264))):
        compare(*case(name, shape), rounding(torch.float32))
    assert not gpu.launches


@some
def test_tensors_can_begin_anywhere_in_memory(name: str) -> None:
    """Vectors that are not aligned are read one by one: with the same bits."""
    for got, want in zip(passes(name, WHOLE, moved), passes(name, WHOLE), strict=True):
        assert torch.equal(got, want)


@some
def test_the_order_of_blocks_and_threads_does_not_show(gpu: Gpu, name: str) -> None:
    results = []
    for gpu.seed, gpu.resident in ((0, 1), (1, 4), (2, 2)):
        results.append(passes(name, (2, 70, 2, 8)))
    assert all(torch.equal(*both) for x in results[1:] for both in zip(results[0], x, strict=True))


@pytest.mark.parametrize(
    "name", [name if name == "bonus_head_norm" else slow(name) for name in NAMES]
)
def test_no_thread_races_with_another(gpu: Gpu, name: str) -> None:
    gpu.sanitized = True
    compare(*case(name, (1, 33, 2, 16)), rounding(torch.float32))
    compare(*case(name, (1, 9, 3, 5)), rounding(torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMS)
def test_no_warp_races_with_another_over_a_wide_row(gpu: Gpu, name: str) -> None:
    gpu.sanitized = True
    compare(*case(name, (1, 9, 1, 600)), rounding(torch.float32))


@pytest.mark.slow
def test_more_rows_than_one_span(gpu: Gpu) -> None:
    for name in ("log_decay", "delta_keys", "rms_norm"):
        compare(*case(name, (2, 3000, 1, 8)), 1e-5)
    spans = [one.grid[0] for one in gpu.launches if one.kernel == "log_decay_backward_float32"]
    assert spans == [6000 // 5]


def test_no_rows_have_no_gradient() -> None:
    fused, _, (x, weight) = case("rms_norm", (1, 0, 1, 8))
    weight.requires_grad_()
    (grad,) = torch.autograd.grad(fused(x, weight).sum(), [weight])
    assert torch.equal(grad, torch.zeros(8))


def test_plans_depend_on_the_shape_alone() -> None:
    """Of a 0.4B model at 8 x 4,096 tokens."""
    rows = cuda.plan_of("rows", (32768, 1024), True)
    assert rows == cuda.Plan((1024, 1), 128, 32, 128, 1, 1024)
    heads = cuda.plan_of("heads", (32768, 16, 64), True)
    assert heads == cuda.Plan((1024, 1), 128, 32, 8, 16, 1024)
    tokens = cuda.plan_of("tokens", (8, 4096, 1024, 6), True)
    assert tokens == cuda.Plan((1024, 1), 128, 32, 1, 1, 1024)
