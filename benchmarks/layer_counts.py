"""What a layer costs on a GPU beside its products, counted without one: launches and bytes.

    python benchmarks/layer_counts.py

Forward and backward pass of a layer on tensors without memory, as `plan.py` counts them, for models
of 0.4 billion parameters on 8 x 4,096 tokens under autocast to bf16: every operation that writes is
a launch, or two where it sums over rows, and moves each of its operands once. `plain` is the same
without the fused formulas and with every matrix rounded on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode

from models.ops.elementwise.fused import native_as_on, native_disabled
from models.registry import ModelSpec, build
from models.step_trace import Recorder

MODELS = ("rwkv7", "rwkv6", "rwkv5", "rwkv4", "transformer")
SIZE = "0.4b"
BATCH, LENGTH, VOCAB = 8, 4096, 65536
LAYERS = (3, 4)  # the difference is one layer
PRODUCTS = ("matmul", "thin matmul", "attention", "recurrence")


@dataclass(frozen=True)
class Count:
    """What one layer takes, forward and backward."""

    launches: float
    traffic: float
    """Bytes that all but products, attention and recurrences move, per token and channel."""
    kept: float
    """Bytes kept for the backward pass, per token and channel."""


def count(name: str, fused: bool) -> Count:
    """One layer of a model of `conf/model/`."""
    few, more = (_traced(name, layers, fused) for layers in LAYERS)
    launches, traffic, kept = (after - before for before, after in zip(few, more, strict=True))
    return Count(launches, traffic, kept)


def _traced(name: str, layers: int, fused: bool) -> tuple[float, float, float]:
    """Launches, and bytes moved and kept per token and channel, of so many layers."""
    text = Path(__file__).parents[1].joinpath("conf", "model", f"{name}.yaml").read_text()
    conf = yaml.safe_load(text)
    config = {**conf["sizes"][SIZE], "n_layer": layers, "vocab_size": VOCAB}
    spec = ModelSpec(name=name, target=conf["target"], size=SIZE, config=config)
    with FakeTensorMode(), native_as_on("cuda") if fused else native_disabled():
        model: Any = build(spec)
        tokens = torch.zeros(BATCH, LENGTH, dtype=torch.long)
        recorder = Recorder([tokens, *model.parameters(), *model.buffers()], lambda: 0.0)
        with recorder:
            with torch.autocast("cpu", torch.bfloat16):
                total = model.hidden(tokens)[0].float().sum()
            kept = recorder.ops[-1].activations
            total.backward()
    elements = BATCH * LENGTH * config["n_embd"]
    moved = sum(
        op.bytes for op in recorder.ops if op.kind.removesuffix(" backward") not in PRODUCTS
    )
    return sum(op.count for op in recorder.ops), moved / elements, kept / elements


def main() -> None:
    print("| | launches, plain | fused | bytes, plain | fused | kept, plain | fused |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in MODELS:
        before, after = count(name, False), count(name, True)
        print(
            f"| {name} | {before.launches:.0f} | {after.launches:.0f} "
            f"| {before.traffic:,.0f} | {after.traffic:,.0f} "
            f"| {before.kept:.0f} | {after.kept:.0f} |"
        )


if __name__ == "__main__":
    main()
