"""Estimates the memory of a training without allocating it, and proposes what would fit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil
import torch

from conf.schema import TrainConf
from core.launcher import detect_launcher, processes_of
from core.precision import of_training
from core.units import size_bytes
from models.meta import count_parameters, sketch
from models.registry import ModelSpec
from models.step_trace import kept_bytes

WEIGHT = 16  # bytes per parameter: weight, gradient and AdamW's two means, in fp32
PROCESS = 1 << 28  # bytes of a process that has imported PyTorch, at least
CGROUPS = Path("/sys/fs/cgroup")
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


def capacity(on_gpu: bool) -> int:
    """Bytes that there are for trainings at all: of one GPU, or what this process may use here."""
    if on_gpu:
        return int(torch.cuda.get_device_properties(0).total_memory)
    limits = [psutil.virtual_memory().total, *_cgroup_limits()]
    try:
        import resource
    except ImportError:  # not a Unix
        return min(limits)
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft)
    return min(limits)


def _cgroup_limits() -> Iterator[int]:
    """Memory limits of this process's control group, and of those around it (Linux)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root, name = CGROUPS / controllers, "limit_in_bytes" if controllers else "max"
            for folder in (root / path.strip("/"), *(root / path.strip("/")).parents):
                if not folder.is_relative_to(root):
                    break
                try:
                    yield int((folder / f"memory.{name}").read_text())
                except (OSError, ValueError):  # none, or "max"
                    continue


def too_large(conf: TrainConf, spec: ModelSpec, on_gpu: bool) -> str | None:
    """Why a training cannot fit whatever else is done, in words, or None.

    Only what must exist counts: weights, of those that are trained gradients and the optimizer's
    state, and the inputs of all blocks, which even gradient checkpointing keeps; so what passes may
    still not fit.
    """
    place, world = detect_launcher(), processes_of(conf.trainer.devices)
    here = 1 if on_gpu else place.local_world if place else world
    count = sketch(spec).parameters
    precision = of_training(conf.trainer.precision, on_gpu)
    weights = WEIGHT // 2 if precision == "bf16-true" else WEIGHT
    sharded = {"fsdp": weights, "deepspeed_1": 8, "deepspeed_2": 12, "deepspeed_3": weights}
    apart = sharded.get(conf.trainer.strategy, 0)
    if conf.tune.mode != "full":  # all but a few are frozen, and have no gradient
        weights //= 4
    if on_gpu and conf.trainer.offload:
        apart = weights = 0  # they lie elsewhere
    held = count * (weights - apart + -(-apart // world)) * here
    tokens = conf.data.batch_size * conf.data.length * here // world
    if 0 < conf.training.segment < conf.data.length:
        tokens = tokens * conf.training.segment // conf.data.length
    half = 4 if precision == "32-true" else 2
    inputs = tokens * spec.config["n_layer"] * spec.config["n_embd"] * half
    processes = 0 if on_gpu else here * PROCESS
    room = capacity(on_gpu)
    if held + inputs + processes <= room:
        return None
    shares = f", in {here} processes" if here > 1 else ""
    what = f"{size_bytes(held)} for weights, gradients and optimizer{shares}"
    if inputs:
        what += f", and {size_bytes(inputs)} at least for a batch of {tokens:,} tokens"
    way = "choose a smaller model.size, model.n_layer or model.n_embd"
    if held + processes <= room:
        way = "lower data.batch_size or data.length (trainer.accumulate_grad_batches=)"
    elif count * weights + PROCESS <= room:
        way = "lower trainer.devices"
    owner = "a GPU here" if on_gpu else "this machine"
    return f"the model has {count:,} parameters: {what}; {owner} has {size_bytes(room)}: {way}"


def weights_too_large(spec: ModelSpec, bytes_each: int, on_gpu: bool) -> str | None:
    """Why a model cannot even be held, in words, or None."""
    count, room = sketch(spec).parameters, capacity(on_gpu)
    if count * bytes_each <= room:
        return None
    owner = "a GPU here" if on_gpu else "this machine"
    return (
        f"the model has {count:,} parameters: {size_bytes(count * bytes_each)} for weights alone; "
        f"{owner} has {size_bytes(room)}: "
        "choose a smaller model.size, model.n_layer or model.n_embd"
    )


def remedies(conf: TrainConf, spec: ModelSpec, free: int) -> str:
    """Which smaller settings would fit into `free` bytes, in words; an estimate, and says so."""
    try:
        return _remedies(conf, spec, free)
    except Exception:  # no memory even for counting: say what is always true
        return "Less memory: training.gradient_checkpointing=true, or half of data.batch_size"


def _remedies(conf: TrainConf, spec: ModelSpec, free: int) -> str:
    data, on = conf.data, conf.training.gradient_checkpointing
    batch = max(1, data.batch_size // conf.trainer.devices)

    weights = (WEIGHT if conf.tune.mode == "full" else WEIGHT // 4) * count_parameters(spec)

    @cache  # a trace takes a second, and does not depend on the batch
    def kept(length: int, recompute: bool) -> int:
        return kept_bytes(spec, length, recompute, conf.trainer.precision)

    def needs(batch: int, length: int, recompute: bool) -> int:
        return weights + batch * kept(length, recompute)

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
        f"{words} (about {size_bytes(estimate * scale)})"
        for words, estimate in choices()
        if fits(estimate)
    ]
    asked = (
        f"data.batch_size={data.batch_size} data.length={data.length} "
        f"training.gradient_checkpointing={str(on).lower()} needs about "
        f"{size_bytes(now * scale)} and {size_bytes(free)} were free"
    )
    if not fitting:
        return f"{asked}; no smaller batch or length would fit either: choose a smaller model.size"
    return f"{asked}. Would fit, by estimate: {'; or '.join(fitting)}"


def _halves(size: int, least: int) -> Iterator[int]:
    """Half of `size`, a quarter and so on, while it stays a multiple of `least`."""
    while size % 2 == 0 and size // 2 >= least and (size // 2) % least == 0:
        size //= 2
        yield size
