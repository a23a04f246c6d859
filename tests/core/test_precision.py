"""What `precision=auto` means, on GPUs that are only said to be there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from core.precision import fp32_products, of_probe, of_training


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """GPUs of these compute capabilities."""
    capabilities = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    before = torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize(
    ("gpus", "trained", "probed"),
    [
        ([], "32-true", "float32"),
        ([(7, 5)], "32-true", "float32"),
        ([(9, 0), (7, 5)], "32-true", "float32"),
        ([(8, 0)], "bf16-mixed", "bfloat16"),
        ([(8, 9), (12, 0)], "bf16-mixed", "bfloat16"),
    ],
    indirect=["gpus"],
    ids=["none", "turing", "hopper-and-turing", "ampere", "ada-and-blackwell"],
)
def test_auto_is_bf16_where_every_gpu_has_units_for_it(
    gpus: None, trained: str, probed: str
) -> None:
    assert of_training("auto", True) == trained and of_probe("auto", True) == probed
    assert of_training("auto", False) == "32-true" and of_probe("auto", False) == "float32"
    assert of_training("bf16-true", False) == "bf16-true" and of_probe("float16", True) == "float16"


@pytest.mark.parametrize(
    ("gpus", "precision", "products"),
    [
        ([(9, 0)], "bf16-mixed", "tf32"),
        ([(9, 0)], "bfloat16", "tf32"),
        ([(9, 0)], "32-true", "ieee"),
        ([(9, 0)], "float32", "ieee"),
        ([(7, 5)], "16-mixed", "ieee"),
    ],
    indirect=["gpus"],
    ids=["bf16-mixed", "bfloat16", "32-true", "float32", "turing"],
)
def test_fp32_is_tf32_beside_half_precision_only(gpus: None, precision: str, products: str) -> None:
    """Whoever asks for fp32 gets it."""
    assert fp32_products(precision, True) == {"fp32_products": products}
    assert torch.backends.cuda.matmul.allow_tf32 == (products == "tf32")
    assert fp32_products(precision, False) == {}
