"""What a measurement depends on besides the model: device, versions, commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from core.errors import UserError
from core.processor import cpu_name as cpu_name

ROOT = Path(__file__).resolve().parent.parent


def device_kind(accelerator: str) -> str:
    """`cpu` or `cuda` for `accelerator` = auto | cpu | gpu.

    Raises `UserError` for another word, or for gpu where torch sees none.
    """
    if accelerator not in ("auto", "cpu", "gpu"):
        raise UserError(f"accelerator={accelerator!r}: choose from auto, cpu, gpu")
    has_gpu = accelerator != "cpu" and torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise UserError("accelerator=gpu: torch sees no GPU here. Use accelerator=cpu or auto.")
    return "cuda" if has_gpu else "cpu"


def describe_device(kind: str) -> dict[str, Any]:
    """`kind`, `name`, `threads` (of torch, on the CPU) and `memory_bytes` of the device."""
    if kind == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name, memory = properties.name, properties.total_memory
    else:
        import psutil  # here, because benchmarks of a GPU need nothing but torch

        name, memory = cpu_name(), psutil.virtual_memory().total
    return {
        "kind": kind,
        "name": name,
        "threads": torch.get_num_threads(),
        "memory_bytes": memory,
    }


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": importlib.metadata.version("numpy"),
        "system": f"{platform.system()} {platform.release()}",
        "crossover": commit(),
    }
    if torch.version.cuda:
        packages["cuda"] = torch.version.cuda
    return packages


def commit(root: Path = ROOT) -> str:
    """Git hash of the checkout, `+dirty` with uncommitted or new files, `unknown` outside git."""
    try:
        top = _git(root, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != root.resolve():
            return "unknown"  # a copy without .git inside somebody else's repository
        changes = _git(root, "status", "--porcelain")
        return _git(root, "rev-parse", "HEAD") + ("+dirty" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
