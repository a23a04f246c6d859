"""The fastest attention kernel of a GPU, where times are only said to be measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.ops import attention_choice as choice
from models.ops.attention import attend

CPU = torch.device("cpu")


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, bool, bool]]:
    """Kernels that were tried, with the queries, and whether masked and with a gradient: as if CPUs
    had such kernels, of which flash is the fastest for short sequences and never masks."""
    calls = []

    def seconds(
        name: str, q: Tensor, k: Tensor, v: Tensor, mask: Any, causal: bool, gradient: bool
    ) -> float | None:
        calls.append((name, q.shape[2], mask is not None, gradient))
        if name == "flash":
            return None if mask is not None else 1.0
        return {"cudnn": 0.5 if q.shape[2] > 256 else 2.0, "efficient": 3.0}[name]

    monkeypatch.setattr(choice, "_can_try", lambda q: True)
    monkeypatch.setattr(choice, "_seconds", seconds)
    monkeypatch.setattr(choice, "_chosen", {})
    return calls


def qkv(length: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, length, 8, requires_grad=True) for _ in range(3)]


def test_each_shape_is_tried_once_and_the_best_is_kept(tried: list[Any]) -> None:
    short, long = qkv(130), qkv(300)
    mask = torch.ones(130, 130, dtype=torch.bool)
    for _ in range(2):
        assert choice.fastest(*short, None, True) == "flash"
        assert choice.fastest(*long, None, True) == "cudnn"
        assert choice.fastest(*short, mask, False) == "cudnn"
        with torch.no_grad():
            assert choice.fastest(*short, None, True) == "flash"
    assert len(tried) == len(set(tried)) == 4 * len(choice.TRIED)
    assert choice.in_use(CPU, torch.float32, 3, 8) == "cudnn"  # of the longest
    assert choice.in_use(CPU, torch.float32, 4, 8) is None


def test_few_queries_and_kernels_that_all_fail_are_left_to_pytorch(
    tried: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choice.fastest(*qkv(choice.SHORTEST - 1), None, True) is None and not tried
    monkeypatch.setattr(choice, "_seconds", lambda *_: None)
    assert choice.fastest(*qkv(200), None, True) is None


def test_the_choice_is_what_runs(tried: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    real = torch.nn.attention.sdpa_kernel
    monkeypatch.setattr(
        "models.ops.attention.sdpa_kernel",
        lambda kernel: (used.append(kernel), real(choice.SDPBackend.MATH))[1],
    )
    given = qkv(300)
    expected = torch.nn.functional.scaled_dot_product_attention(*given, is_causal=True)
    torch.testing.assert_close(attend(*given, "auto"), expected)
    assert used == [choice.SDPBackend.CUDNN_ATTENTION]


def test_trying_leaves_no_trace_and_says_what_cannot_work() -> None:
    """Really run, with the kernels of a CPU."""
    given = qkv(130)
    mask = torch.ones(130, 130, dtype=torch.bool).tril()
    for gradient in (True, False):
        assert (choice._seconds("math", *given, None, True, gradient) or 0) > 0
        assert (choice._seconds("math", *given, mask, False, gradient) or 0) > 0
        assert choice._seconds("cudnn", *given, None, True, gradient) is None
    assert choice._seconds("flash", *given, mask, False, True) is None
    assert all(x.grad is None for x in given)


def test_a_cpu_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_seconds", pytest.fail)
    assert choice.fastest(*qkv(300), None, True) is None
