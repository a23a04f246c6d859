"""Which implementation runs where, decided in one place and said aloud."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from core.errors import UserError
from models.ops.build import BuildError

BACKENDS = ("auto", "reference", "cpu", "cuda")
BINDINGS: dict[str, dict[str, str]] = {
    "wkv4": {"cpu": "models.ops.wkv4.cpu", "cuda": "models.ops.wkv4.cuda"},
    "wkv6": {"cpu": "models.ops.wkv6.cpu", "cuda": "models.ops.wkv6.cuda"},
    "wkv7": {"cpu": "models.ops.wkv7.cpu", "cuda": "models.ops.wkv7.cuda"},
    "pointwise": {
        "cpu": "models.ops.elementwise.cpu",
        "cuda": "models.ops.elementwise.cuda",
    },
    "step": {"cpu": "models.decoding.program"},
    "hull": {"cpu": "models.ops.hull.cpu"},
}
"""Modules with native kernels, by operator and device; each has a `library` to load, and `SIZES`
where it has kernels for some head sizes only."""
_refuses = False
_log = logging.getLogger("crossover.wkv")


def resolve(operator: str, backend: str, device: torch.device, size: int | None = None) -> str:
    """What `backend` means for `operator` on `device`: reference, cpu or cuda.

    `size` is the head size N of an operator that has one.

    `auto` takes the native one of the device if it can be built here, else the reference after one
    line of notice. Raises `UserError` if a back end asked for by name cannot work, or if `auto`
    cannot on a GPU and `refuse_reference_on_gpu` was called; its message ends with the compiler's
    last lines where there are any.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend={backend!r}: expected one of {', '.join(BACKENDS)}")
    if backend == "reference":
        return backend
    native = device.type if device.type in BINDINGS[operator] else None
    if backend == "auto":
        if native is None or (problem := why_not(operator, native, size)):
            reason = f"{device.type}: {problem if native else 'no kernels for this device'}"
            if device.type == "cuda" and native and _refuses:
                raise UserError(no_kernels(operator, reason))
            _notice(reason)
            return "reference"
        return native
    if backend != native:
        raise UserError(f"backend={backend!r} needs tensors on {backend}, they are on {device}")
    if problem := why_not(operator, backend, size):
        raise UserError(f"backend={backend!r} cannot work here: {problem}")
    return backend


def refuse_reference_on_gpu() -> None:
    """From now on in this process `auto` never means the reference on a GPU: its times, a multiple
    of the kernels', would be taken for the model's."""
    global _refuses
    _refuses = True


def no_kernels(operator: str, reason: str) -> str:
    """That a measurement on a GPU would be one of the reference, and the ways out."""
    return (
        f"{operator} has no kernels to measure on this GPU ({reason}). Install what they need, or "
        "ask for the slow reference by name: model.wkv=reference"
    )


@functools.cache
def kernels(
    operator: str, backend: str, device: torch.device, dtype: torch.dtype, size: int | None = None
) -> Any:
    """The module of the native kernels that `resolve` chooses, or None: the reference.

    It is chosen once for every operator, device and dtype. fp64 is kept to the reference: raises
    `UserError` as well if it meets a native kernel asked for by name, since those compute in fp32.
    """
    if dtype == torch.float64:
        if backend not in ("auto", "reference"):
            raise UserError(
                f"backend={backend!r} computes in float32: {operator} was given float64"
            )
        return None
    name = resolve(operator, backend, device, size)
    return None if name == "reference" else bindings(operator, name)


def build_for(device: str, operators: Iterable[str]) -> dict[str, str | None]:
    """Build the kernels of `operators` side by side; for each None, or why it cannot work.

    What is not built ahead is built when it is first used, one library after the other. Operators
    without kernels for the device, "cpu" or "cuda", are left out.
    """
    names = [name for name in operators if device in BINDINGS.get(name, ())]
    with ThreadPoolExecutor(max(1, len(names))) as pool:
        return dict(zip(names, pool.map(lambda name: why_not(name, device), names), strict=True))


def report() -> dict[str, str]:
    """For each back end "ready", or why not. Builds what is not yet built."""
    states = {"reference": "ready"}
    for name in ("cpu", "cuda"):
        problems = [why_not(operator, name) for operator in BINDINGS if name in BINDINGS[operator]]
        states[name] = next(filter(None, problems), "ready")
    return states


@functools.cache
def why_not(operator: str, name: str, size: int | None = None) -> str | None:
    """Why native back end `name` cannot work on this machine, or None. Asked once per process."""
    module = bindings(operator, name)
    if size is not None and size not in getattr(module, "SIZES", (size,)):
        sizes = ", ".join(map(str, module.SIZES))
        return f"{operator} has kernels for head sizes {sizes}, not {size}"
    try:
        module.library.load()
    except BuildError as error:
        return str(error)
    return None


@functools.cache
def _notice(reason: str) -> None:
    """Say once per reason that the slow path is taken."""
    lines = reason.splitlines()
    summary = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1].strip()}"
    if not reason.startswith("cuda:"):
        _log.warning("wkv: using the chunked reference, which is slower (%s)", summary)
        return
    _log.warning(
        "wkv: NO KERNELS ON THIS GPU, using the chunked reference, which takes many times as long "
        "and more memory (%s). pip install -e '.[cuda]' brings what compiles them; "
        "model.wkv=reference asks for the reference and ends this warning",
        summary,
    )


def bindings(operator: str, name: str) -> Any:
    """The module of native back end `name`."""
    return importlib.import_module(BINDINGS[operator][name])
