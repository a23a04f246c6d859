"""What `make` installs, without installing it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def installed(path: str, target: str) -> str:
    """What `make TARGET` would have pip install into an environment that is not there yet."""
    command = ["make", "--dry-run", "--no-print-directory", target, "VENV=not-there"]
    environment = {**os.environ, "PATH": path, "MAKEFLAGS": ""}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if "--editable" in line]
    return line.rpartition("--editable ")[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("target", ["install", "demo"])
def test_the_cuda_extra_comes_along_where_there_is_a_driver(tmp_path: Path, target: str) -> None:
    """Kernels that were not installed let a GPU compute with the reference, many times slower."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    path = os.environ["PATH"]
    assert installed(f"{tmp_path}{os.pathsep}{path}", target) == "'.[cuda]'"
    if not Path("/proc/driver/nvidia/version").exists() and shutil.which("nvidia-smi") is None:
        assert installed(path, target) == "'.'"


def test_every_target_has_a_rule_and_a_line_of_help() -> None:
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    rules = dict(re.findall(r"^([a-z-]+):([^=\n]*)$", text, re.MULTILINE))
    assert rules.keys() == set(phony.split())
    assert {name for name, rest in rules.items() if " ## " not in rest} == {"suite", "quick"}
