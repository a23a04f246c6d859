"""torchrun and submitit: one folder, one wandb run, one voice, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from core.launcher import first_host
from tests.scripts.commands import ROOT
from tests.training.runs import write_corpus
from tracking.jsonl import read_rows

SECONDS = 240.0  # generous: machines may be busy


def words(folder: Path, *more: str) -> list[str]:
    return [
        *(str(ROOT / "scripts" / "train.py"), "model=rwkv4", "model.size=tiny", "data=text"),
        *(f"data.paths=[{write_corpus(folder)}]", f"data.cache_dir={folder / 'cache'}"),
        *("data.tokenizer=bytes", "data.length=32", f"runs_dir={folder / 'runs'}"),
        *(
            "trainer.accelerator=cpu",
            "trainer.log_every_n_steps=1",
            "trainer.enable_progress_bar=false",
        ),
        *more,
    ]


def torchrun(folder: Path, *more: str) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen(
        [*launcher, *words(folder, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


@pytest.mark.slow
def test_torchrun_makes_one_run(tmp_path: Path) -> None:
    status, out, err = finish(
        torchrun(tmp_path, "name=a", "trainer.strategy=fsdp", "trainer.max_steps=4")
    )
    assert status == 0, err
    assert out.count("validation loss") == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a"]
    folder = tmp_path / "runs" / "a"
    assert len(list(folder.glob("wandb/*run-*"))) == 1
    steps = [row["step"] for row in read_rows(folder / "metrics.jsonl") if "train/loss" in row]
    assert steps == [1, 2, 3, 4]


@pytest.mark.slow
def test_torchrun_refuses_in_one_voice(tmp_path: Path) -> None:
    status, _, err = finish(torchrun(tmp_path, "name=b", "data.batch_size=3"))
    assert status != 0
    assert err.count("error: data.batch_size=3 cannot be shared by 2 processes") == 1
    assert 'Traceback (most recent call last):\n  File "' + str(ROOT / "scripts") not in err
    assert not (tmp_path / "runs" / "b").exists()


@pytest.mark.slow
def test_a_process_that_dies_takes_the_others_along(tmp_path: Path) -> None:
    process = torchrun(tmp_path, "name=a", "trainer.max_steps=100000", "wandb.mode=disabled")
    metrics = tmp_path / "runs" / "a" / "metrics.jsonl"
    deadline = time.monotonic() + SECONDS
    while not read_rows(metrics):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.5)
    children = psutil.Process(process.pid).children(recursive=True)
    followers = [child for child in children if child.environ().get("RANK") == "1"]
    followers[0].send_signal(signal.SIGKILL)
    status, _, err = finish(process)
    assert status != 0
    assert "error: another process of this run is gone" in err or "SIGKILL" in err
    _, left = psutil.wait_procs(children, timeout=60)
    assert not left


@pytest.mark.slow
def test_submitit_runs_each_job_of_a_sweep_in_two_processes(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    script, *rest = words(
        tmp_path, "hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2",
        "hydra.launcher.timeout_min=5", "trainer.max_steps=2", "wandb.mode=disabled", "seed=0,1",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, script, "-m", *rest],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    folders = sorted((tmp_path / "runs").iterdir())
    assert [path.name.rpartition("-")[2] for path in folders] == ["s0", "s1"]
    for folder in folders:
        assert [row["step"] for row in read_rows(folder / "metrics.jsonl")].count(2) >= 1


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("node[003-007,9],login", "node003"),
        ("a[1,3]", "a1"),
        ("login,node[1-2]", "login"),
    ],
)
def test_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first
