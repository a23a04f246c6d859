"""The work of one child process: build a model, run it, and read clock, counters and memory.

Every model gets the same random tokens. All but the probes of parts
(`probes/measure/tasks/layer.py`) see it through `models.contract` only. What each probe times is in
docs/probes.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from core import energy, environment
from core.errors import UserError
from core.peak_rate import highest_rate
from core.precision import fp32_products
from models.contract import TRAINING_FACTOR
from models.layers.compiled import compile_blocks, in_use
from models.layers.trunk import Trunk
from models.ops.backends import build_for, refuse_reference_on_gpu
from models.registry import build
from probes.measure.counters import peak_memory
from probes.measure.isolated import Report
from probes.measure.tasks import decode as single
from probes.measure.tasks import forward, layer, max_batch
from probes.measure.tasks.timing import DTYPES, TRAINING, Task, autocast
from probes.trained import Trained, fill

Probe = Callable[[Any, Task, energy.Counter], dict[str, Any]]

TASKS: dict[str, Probe] = {
    "train": forward.train,
    "prefill": forward.prefill,
    "ttft": forward.first_token,
    "decode": single.decode,
    "generate": single.generate,
    "layer": layer.layer,
    "operator": layer.operator,
    "max_batch": max_batch.decode,
    "max_batch_train": forward.train,
}


def calibrate(
    report: Report, device: str, threads: int, precision: str, operators: Sequence[str] = ()
) -> None:
    """Work of the import-only child: device, baseline of the memory peak, and highest rate.

    On a GPU also which of `operators` have no kernels there, and why.

    The rate is the best of a few products of square matrices, in operations per second.
    """
    _prepare(device, threads, precision)
    if device == "cuda":
        problems = build_for(device, operators).items()
        report({"no_kernels": {name: problem for name, problem in problems if problem}})
    returned = peak_memory.return_blocks(device)
    method = peak_memory.reset_peak(device)
    if returned:
        method += ", in a pass that returns freed blocks to the system"
    report(
        {
            "device": environment.describe_device(device),
            "baseline_bytes": peak_memory.peak(device) or 0,
            "peak_method": method,
        }
    )
    peak_memory.keep_blocks(device)
    report({"peak_flops": highest_rate(device, DTYPES[precision])})


def measure(report: Report, task: Task) -> None:
    """Work of a point's child: reports the measured fields of `probes.rows.Row`.

    Raises `UserError` if the model cannot be built or has another vocabulary than the sweep.
    """
    products = _prepare(task.device, task.threads, task.precision)
    refuse_reference_on_gpu()
    peak_memory.return_blocks(task.device)
    peak_memory.limit(task.device, task.memory_bytes)
    torch.manual_seed(task.seed)
    model: Any = build(task.spec)
    if model.config.vocab_size != task.vocab_size:
        raise UserError(
            f"{task.spec.name} has a vocabulary of {model.config.vocab_size}, the sweep one of "
            f"{task.vocab_size}: models must read the same tokens"
        )
    if isinstance(task.spec, Trained):
        fill(model, task.spec)
    model.to(task.device)
    report({"parameters": sum(parameter.numel() for parameter in model.parameters())})
    report({"flops": flops(model, task), "flops_dense": flops(model, task, dense=True)})
    if task.probe != "operator":
        compile_blocks(model, task.compile)
    peak_memory.reset_peak(task.device)
    facts = TASKS[task.probe](model, task, energy.find(task.device))
    with autocast(task):  # kernels are chosen by the precision they will see
        kernels = model.backends() | facts.pop("backends", {}) | products | in_use(model)
    report({**facts, "backends": kernels})


def flops(model: Any, task: Task, dense: bool = False) -> int | None:
    """Operations behind one entry of `seconds`; `None` where no model counts them."""
    batch, length = task.batch, task.length
    if task.probe == "operator":
        return None
    if task.probe == "layer":
        if not isinstance(model, Trunk):
            return None
        forward = model.layers[len(model.layers) // 2].flops(batch, length, 0, dense)
    elif task.probe == "decode":
        steps = task.decode_steps
        forward = model.flops(batch, steps, past=length, dense=dense) // steps
    elif task.probe == "max_batch":
        forward = model.flops(batch, 1, past=length, dense=dense)
    else:
        forward = model.flops(batch, length, dense=dense)
        if task.probe == "ttft" and isinstance(model, Trunk):  # of the head, only the last position
            logits = 2 * model.config.vocab_size * model.config.n_embd
            forward -= logits * batch * (length - 1)
    return forward * TRAINING_FACTOR if task.probe in TRAINING else forward


def _prepare(device: str, threads: int, precision: str) -> dict[str, str]:
    """Start torch's threads (or the GPU's context) now: they belong to the baseline.

    Returns how fp32 products are made, as an entry of back ends.
    """
    if threads:
        torch.set_num_threads(threads)
    products = fp32_products(precision, device == "cuda")
    torch.zeros(1 << 20, device=device).add_(1)
    _ = torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)
    return products
