"""Ways to attend beside PyTorch's function: what they compute, and when one is taken."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from models.ops import attention, attention_ways
from models.ops import attention_choice as choice
from models.ops.attention import attend


def qkv(length: int, keys: int, grad: bool = False) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = ((2, 4, length, 8), (2, 2, keys, 8), (2, 2, keys, 8))
    return [torch.randn(shape, generator=g).requires_grad_(grad) for shape in shapes]


def usual(window: int | None) -> Any:
    return lambda q, k, v: attention._by_pytorch(q, k, v, "auto", window)


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, window_size: tuple[int, int] = (-1, 0)
) -> tuple[Tensor, None]:
    """As FlashAttention is called: tokens before heads, keys to the left of a token's own."""
    assert causal and window_size[1] == 0
    window = None if window_size[0] < 0 else window_size[0] + 1
    return attend(*(x.transpose(1, 2) for x in (q, k, v)), "math", window).transpose(1, 2), None


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """FlashAttention-3, as if it were installed and CPUs could try; whose time is `seconds`."""
    module: Any = ModuleType("flash_attn_interface")
    module.flash_attn_func, module.seconds, module.calls = flash_attn_func, 1.0, 0
    module.__spec__ = object()
    tried = choice._tried

    def timed(call: Any, *given: Any) -> tuple[list[Tensor], float]:
        module.calls += 1
        results, _ = tried(call, *given)
        return results, module.seconds if isinstance(call, functools.partial) else 2.0

    attention_ways._wheel.cache_clear()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(choice, "_can_try", lambda q: True)
    monkeypatch.setattr(choice, "_tried", timed)
    monkeypatch.setattr(choice, "_ways", {})
    monkeypatch.setattr(choice, "_chosen", {})
    monkeypatch.setattr(choice, "fastest", lambda *_: None)
    monkeypatch.setattr(attention, "fastest", lambda *_: None)
    yield module
    attention_ways._wheel.cache_clear()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attends_within_windows() -> None:
    for length, keys, window in ((150, 150, 24), (40, 150, 50), (130, 200, 199)):
        given = qkv(length, keys)
        want = attend(*given, "math", window)
        torch.testing.assert_close(attention_ways.flex(*given, window), want, rtol=1e-5, atol=1e-5)


def test_without_wheels_windows_alone_have_another_way() -> None:
    assert attention_ways.available(False) == {}
    assert [*attention_ways.available(True)] == ["flex"]


@pytest.mark.parametrize("window", [None, 24])
@pytest.mark.parametrize("grad", [False, True])
def test_a_wheel_that_is_faster_is_taken(
    wheel: Any, monkeypatch: pytest.MonkeyPatch, window: int | None, grad: bool
) -> None:
    monkeypatch.setattr(attention_ways, "flex", lambda *_: 1 / 0)
    given = qkv(140, 140, grad)
    for _ in range(2):  # tried once
        way = choice.another_way(*given, window, usual(window))
        assert way is not None and wheel.calls <= 3
    torch.testing.assert_close(way(*given, window), usual(window)(*given))
    assert choice.in_use(torch.device("cpu"), torch.float32, 4, 8) == "flash_3"
    assert all(x.grad is None for x in given)


def test_a_wheel_that_is_slower_or_wrong_or_fails_is_not(wheel: Any) -> None:
    wheel.seconds = 3.0
    assert choice.another_way(*qkv(140, 140), None, usual(None)) is None
    wheel.seconds = 1.0
    right = wheel.flash_attn_func
    for length, wrong in (
        (150, lambda *x, **options: right(*x, **options)[0] * 1.1),
        (160, lambda *x, **options: torch.full_like(x[0], torch.nan)),
        (170, lambda *x, **options: 1 / 0),
    ):
        attention_ways._wheel.cache_clear()
        wheel.flash_attn_func = wrong
        assert choice.another_way(*qkv(length, length), None, usual(None)) is None
    assert choice.in_use(torch.device("cpu"), torch.float32, 4, 8) is None


def test_few_queries_and_many_shapes_are_left_to_pytorch(
    wheel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choice.another_way(*qkv(20, 140), None, usual(None)) is None and not wheel.calls
    monkeypatch.setattr(choice, "MOST_WAYS", 1)
    assert choice.another_way(*qkv(140, 140), None, usual(None)) is not None
    assert choice.another_way(*qkv(141, 141), None, usual(None)) is None


def test_a_wheel_that_cannot_be_imported_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    attention_ways._wheel.cache_clear()
    module: Any = ModuleType("flash_attn_interface")  # without the function
    module.__spec__ = object()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert attention_ways.available(False) == {}
    attention_ways._wheel.cache_clear()
