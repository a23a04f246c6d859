"""WKV-7 token by token: wide heads, and GPUs that lack what tiles need, on emulated threads."""

import pytest
import torch

from models.ops.wkv7 import cuda
from models.ops.wkv7.reference import CHUNK
from tests.emulator.driver import Gpu
from tests.models.ops.closeness import assert_close
from tests.models.ops.wkv7.cases import NAMES, Case, random_case, run
from tests.models.ops.wkv7.test_kernels import DTYPES, in_dtype, kernels, slow, truth

LIMITS = {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 6e-4}  # a rounding of y each


def some_case(size: int, length: int, dtype: torch.dtype = torch.float32, heads: int = 1) -> Case:
    """With a state that is lost in part."""
    case = in_dtype(random_case(1, length, heads, size), dtype)
    case.w[:, length // 2, :, :3] = -torch.inf
    return case


@pytest.mark.parametrize(
    ("size", "length", "dtype"),
    [
        (128, 1, torch.float32),
        slow(256, CHUNK + 1, torch.float32),
        (128, 45, torch.bfloat16),
        *(slow(size, 2 * CHUNK + 7, dtype) for size in (96, 128, 192, 256) for dtype in DTYPES),
    ],
)
def test_wide_heads_agree_with_float64(
    gpu: Gpu, size: int, length: int, dtype: torch.dtype
) -> None:
    case = some_case(size, length, dtype)
    assert_close(run(kernels, case), truth(case), LIMITS[dtype])
    assert all("wkv7_steps" in one.kernel for one in gpu.launches)


@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.float16)])
def test_the_backward_pass_where_shared_memory_is_too_little(
    gpu: Gpu, caplog: pytest.LogCaptureFixture, dtype: torch.dtype
) -> None:
    gpu.shared_of_block = 99 << 10
    cuda._notice.cache_clear()
    case = some_case(64, 41, dtype, heads=2)
    # What is before it is the forward pass of tiles.
    assert_close(run(kernels, case), truth(case), max(1e-5, LIMITS[dtype]))
    name = str(dtype).removeprefix("torch.")
    ran = [one.kernel for one in gpu.launches]
    assert ran == [f"wkv7_forward_{name}", f"wkv7_steps_backward_{name}_64"]
    assert "goes token by token, which is slower" in caplog.text


@pytest.mark.parametrize(("size", "dtype"), [(48, torch.bfloat16), slow(64, torch.float32)])
def test_a_gpu_without_bf16_on_tensor_cores(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, size: int, dtype: torch.dtype
) -> None:
    gpu.capability = (7, 5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cuda.library.load()
    case = some_case(size, 35, dtype, heads=2)
    assert_close(run(kernels, case), truth(case), LIMITS[dtype])
    assert {one.kernel[:10] for one in gpu.launches} == {"wkv7_steps"}


@pytest.mark.slow
def test_the_order_of_blocks_and_threads_does_not_show(gpu: Gpu) -> None:
    case, results = some_case(256, 40), []
    for gpu.seed, gpu.resident in ((0, 1), (1, 4), (2, 7)):
        results.append(run(kernels, case))
    assert all(torch.equal(results[0][name], x[name]) for x in results[1:] for name in NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("size", [128, 256])
def test_no_thread_races_with_another(gpu: Gpu, size: int) -> None:
    gpu.sanitized = True
    case = some_case(size, 12)
    assert_close(run(kernels, case), truth(case), LIMITS[torch.float32])
