"""The precision that fits a device, where none is asked for, and how fp32 is multiplied there."""

from __future__ import annotations

import torch

AUTO = "auto"
BF16_CAPABILITY = (8, 0)
"""Compute capability from which a GPU has matrix units for bf16 and TF32."""


def has_bf16_units() -> bool:
    """Whether every GPU that PyTorch sees multiplies matrices of bf16 and TF32 in hardware."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    capabilities = [torch.cuda.get_device_capability(index) for index in range(count)]
    return bool(capabilities) and min(capabilities) >= BF16_CAPABILITY


def of_training(asked: str, on_gpu: bool) -> str:
    """`trainer.precision`; for `auto` bf16-mixed on a GPU with units for it, else 32-true."""
    if asked != AUTO:
        return asked
    return "bf16-mixed" if on_gpu and has_bf16_units() else "32-true"


def of_probe(asked: str, on_gpu: bool) -> str:
    """The `precision` of a sweep; for `auto` bfloat16 on a GPU with units for it, else float32."""
    if asked != AUTO:
        return asked
    return "bfloat16" if on_gpu and has_bf16_units() else "float32"


def fp32_products(precision: str, on_gpu: bool) -> dict[str, str]:
    """Say and set how this process multiplies what stays fp32, as an entry of back ends.

    Where fp32 was asked for it is IEEE's; beside half precision TF32, if a GPU has it. On a CPU
    nothing is set and nothing needs to be said.
    """
    if not on_gpu:
        return {}
    fast = precision not in ("32-true", "float32") and has_bf16_units()
    torch.backends.cuda.matmul.allow_tf32 = fast
    return {"fp32_products": "tf32" if fast else "ieee"}
