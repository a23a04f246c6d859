"""How much memory a training step needs, counted without allocating any, and what would fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from conf.schema import TrainConf
from models.registry import ModelSpec, build

WEIGHT = 16  # bytes per parameter: weight, gradient and AdamW's two means, in fp32
SPARE = 0.9  # of the room that a proposal may take, by estimate


def room() -> int:
    """Bytes that this process may still allocate for training."""
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    free = psutil.virtual_memory().available
    try:
        import resource
    except ImportError:  # not a Unix
        return free
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free = min(free, limit - psutil.Process().memory_info().vms)
    return max(free, 0)


def kept_bytes(spec: ModelSpec, length: int, recompute: bool, precision: str) -> int:
    """Bytes that the forward pass of one sequence keeps for its backward pass.

    Counted from the real operations on tensors without storage. With `recompute` (gradient
    checkpointing) these are the inputs of the blocks, and one block's own.
    """
    if recompute:
        whole = kept_bytes(spec, length, False, precision)
        return _saved(spec, length, True, precision) + whole // spec.config["n_layer"]
    return _saved(spec, length, False, precision)


def _saved(spec: ModelSpec, length: int, recompute: bool, precision: str) -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    storages: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with FakeTensorMode(), torch.device(device):
        model: Any = build(spec)
        model.gradient_checkpointing = recompute
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        tokens = torch.zeros(1, length, dtype=torch.int64)
        half = torch.float16 if precision.startswith("16") else torch.bfloat16
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast(device, half, enabled="mixed" in precision),
        ):
            model.objective(tokens, tokens)
    return sum(storage.nbytes() for key, storage in storages.items() if key not in own)


def step_bytes(spec: ModelSpec, batch: int, length: int, recompute: bool, precision: str) -> int:
    """About what a training step needs: weights, their gradients and moments, and activations."""
    with torch.device("meta"):
        model: Any = build(spec)
    weights = WEIGHT * sum(parameter.numel() for parameter in model.parameters())
    return weights + batch * kept_bytes(spec, length, recompute, precision)


def remedies(conf: TrainConf, spec: ModelSpec, free: int) -> str:
    """Which smaller settings would fit into `free` bytes, in words; an estimate, and says so."""
    try:
        return _remedies(conf, spec, free)
    except Exception:  # no memory even for counting: say what is always true
        return "Less memory: training.gradient_checkpointing=true, or half of data.batch_size"


def _remedies(conf: TrainConf, spec: ModelSpec, free: int) -> str:
    data, on = conf.data, conf.training.gradient_checkpointing
    batch = max(1, data.batch_size // conf.trainer.devices)

    def needs(batch: int, length: int, recompute: bool) -> int:
        return step_bytes(spec, batch, length, recompute, conf.trainer.precision)

    now = needs(batch, data.length, on)
    # It did not fit: where the count says that it would, everything is larger than the count.
    scale = max(1.0, free / now)

    def fits(estimate: int) -> bool:
        return estimate * scale <= SPARE * free

    def choices() -> Iterator[tuple[str, int]]:
        if not on:
            yield "training.gradient_checkpointing=true", needs(batch, data.length, True)
        for recompute in dict.fromkeys((on, True)):
            also = " training.gradient_checkpointing=true" if recompute and not on else ""
            sizes = _halves(data.batch_size, conf.trainer.devices)
            for size in sizes:
                share = size // conf.trainer.devices
                accumulate = conf.trainer.accumulate_grad_batches * (data.batch_size // size)
                more = f" trainer.accumulate_grad_batches={accumulate}{also}"
                estimate = needs(share, data.length, recompute)
                if fits(estimate):
                    yield f"data.batch_size={size}{more}", estimate
                    break
            for length in _halves(data.length, 16):
                estimate = needs(batch, length, recompute)
                if fits(estimate):
                    yield f"data.length={length}{also}", estimate
                    break

    fitting = [
        f"{words} (about {gib(estimate * scale)})"
        for words, estimate in choices()
        if fits(estimate)
    ]
    asked = (
        f"data.batch_size={data.batch_size} data.length={data.length} "
        f"training.gradient_checkpointing={str(on).lower()} needs about {gib(now * scale)} and "
        f"{gib(free)} were free"
    )
    if not fitting:
        return f"{asked}; no smaller batch or length would fit either: choose a smaller model.size"
    return f"{asked}. Would fit, by estimate: {'; or '.join(fitting)}"


def _halves(size: int, least: int) -> Iterator[int]:
    """Half of `size`, a quarter and so on, while it stays a multiple of `least`."""
    while size % 2 == 0 and size // 2 >= least and (size // 2) % least == 0:
        size //= 2
        yield size


def gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
