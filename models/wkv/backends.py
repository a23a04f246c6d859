"""Which implementation runs where, decided in one place and said aloud."""

from __future__ import annotations

import functools
import importlib
import logging
from typing import Any

import torch

from models.errors import UserError
from models.wkv.build import BuildError

BACKENDS = ("auto", "reference", "cpu", "cuda")
_log = logging.getLogger("crossover.wkv")


def resolve(backend: str, device: torch.device) -> str:
    """The back end that `backend` means for tensors on `device`: reference, cpu or cuda.

    `auto` takes the native one of the device if it can be built here, else the chunked reference
    after one line of notice. Raises `UserError` if a back end asked for by name cannot work; its
    message ends with the compiler's last lines where there are any.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend={backend!r}: expected one of {', '.join(BACKENDS)}")
    if backend == "reference":
        return backend
    native = device.type if device.type in ("cpu", "cuda") else None
    if backend == "auto":
        if native is None or (problem := _problem(native)):
            _notice(f"{device.type}: {problem if native else 'no kernels for this device'}")
            return "reference"
        return native
    if backend != native:
        raise UserError(f"backend={backend!r} needs tensors on {backend}, they are on {device}")
    if problem := _problem(backend):
        raise UserError(f"backend={backend!r} cannot work here: {problem}")
    return backend


def report() -> dict[str, str]:
    """For each back end "ready", or why not. Builds what is not yet built."""
    return {"reference": "ready"} | {name: _problem(name) or "ready" for name in ("cpu", "cuda")}


@functools.cache
def _problem(name: str) -> str | None:
    """Why native back end `name` cannot work on this machine, or None. Asked once per process."""
    try:
        kernels(name).load()
    except BuildError as error:
        return str(error)
    return None


@functools.cache
def _notice(reason: str) -> None:
    """Say once per reason that the slow path is taken."""
    lines = reason.splitlines()
    summary = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1].strip()}"
    _log.warning("wkv: using the chunked reference, which is slower (%s)", summary)


def kernels(name: str) -> Any:
    """The module of native back end `name`; call only after `resolve` chose it."""
    return importlib.import_module(f"models.wkv.{name}")
