"""What wandb recorded, read back with wandb's own tool from the offline files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import wandb

from conf.schema import WandbConf
from tests.training.runs import run, run_conf, write_corpus
from training.folder import RunFolder
from training.metrics import read_rows
from training.tracking import run_id, wandb_mode, wandb_settings


def inspect(path: Path) -> list[dict[str, Any]]:
    """Every record of an offline run, by `wandb leet inspect`."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_offline_records_hold_every_number(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path)
    _, folder = run(run_conf(tmp_path, corpus, wandb__mode="offline", group="sweep"))
    records = inspect(next(folder.path.glob("wandb/offline-run-*/run-*.wandb")))
    started = next(record["run"] for record in records if record["type"] == "run")
    assert started["run_group"] == "sweep"
    assert started["job_type"] == "train"
    assert started["config"]["update"]["model"]["name"] == "rwkv4"

    axes = {
        record["metric"].get("glob_name"): record["metric"].get("step_metric")
        for record in records
        if record["type"] == "metric"
    }
    assert axes["train/*"] == axes["val/*"] == "trainer/global_step"

    history = [
        {key: value for key, value in record["history"]["item"].items() if "/" in key}
        for record in records
        if record["type"] == "history"
    ]
    rows = [
        {"trainer/global_step": row.pop("step"), **{k: v for k, v in row.items() if k != "time"}}
        for row in read_rows(folder.metrics)
    ]
    assert history == rows
    assert len({row["trainer/global_step"] for row in rows}) == 8


def test_the_run_is_continued_not_started_anew(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path)
    run(run_conf(tmp_path, corpus, wandb__mode="offline", trainer__max_steps=3))
    _, folder = run(run_conf(tmp_path, corpus, wandb__mode="offline", trainer__max_steps=5))
    names = [path.name for path in folder.path.glob("wandb/offline-run-*")]
    assert len(names) == 2
    identity = run_id(folder.path, folder.name)
    assert all(f"-{identity}" in name for name in names)


def test_disabled_leaves_no_trace(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path)
    _, folder = run(run_conf(tmp_path, corpus, trainer__max_steps=1))
    assert not (folder.path / "wandb").exists()
    assert read_rows(folder.metrics)


def test_auto_is_offline_without_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert wandb_mode(WandbConf()) == "offline"
    host = urlparse(wandb.setup().settings.base_url).hostname
    (tmp_path / ".netrc").write_text(f"machine {host} login user password {'x' * 40}")
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_mode(WandbConf()) == "online"
    assert wandb_mode(WandbConf(mode="disabled")) == "disabled"


def test_ids_differ_between_runs_and_stay(tmp_path: Path) -> None:
    first = wandb_settings(WandbConf(), tmp_path / "a", "a", "g", "train")["id"]
    again = wandb_settings(WandbConf(), tmp_path / "a", "a", "g", "train")["id"]
    other = wandb_settings(WandbConf(), tmp_path / "b", "b", "g", "train")["id"]
    assert first == again != other


def test_folder_names_are_names(tmp_path: Path) -> None:
    assert RunFolder.of("runs", "demo", "first").path == Path("runs/demo/first")
