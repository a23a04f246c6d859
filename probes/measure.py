"""What one child process does: build a contestant, run it, and read clock and memory.

Every contestant gets the same random tokens, and is seen through `models.contract` only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.contract import State, clone_state, named_tensors
from models.errors import UserError
from models.registry import ModelSpec, build
from probes import machine, memory
from probes.child import Report

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TRAINING_FACTOR = 3  # backward costs two forwards: one product for inputs, one for weights


@dataclass(frozen=True)
class Task:
    """Everything a child needs to know, as plain data."""

    spec: ModelSpec
    probe: str
    batch: int
    length: int
    vocab_size: int
    seed: int
    repeats: int
    warmup: int
    decode_steps: int
    precision: str
    device: str
    threads: int
    memory_bytes: int
    """Limit on what the point may allocate."""
    baseline_bytes: int
    """Peak of a process that only imports, from `calibrate`; subtracted from this one's."""


def calibrate(report: Report, device: str, threads: int) -> None:
    """Work of the import-only child: reports `device`, `peak_method` and `baseline_bytes`."""
    _prepare(device, threads)
    method = memory.reset_peak(device)
    report(
        {
            "device": machine.describe_device(device),
            "baseline_bytes": memory.peak(device) or 0,
            "peak_method": method,
        }
    )


def measure(report: Report, task: Task) -> None:
    """Work of a point's child: reports the measured fields of `probes.rows.Row`.

    Raises `UserError` if the model cannot be built or has another vocabulary than the sweep.
    """
    _prepare(task.device, task.threads)
    memory.limit(task.device, task.memory_bytes)
    torch.manual_seed(task.seed)
    model: Any = build(task.spec)
    if model.config.vocab_size != task.vocab_size:
        raise UserError(
            f"{task.spec.name} has a vocabulary of {model.config.vocab_size}, the sweep one of "
            f"{task.vocab_size}: contestants must read the same tokens"
        )
    model.to(task.device)
    report({"parameters": sum(parameter.numel() for parameter in model.parameters())})
    report({"flops": _flops(model, task), "flops_dense": _flops(model, task, dense=True)})
    memory.reset_peak(task.device)
    found = {"train": _train, "prefill": _prefill, "decode": _decode}[task.probe](model, task)
    with _autocast(task):  # kernels are chosen by the precision they will see
        report({**found, "backends": dict(model.backends())})


def _train(model: Any, task: Task) -> dict[str, Any]:
    """Forward and backward of the mean loss over the whole batch, without an optimizer.

    Gradients start as `None` in every repeat. The peak holds weights, gradients and activations.
    """
    model.train()
    tokens = _tokens(task, task.length + 1)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def step(_: None) -> None:
        with _autocast(task):
            loss, _state = model.loss(inputs, targets)
        loss.backward()

    seconds, _ = _repeat(task, lambda: model.zero_grad(set_to_none=True), step)
    return {"seconds": seconds, "peak_bytes": _peak(task)}


def _prefill(model: Any, task: Task) -> dict[str, Any]:
    """From tokens to a state that decoding can start from, `init_state` included.

    The contract returns the logits of every position, `[B, T, V]`, so every contestant pays for
    all of them although decoding needs only the last.
    """
    _for_inference(model, task)
    tokens = _tokens(task, task.length)
    seconds, state = _repeat(task, lambda: None, lambda _: _state_after(model, tokens, task.length))
    return {
        "seconds": seconds,
        "peak_bytes": _peak(task),
        "state_bytes": state_bytes(state),
    }


def _decode(model: Any, task: Task) -> dict[str, Any]:
    """Seconds per token after a context of `length` tokens: mean over `decode_steps` tokens.

    Every repeat starts at the same position from a copy of the same state. The peak is read in an
    untimed pass before any copy exists, so it holds weights, state and one step; the memory limit
    must have room for the copy too. The state has room for `decode_steps` more tokens, which count
    in `state_bytes` where a cache grows.
    """
    _for_inference(model, task)
    tokens = _tokens(task, task.length + task.decode_steps)
    context, new = tokens[:, : task.length], tokens[:, task.length :]

    def steps(state: State) -> None:
        with torch.no_grad():
            for token in new.split(1, dim=1):
                _, state = model(token, state)

    def start() -> State:
        return _state_after(model, context, task.length + task.decode_steps)

    state = start()
    held = state_bytes(state)
    memory.reset_peak(task.device)
    steps(state)
    peak = _peak(task)
    del state
    kept = start()
    seconds, _ = _repeat(task, lambda: clone_state(kept), steps)
    return {
        "seconds": [total / task.decode_steps for total in seconds],
        "peak_bytes": peak,
        "state_bytes": held,
    }


def state_bytes(state: State) -> int:
    """Memory the state keeps alive: the whole storage of every tensor, shared ones once."""
    storages = [tensor.untyped_storage() for _, tensor in named_tensors(state)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _state_after(model: Any, tokens: Tensor, capacity: int) -> State:
    with torch.no_grad():
        _, state = model(tokens, model.init_state(len(tokens), capacity))
    return state


def _flops(model: Any, task: Task, dense: bool = False) -> int:
    """Operations behind one entry of `seconds`."""
    if task.probe == "decode":
        steps = task.decode_steps
        return model.flops(task.batch, steps, past=task.length, dense=dense) // steps
    forward = model.flops(task.batch, task.length, dense=dense)
    return forward * TRAINING_FACTOR if task.probe == "train" else forward


def _repeat(
    task: Task, before: Callable[[], Any], work: Callable[[Any], Any]
) -> tuple[list[float], Any]:
    """Seconds of each timed `work(before())`, and what the last one returned."""
    seconds = []
    for index in range(task.warmup + task.repeats):
        result = None  # the previous one must be gone before the next is made
        elapsed, result = _once(task, before, work)
        if index >= task.warmup:
            seconds.append(elapsed)
    return seconds, result


def _once(task: Task, before: Callable[[], Any], work: Callable[[Any], Any]) -> tuple[float, Any]:
    prepared = before()
    _wait(task)
    start = time.perf_counter()
    result = work(prepared)
    _wait(task)
    return time.perf_counter() - start, result


def _wait(task: Task) -> None:
    """Until the device has done what it was given; the CPU always has."""
    if task.device == "cuda":
        torch.cuda.synchronize()


def _peak(task: Task) -> int | None:
    peak = memory.peak(task.device)
    return None if peak is None else max(0, peak - task.baseline_bytes)


def _tokens(task: Task, length: int) -> Tensor:
    """Random `[batch, length]`, the same on every device."""
    generator = torch.Generator().manual_seed(task.seed)
    size = (task.batch, length)
    return torch.randint(task.vocab_size, size, generator=generator).to(task.device)


def _autocast(task: Task) -> AbstractContextManager[Any]:
    """Training keeps fp32 weights and lowers the precision of single operations."""
    if task.probe != "train" or task.precision == "float32":
        return nullcontext()
    return torch.autocast(task.device, DTYPES[task.precision])


def _for_inference(model: Any, task: Task) -> None:
    model.eval()
    model.to(DTYPES[task.precision])
    memory.reset_peak(task.device)  # the weights before conversion are not part of it


def _prepare(device: str, threads: int) -> None:
    """Start torch's threads (or the GPU's context) now: they belong to the baseline."""
    if threads:
        torch.set_num_threads(threads)
    torch.zeros(1 << 20, device=device).add_(1)
    _ = torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)
