"""Branches of runs: what they train with, what they count, and how they survive interruptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.schema import OptimConf
from core.errors import UserError
from models.registry import build
from tests.registered_models import spec_of
from tests.training.runs import run, run_conf
from tracking.jsonl import read_rows
from training.checkpoints.find import newest, read, saved, step_of
from training.loop.module import LanguageModel
from training.loop.schedules import lr_factor
from training.run_folder.folder import RunFolder, resume_target
from training.run_folder.numerics import machine, warn_of_other_bits


class Killed(BaseException):
    pass


def killed_at(monkeypatch: pytest.MonkeyPatch, conf: object, step: int) -> None:
    """The run dies in the step after `step`."""
    inner = LanguageModel.training_step

    def training_step(module: LanguageModel, batch: torch.Tensor, index: int) -> torch.Tensor:
        if module.trainer.global_step == step:
            raise Killed
        return inner(module, batch, index)

    with monkeypatch.context() as patched:
        patched.setattr(LanguageModel, "training_step", training_step)
        with pytest.raises(Killed):
            run(conf)


def steps(folder: RunFolder) -> list[int]:
    return [step_of(path) for path in saved(folder)]


def test_an_interrupted_branch_continues_by_the_same_command(
    tmp_path: Path, corpus: Path, parent: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(parent)[0]
    conf = run_conf(tmp_path, corpus, resume=str(path), checkpoint__every_n_train_steps=2)
    folder = RunFolder(tmp_path / "run")
    killed_at(monkeypatch, conf, 5)
    assert steps(folder) == [4]
    killed_at(monkeypatch, conf, 6)  # goes on from 4, or it would die at 2 + ... again
    assert steps(folder) == [4, 6]
    summary, _ = run(conf)
    straight, _ = run(
        run_conf(tmp_path / "b", corpus, resume=str(path), checkpoint__every_n_train_steps=2)
    )
    assert summary["digest"] == straight["digest"]
    left = {"path": str(path), "step": 2}
    assert summary["parent"].items() >= left.items()
    assert read(saved(folder)[-1])["crossover"]["ledger"]["parent"].items() >= left.items()
    before = {file: file.stat().st_mtime_ns for file in folder.path.rglob("*")}
    assert run(conf)[0] == summary  # finished: nothing to do
    assert {file: file.stat().st_mtime_ns for file in folder.path.rglob("*")} == before


def test_resume_never_continues_what_it_began_and_repeats_what_has_finished(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = run_conf(
        tmp_path, corpus, resume="never", checkpoint__every_n_train_steps=2, trainer__max_steps=4
    )
    folder, aside = RunFolder(tmp_path / "run"), tmp_path / "run.old-1"
    killed_at(monkeypatch, conf, 3)
    killed_at(monkeypatch, conf, 2)  # does not repeat the first two
    run(conf)
    assert steps(folder) == [2, 4] and not aside.exists()
    run(conf)
    assert aside.exists() and steps(folder) == [2, 4]


def test_a_rewound_run_keeps_what_it_writes(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = run(run_conf(tmp_path, corpus))  # 4 and 8
    conf = run_conf(
        tmp_path, corpus, resume=str(saved(folder)[0]), checkpoint__every_n_train_steps=1
    )
    killed_at(monkeypatch, conf, 6)
    assert steps(folder) == [5, 6]
    assert steps(RunFolder(tmp_path / "run.old-1")) == [8]
    assert newest(RunFolder(tmp_path / "run.old-1")) is not None
    assert folder.summary() is None
    killed_at(monkeypatch, conf, 7)  # although step 4 is gone
    assert steps(folder) == [6, 7]
    rows = [row["step"] for row in read_rows(folder.metrics) if "train/loss" in row]
    assert rows == [1, 2, 3, 4, 5, 6, 7]


def test_a_branch_trains_with_the_command_lines_settings_and_counts_what_it_reads(
    tmp_path: Path, corpus: Path, parent: RunFolder
) -> None:
    changes = {"optim__lr": 5e-4, "optim__weight_decay": 0.3, "optim__beta2": 0.9}
    conf = run_conf(
        tmp_path, corpus, resume=str(saved(parent)[-1]), trainer__max_steps=6,
        data__batch_size=2, optim__warmup_steps=0, optim__eps=1e-6, **changes,
    )  # fmt: skip
    summary, folder = run(conf)
    (change,) = summary["schedule_changes"]  # more than the end of the cosine moves the rate
    assert "optim.lr=0.0005" in change and "optim.warmup_steps=0" in change
    every = read_rows(folder.metrics)
    model: Any = build(spec_of("rwkv4", vocab_size=257))
    per_token = 3 * model.flops(1, 32) // 32
    for row in every:  # of validations too: any of these can be the axis of any curve
        assert row["train/flops"] == row["train/tokens"] * per_token
    spent = [row["train/seconds"] for row in every]
    assert spent == sorted(spent) and spent[0] > 0
    rows = [row for row in every if "train/loss" in row]
    assert len(rows) < len(every)
    rates = [5e-4 * lr_factor(step, 6, conf.optim) for step in (4, 5)]
    assert [row["train/tokens"] for row in rows] == [576, 640]
    assert [row["train/lr"] for row in rows] == pytest.approx(rates)
    state = read(saved(folder)[-1])
    group = max(
        state["optimizer_states"][0]["param_groups"], key=lambda settings: settings["weight_decay"]
    )
    assert group["weight_decay"] == 0.3 and group["betas"] == (0.9, 0.9) and group["eps"] == 1e-6
    assert state["lr_schedulers"][0]["base_lrs"][0] == 5e-4
    parents = json.loads(parent.summary_path.read_text())
    assert summary["tokens"] == 4 * 4 * 32 + 2 * 2 * 32 == 640
    assert summary["forward_flops"] == parents["forward_flops"] * 5 // 4
    assert summary["order_hash"] is None and parents["order_hash"] is not None


def test_a_finished_run_that_goes_on_says_what_its_rate_does(
    tmp_path: Path, corpus: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"optim__warmup_steps": 0}
    run(run_conf(tmp_path, corpus, trainer__max_steps=2, **changes))
    summary, _ = run(run_conf(tmp_path, corpus, trainer__max_steps=4, **changes))
    (change,) = summary["schedule_changes"]
    assert change in caplog.text
    rate = 1e-3 * lr_factor(2, 4, OptimConf(warmup_steps=0))
    assert f"after step 2 the learning rate rises from 0.0001 to {rate:.4g}" in change
    assert change.endswith(": the cosine now ends at step 4")
    assert run(run_conf(tmp_path / "b", corpus, trainer__max_steps=2))[0]["schedule_changes"] == []


def test_a_checkpoint_at_the_last_step_is_refused_in_one_message(
    tmp_path: Path, corpus: Path, parent: RunFolder
) -> None:
    for last in (4, 3):
        conf = run_conf(tmp_path, corpus, resume=str(saved(parent)[-1]), trainer__max_steps=last)
        with pytest.raises(UserError, match=f"is of step 4, and trainer.max_steps={last} is not"):
            run(conf)
    assert not (tmp_path / "run").exists()


def test_weights_that_have_left_their_range_are_told_with_a_way_out(
    tmp_path: Path, corpus: Path
) -> None:
    rate = {"optim__lr": 1e6, "optim__final_lr": 1e6, "optim__warmup_steps": 1}
    conf = run_conf(tmp_path, corpus, trainer__max_steps=3, **rate)
    with pytest.raises(UserError, match=r"wkv4: .* optim\.lr prevents\. There is no checkpoint"):
        run(conf)


def test_a_rate_of_zero_changes_nothing(tmp_path: Path, corpus: Path) -> None:
    changes = {"optim__lr": 0.0, "optim__final_lr": 0.0, "optim__warmup_steps": 1}
    conf = run_conf(
        tmp_path, corpus, trainer__max_steps=3, checkpoint__every_n_train_steps=2, **changes
    )
    first, other = (read(path)["state_dict"] for path in saved(run(conf)[1]))
    assert all(torch.equal(first[name], other[name]) for name in first)


def test_a_run_can_be_named_and_a_group_is_refused_with_its_runs(
    tmp_path: Path, corpus: Path, parent: RunFolder
) -> None:
    home = str(parent.path.parent)
    assert resume_target("run", home) == resume_target(str(parent.path), ".") == parent.path
    assert resume_target(f"{parent.path.parent.name}/run", str(Path(home).parent)) == parent.path
    with pytest.raises(UserError, match=r"is a group of runs: choose one of .*run"):
        resume_target(home, "runs")
    begun = RunFolder(tmp_path / "begun")
    begun.path.mkdir()
    begun.config.write_text("name: begun\n")
    with pytest.raises(UserError, match=r"the run .*begun has no checkpoint yet; its own command"):
        resume_target("begun", str(tmp_path))
    conf = run_conf(tmp_path, corpus, resume=str(parent.path), trainer__max_steps=5)
    assert run(conf)[0]["parent"]["step"] == 4


def test_another_number_of_threads_is_told(caplog: pytest.LogCaptureFixture) -> None:
    here = machine(torch.device("cpu"), 1, "none")
    warn_of_other_bits(here, torch.device("cpu"), 1, "none")
    assert not caplog.text
    warn_of_other_bits({**here, "threads": 17}, torch.device("cpu"), 1, "none")
    assert f"number of threads 17, now {here['threads']}: the last bits" in caplog.text
    caplog.clear()
    warn_of_other_bits({**here, "cpu": "x\x1b[2J" + "y" * 5000}, torch.device("cpu"), 1, "none")
    assert "processor x\\x1b[2Jyyy" in caplog.text and len(caplog.text) < 500
