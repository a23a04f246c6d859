"""What this machine has, which back ends work, and why not: `python scripts/doctor.py`."""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("scripts.doctor:main")


import importlib.metadata
import shutil
import sys
from pathlib import Path

import psutil
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.environment import commit, cpu_name
from models.ops import backends
from models.transformer import Transformer, TransformerConfig
from tracking.wandb_run import has_login

LIBRARIES = (
    "torch",
    "lightning",
    "hydra-core",
    "tokenizers",
    "safetensors",
    "wandb",
    "numpy",
    "matplotlib",
)
OPTIONAL = {
    "cuda-core": "CUDA kernels: pip install -e '.[cuda]'",
    "deepspeed": "trainer.strategy=deepspeed_1, _2, _3: pip install -e '.[scale]'",
    "hydra-submitit-launcher": "hydra/launcher=submitit_slurm: pip install -e '.[scale]'",
    "transformers": "comparison in benchmarks/kernels.py",
}


def main() -> None:
    """Print the tables; nothing is changed, but native kernels are built if they can be."""
    console = Console()
    console.print(section("machine", machine()))
    console.print(section("libraries", libraries()))
    console.print(section("kernels of the WKV operator", backends.report()))
    console.print(section("attention", attention()))
    console.print(section("tools", tools()))


def section(title: str, rows: dict[str, str]) -> Table:
    """Two columns under a title."""
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(f"  {name}", escape(value))  # pip's [extras] are no markup
    return table


def machine() -> dict[str, str]:
    rows = {
        "python": f"{sys.version.split()[0]} ({sys.executable})",
        "crossover": f"{commit()} in {Path(__file__).resolve().parents[1]}",
        "cpu": f"{cpu_name()}, {torch.get_num_threads()} threads",
        "memory": f"{psutil.virtual_memory().available / 2**30:.1f} GiB available",
        "gpu": "none that PyTorch sees",
    }
    if torch.cuda.is_available():
        rows["gpu"] = f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
    return rows


def libraries() -> dict[str, str]:
    rows = {name: importlib.metadata.version(name) for name in LIBRARIES}
    for name, purpose in OPTIONAL.items():
        try:
            rows[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            rows[name] = f"not installed (optional; {purpose})"
    return rows


def attention() -> dict[str, str]:
    """The kernel PyTorch picks for causal attention in training, per device and precision."""
    rows = {}
    for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for dtype in (torch.float32, torch.bfloat16):
            model = Transformer(TransformerConfig(256, 1, 128, 2)).to(kind, dtype)
            rows[f"{kind} {str(dtype).removeprefix('torch.')}"] = model.backends()["attention"]
    return rows


def tools() -> dict[str, str]:
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    missing = "none found: the slower reference is used, nothing else changes"
    return {
        "C++ compiler": shutil.which(compiler) or "" if compiler else missing,
        "wandb": tracking(),
        "disk": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB free here",
    }


def tracking() -> str:
    try:
        return "logged in" if has_login() else "no login: runs are recorded offline"
    except Exception as error:
        return f"broken ({error}): nothing is recorded there, everything else works"
