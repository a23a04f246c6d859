"""The device, versions and commit that measurements are recorded with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core import environment
from core.errors import UserError


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_commit_says_when_there_is_more_than_the_commit(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "a")
    clean = environment.commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "new").write_text("1")
    assert environment.commit(tmp_path) == f"{clean}+dirty"
    (tmp_path / "new").unlink()
    (tmp_path / "a").write_text("2")
    assert environment.commit(tmp_path) == f"{clean}+dirty"


def test_commit_is_not_that_of_a_repository_around_it(tmp_path: Path) -> None:
    assert environment.commit(tmp_path / "nowhere") == "unknown"
    git(tmp_path, "init")
    inside = tmp_path / "inside"
    inside.mkdir()
    assert environment.commit(inside) == "unknown"


def test_device() -> None:
    device = environment.describe_device("cpu")
    assert device["kind"] == "cpu"
    assert device["name"] == environment.cpu_name() != ""
    assert device["threads"] == torch.get_num_threads()
    assert device["memory_bytes"] > 1 << 28


def test_accelerators() -> None:
    assert environment.device_kind("cpu") == "cpu"
    assert environment.device_kind("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match="tpu"):
        environment.device_kind("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_refused() -> None:
    with pytest.raises(UserError, match="no GPU"):
        environment.device_kind("gpu")


def test_versions() -> None:
    stated = environment.versions()
    assert stated["torch"] == torch.__version__
    assert stated["python"] == ".".join(map(str, sys.version_info[:3]))
