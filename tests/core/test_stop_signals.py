"""Stopping real processes with real signals, and what they leave behind."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, SIGUSR1, Signals
from typing import Any

import pytest

from core.stop_signals import INTERRUPTED, STOPPED
from tests.scripts.commands import run_script
from tests.training.children import end, run_in_child, start
from tests.training.runs import run_conf, write_corpus
from tracking.jsonl import read_rows
from training.checkpoints.find import saved
from training.loop.module import LanguageModel
from training.run_folder.folder import RunFolder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def steps(folder: RunFolder) -> list[int]:
    return [int(path.stem.removeprefix("step-")) for path in saved(folder)]


def never_by_steps(folder: Path, corpus: Path, **changes: Any) -> Any:
    return run_conf(
        folder, corpus, checkpoint__every_n_train_steps=0, trainer__val_check_interval=0, **changes
    )


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_the_step_is_finished_and_saved(tmp_path: Path, corpus: Path, number: Signals) -> None:
    ended = run_in_child(never_by_steps(tmp_path, corpus), "rwkv4", (2, number))
    folder = RunFolder(tmp_path / "run")
    assert ended.status == STOPPED
    assert f"{number.name}: finishing the step" in ended.err
    assert "stopped, saved at step 3 (exit status 75); run the same command again" in ended.err
    assert steps(folder) == [3]
    assert folder.summary() is None and not folder.lock.exists()


def test_a_second_interrupt_stops_at_once(tmp_path: Path, corpus: Path) -> None:
    stops = [(2, SIGINT), (2, SIGINT)]
    assert run_in_child(never_by_steps(tmp_path, corpus), "rwkv4", *stops).status == INTERRUPTED
    assert not saved(RunFolder(tmp_path / "run"))


def test_a_stop_during_a_validation_step_comes_after_it(tmp_path: Path, corpus: Path) -> None:
    conf = run_conf(tmp_path, corpus, checkpoint__every_n_train_steps=0)  # validates at 3 and 6
    assert run_in_child(conf, "rwkv4", (2, SIGTERM)).status == STOPPED
    assert run_in_child(conf, "rwkv4", (5, SIGTERM)).status == STOPPED
    assert run_in_child(conf, "rwkv4").status == 0
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "val/loss" in row] == [3, 6]
    assert [row["step"] for row in rows if "train/loss" in row] == [*range(1, 9)]


@pytest.mark.parametrize("number", [SIGUSR1, SIGTERM])
def test_a_slurm_job_requeues_itself_on_its_signal(
    tmp_path: Path, corpus: Path, number: Signals
) -> None:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" $(ls {tmp_path}/run/checkpoints) > {tmp_path}/asked')
    scontrol.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "4711", "PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    ended = run_in_child(never_by_steps(tmp_path, corpus), "rwkv4", (2, number), env=slurm)
    assert ended.status == STOPPED
    asked = tmp_path / "asked"
    if number == SIGTERM:  # scancel sends it too
        assert not asked.exists()
    else:
        assert asked.read_text().split() == [
            "requeue", "4711", "step-00000003.ckpt", "step-00000003.json",
        ]  # fmt: skip
        assert "SLURM has requeued job 4711" in ended.err


def test_a_multirun_stops_as_a_whole(tmp_path: Path, corpus: Path) -> None:
    words = [
        "-m", "model=rwkv4,transformer", "model.size=tiny", "data=text",
        f"data.paths=[{corpus}]", "data.tokenizer=bytes", "data.length=32", "data.batch_size=4",
        "data.val_fraction=0.1", f"data.cache_dir={corpus.parent / 'cache'}", "seed=0,1",
        f"runs_dir={tmp_path}", "trainer.max_steps=4", "wandb.mode=disabled",
        "trainer.accelerator=cpu",
    ]  # fmt: skip
    log = tmp_path / "log.txt"
    ended = end(start(words, "", (2, SIGTERM), log=log), log)
    assert ended.status == STOPPED, ended.err
    (begun,) = (path.name for path in tmp_path.iterdir() if path.is_dir())
    assert begun.startswith("rwkv4-tiny-") and begun.endswith("-s0")


def test_a_stop_behind_the_last_step_begins_no_other_run(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run is whole, and the next one of the multirun is not begun."""
    honest = LanguageModel.on_validation_end

    def on_validation_end(module: LanguageModel) -> None:
        honest(module)
        if module.trainer.global_step == 2 and not asked:
            asked.append(True)
            os.kill(os.getpid(), SIGTERM)

    asked: list[bool] = []
    monkeypatch.setattr(LanguageModel, "on_validation_end", on_validation_end)
    words = [
        "-m", "model=rwkv4", "model.size=tiny", "data=text", f"data.paths=[{corpus}]",
        "data.tokenizer=bytes", "data.length=32", "data.batch_size=4", "data.val_fraction=0.1",
        f"data.cache_dir={corpus.parent / 'cache'}", "seed=0,1", f"runs_dir={tmp_path}",
        "trainer.max_steps=2", "wandb.mode=disabled", "trainer.accelerator=cpu",
        "trainer.val_check_interval=2",
    ]  # fmt: skip
    done = run_script(capfd, "train", *words)
    assert done.status == STOPPED
    assert "stopped (exit status 75); run the same command again to continue" in done.err
    (begun,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert (begun / "summary.json").is_file() and begun.name.endswith("-s0")


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_two_processes_stop_at_the_same_step(tmp_path: Path, corpus: Path, rank: int) -> None:
    conf = never_by_steps(tmp_path, corpus, trainer__devices=2, wandb__mode="offline")
    assert run_in_child(conf, "rwkv4", (2, SIGTERM), rank=rank).status == STOPPED
    folder = RunFolder(tmp_path / "run")
    assert steps(folder) == [3]
    assert len(list(folder.path.glob("wandb/offline-run-*"))) == 1  # only process 0 records


def test_a_dead_companion_is_named(tmp_path: Path, corpus: Path) -> None:
    conf = run_conf(tmp_path, corpus, trainer__devices=2, checkpoint__every_n_train_steps=2)
    ended = run_in_child(conf, "rwkv4", (3, SIGKILL), rank=1)
    assert ended.status == 1
    assert "error: process 1 of 2 ended with status -9; the same command continues" in ended.err
    assert run_in_child(conf, "rwkv4").status == 0


def test_the_second_owner_is_refused_and_told_of_the_first(tmp_path: Path, corpus: Path) -> None:
    conf = run_conf(tmp_path, corpus, trainer__max_steps=100_000, trainer__val_check_interval=0)
    log = tmp_path / "first.txt"
    first = start(conf, "rwkv4", log=log)
    folder = RunFolder(tmp_path / "run")
    deadline = time.monotonic() + 120
    while not saved(folder):
        assert time.monotonic() < deadline and first.exitcode is None, log.read_text()
        time.sleep(0.05)
    owner = json.loads(folder.lock.read_text())
    assert owner["pid"] == first.pid
    for resume in ("auto", "never"):
        conf.resume = resume
        second = run_in_child(conf)
        assert second.status == 1
        assert f"is being worked on by process {first.pid} on {owner['host']}, since" in second.err
    first.kill()
    assert end(first, log).status == -SIGKILL
    assert folder.lock.exists()  # stale, and no obstacle
    conf.resume = "auto"
    ended = run_in_child(conf, "rwkv4", (steps(folder)[-1], SIGTERM))
    assert ended.status == STOPPED and "continuing from step" in ended.err
    assert not list(folder.path.rglob("*.tmp"))
