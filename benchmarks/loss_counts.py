"""What the loss costs on a GPU, counted without one: launches, bytes and operations.

    python benchmarks/loss_counts.py

Forward and backward pass of the fused loss on tensors without memory, as `plan.py` counts them:
every operation that writes is a launch, and moves each of its operands once. Seconds are a lower
bound, at 600 TFLOP/s in products and 2.85 TB/s in everything else, which an H200 reaches.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models.layers.loss import linear_cross_entropy, loss_as_on
from models.step_trace import Recorder

CASES = ((32768, 1024, 65536), (32768, 768, 50304), (32768, 768, 3072))
"""Tokens, channels and vocabulary."""
FLOPS_PER_SECOND, BYTES_PER_SECOND = 600e12, 2.85e12


@dataclass(frozen=True)
class Count:
    launches: int
    products: float
    """FLOPs of the matrix products."""
    traffic: float
    """Bytes of everything else."""


def count(tokens: int, channels: int, vocab: int, device: str, dtype: torch.dtype) -> Count:
    """The loss of `[tokens, channels]` under autocast to `dtype`, as on this type of device."""
    with FakeTensorMode(), loss_as_on(device):
        hidden = torch.zeros(1, tokens, channels, requires_grad=True)
        weight = torch.zeros(vocab, channels, requires_grad=True)
        targets = torch.zeros(1, tokens, dtype=torch.long)
        recorder = Recorder([hidden, weight, targets], time.perf_counter)
        with recorder:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                objective, _ = linear_cross_entropy(hidden, weight, targets)
            objective.backward()
    products = [op for op in recorder.ops if op.flops]
    rest = [op for op in recorder.ops if not op.flops]
    return Count(len(recorder.ops), sum(op.flops for op in products), sum(op.bytes for op in rest))


def main() -> None:
    print(
        "| tokens, channels, vocabulary | launches | other than products, GB | ms | products, ms |"
    )
    print("|---|---:|---:|---:|---:|")
    for case in CASES:
        found = count(*case, "cuda", torch.bfloat16)
        milliseconds = 1e3 * found.traffic / BYTES_PER_SECOND
        products = 1e3 * found.products / FLOPS_PER_SECOND
        print(
            f"| {', '.join(f'{size:,}' for size in case)} | {found.launches:,} "
            f"| {found.traffic / 1e9:.1f} | {milliseconds:.1f} | {products:.1f} |"
        )


if __name__ == "__main__":
    main()
