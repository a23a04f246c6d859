"""What wandb recorded, read back from the offline files; and that its troubles stop nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil
import pytest
import wandb
from wandb.sdk.wandb_run import Run

from conf.schema import WandbConf
from tests.training.records import recorded
from tests.training.runs import run, run_conf, write_corpus
from tracking import wandb_run
from tracking.jsonl import read_rows
from tracking.wandb_run import Tracker, wandb_mode, wandb_problems
from training.loop.module import LanguageModel
from training.run_folder.folder import RunFolder

ROOT = Path(__file__).parents[2]


def tracker(folder: Path, name: str = "one", mode: str = "offline", **changes: Any) -> Tracker:
    options = {
        "group": "g",
        "job_type": "test",
        "identity": folder / f"{name}.id",
        "config": {"a": 1},
    }
    return Tracker(WandbConf(mode=mode), name, records=folder, **{**options, **changes})


def test_a_training_is_recorded_whole(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path)
    summary, folder = run(run_conf(tmp_path, corpus, wandb__mode="offline", group="sweep"))
    record = recorded(tmp_path / "sweep")["run"]
    assert record.run["run_group"] == "sweep" and record.run["job_type"] == "train"
    assert record.config["model.name"] == "rwkv4" and record.config["data.length"] == 32
    assert record.axes == {"train/*": "trainer/global_step", "val/*": "trainer/global_step"}
    assert record.summary["val_loss"] == summary["val_loss"]
    assert record.exit_code == 0

    history = [{key: value for key, value in row.items() if "/" in key} for row in record.history]
    rows = [
        {"trainer/global_step": row.pop("step"), **{k: v for k, v in row.items() if k != "time"}}
        for row in read_rows(folder.metrics)
    ]
    assert history == rows
    assert len({row["trainer/global_step"] for row in rows}) == 8


def test_a_branch_is_recorded_with_its_parent_and_what_it_changes(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path)
    _, parent = run(run_conf(tmp_path / "a", corpus, trainer__max_steps=1))
    changes: dict[str, Any] = {"trainer__max_steps": 2, "optim__lr": 5e-4}
    conf = run_conf(tmp_path, corpus, init_from=str(parent.path), wandb__mode="offline", **changes)
    summary, folder = run(conf)
    record = recorded(folder.path)["run"]
    assert record.config["parent.step"] == 1 and record.config["parent.take"] == "everything"
    assert record.config["parent.path"] == summary["parent"]["path"]
    assert record.summary["parent"] == summary["parent"]
    changed = {"optim.lr": [1e-3, 5e-4], "trainer.max_steps": [1, 2]}
    assert record.summary["changes"] == [{"step": 1, "changed": changed}] == summary["changes"]


@pytest.mark.parametrize("upload", [False, True])
def test_a_checkpoint_is_uploaded_only_when_asked(tmp_path: Path, upload: bool) -> None:
    corpus = write_corpus(tmp_path)
    changes = {"wandb__mode": "offline", "wandb__log_checkpoint": upload, "trainer__max_steps": 1}
    _, folder = run(run_conf(tmp_path, corpus, **changes))
    (artifact,) = recorded(folder.path)["run"].artifacts("model")
    (entry,) = artifact["manifest"]["contents"]
    path = folder.checkpoints / "step-00000001.ckpt"
    identity = (folder.path / "wandb" / "run.id").read_text().strip()
    assert artifact["name"] == f"checkpoint-{identity}" and entry["path"] == path.name
    assert int(entry["size"]) == path.stat().st_size
    assert (entry.get("ref") == path.as_uri()) is not upload
    assert ("local_path" in entry) is upload


def test_names_that_wandb_would_refuse_fit_and_stay_apart(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("a")
    long = "x" * 150
    for name, group, artifact in (
        (f"{long}1", f"{long}1", f"a b {long}"),
        (f"{long}2", long, "a b"),
        ("short", None, "a_b"),
    ):
        with tracker(tmp_path / name[-5:], name, group=group) as one:
            one.artifact(artifact, "kind", [file])
    records = [recorded(tmp_path / place) for place in ("xxxx1", "xxxx2", "short")]
    names, runs = (
        [next(iter(one)) for one in records],
        [next(iter(one.values())) for one in records],
    )
    groups = [one.run.get("run_group") for one in runs]
    artifacts = [one.artifacts("kind")[0]["name"] for one in runs]
    assert names[2] == "short" and artifacts[2] == "a_b"
    for each in (names, groups[:2], artifacts):
        assert len(set(each)) == len(each)
        assert max(map(len, each)) <= 128 and all(text.startswith(each[0][:3]) for text in each[:2])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"project": "a/b"}, "wandb.project='a/b': wandb takes up to 128"),
        ({"project": "a" * 129}, "wandb.project="),
        ({"tags": ["good", "x" * 65]}, "wandb.tags: 'xxx"),
        ({"tags": [""]}, "wandb.tags: '': wandb takes 1 to 64"),
        ({"project": "a" * 128, "tags": ["x" * 64]}, None),
        ({"project": "a/b", "mode": "disabled"}, None),
    ],
)
def test_what_wandb_would_not_take_is_told(changes: dict[str, Any], problem: str | None) -> None:
    found = list(wandb_problems(WandbConf(**changes)))
    assert (not found) if problem is None else (len(found) == 1 and problem in found[0])


def test_a_crashed_run_is_marked_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr("training.loop.evaluate.full_validation", fail)
    corpus = write_corpus(tmp_path)
    with pytest.raises(RuntimeError, match="fire"):
        run(run_conf(tmp_path, corpus, wandb__mode="offline", trainer__max_steps=1))
    assert recorded(tmp_path / "run")["run"].exit_code == 1


def test_the_run_is_continued_not_started_anew(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path)
    run(run_conf(tmp_path, corpus, wandb__mode="offline", trainer__max_steps=3))
    _, folder = run(run_conf(tmp_path, corpus, wandb__mode="offline", trainer__max_steps=5))
    names = [path.name for path in folder.path.glob("wandb/offline-run-*")]
    identity = (folder.path / "wandb" / "run.id").read_text().strip()
    assert len(names) == 2
    assert all(name.endswith(f"-{identity}") for name in names)


def test_disabled_leaves_no_trace(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path)
    _, folder = run(run_conf(tmp_path, corpus, trainer__max_steps=1))
    assert not (folder.path / "wandb").exists()
    assert read_rows(folder.metrics)


def test_without_a_home_wandb_keeps_quiet(tmp_path: Path) -> None:
    code = (
        "from tracking.wandb_run import load_wandb; wandb = load_wandb();"
        "run = wandb.init(mode='offline', dir='.', settings=wandb.Settings(silent=True));"
        "run.log({'a': 1}); run.finish()"
    )
    known = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    without = {key: known[key] for key in known if key not in ("HOME", "XDG_CACHE_HOME")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=without, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / ".wandb_cache").exists()


def test_auto_is_offline_without_a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert wandb_mode(WandbConf()) == "offline"
    host = urlparse(wandb.setup().settings.base_url).hostname
    (tmp_path / ".netrc").write_text(f"machine {host} login user password {'x' * 40}")
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_mode(WandbConf()) == "online"
    assert wandb_mode(WandbConf(mode="disabled")) == "disabled"


def test_an_unreachable_server_means_offline_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr(wandb_run, "START_SECONDS", 1.0)
    wandb.teardown()  # it read its environment when it was first used
    try:
        with tracker(tmp_path, mode="auto") as active:
            active.log_metrics({"train/loss": 1.0}, 7)
    finally:
        monkeypatch.undo()
        wandb.teardown()
    assert "recording offline instead" in caplog.text
    row = recorded(tmp_path)["one"].history[0]
    assert row["train/loss"] == 1.0 and row["trainer/global_step"] == 7


def test_online_without_a_login_means_offline_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with tracker(tmp_path, mode="online") as active:
        active.log_metrics({"train/loss": 1.0}, 7)
    assert recorded(tmp_path)["one"].history[0]["train/loss"] == 1.0


@pytest.mark.parametrize("broken", ["log", "finish", "log_artifact", "define_metric"])
def test_training_survives_a_wandb_that_raises(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route\nto host")

    corpus = write_corpus(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Run, broken, fail)
        conf = run_conf(tmp_path, corpus, wandb__mode="offline", trainer__max_steps=3)
        summary, folder = run(conf)
    wandb.teardown()
    assert summary["steps"] == 3 and folder.summary() == summary
    assert len({row["step"] for row in read_rows(folder.metrics)}) == 3
    assert caplog.text.count("wandb: ConnectionError: no route; going on") == 1


def test_training_survives_the_death_of_wandbs_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = write_corpus(tmp_path)
    honest = LanguageModel.training_step

    def step(module: LanguageModel, *args: Any) -> Any:
        if module.trainer.global_step == 3:
            for child in psutil.Process().children(recursive=True):
                if "wandb-core" in " ".join(child.cmdline()):
                    child.kill()
                    child.wait()
        return honest(module, *args)

    monkeypatch.setattr(LanguageModel, "training_step", step)
    wandb.teardown()  # a process of our own
    summary, folder = run(run_conf(tmp_path, corpus, wandb__mode="offline"))
    assert summary["steps"] == 8
    assert len({row["step"] for row in read_rows(folder.metrics)}) == 8
    messages = [record.message for record in caplog.records if record.name == "crossover"]
    assert sum("recording offline in a new process" in message for message in messages) == 1
    after = recorded(folder.path)["run"]
    assert after.exit_code == 0
    assert {row["trainer/global_step"] for row in after.history} == {1, 2, 3, 4, 5, 6, 7, 8}
    names = [path.name for path in folder.path.glob("wandb/offline-run-*")]
    identity = (folder.path / "wandb" / "run.id").read_text().strip()
    assert len(names) == 2 and all(name.endswith(f"-{identity}") for name in names)


def test_training_survives_a_wandb_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    corpus = write_corpus(tmp_path)
    summary, _ = run(run_conf(tmp_path, corpus, wandb__mode="auto", trainer__max_steps=1))
    assert summary["steps"] == 1
    assert "wandb: ModuleNotFoundError" in caplog.text


def test_tables_and_pages_are_recorded(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>seen</p>")
    with tracker(tmp_path, axes={"probe/*": "context_length"}) as active:
        active.table("rows", ("name", "length"), [("a", 1), ("b", None)])
        active.page("page", tmp_path / "page.html")
    record = recorded(tmp_path)["one"]
    assert record.table("rows") == (["name", "length"], [["a", 1], ["b", None]])
    assert record.media("page").read_text() == "<p>seen</p>"
    assert record.axes == {"probe/*": "context_length"}


def test_ids_differ_between_runs_and_stay(tmp_path: Path) -> None:
    ids = []
    for name in ("a", "a", "b"):
        with tracker(tmp_path, name) as active:
            ids.append(active.version)
    assert ids[0] == ids[1] != ids[2]


def test_under_the_agent_of_a_sweep_a_run_keeps_its_name_group_and_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = tmp_path / "config.yaml"
    parameters.write_text("model:\n  value: rwkv4\ndata.length:\n  value: 32\n")
    monkeypatch.setenv("WANDB_SWEEP_ID", "abcdefgh")
    monkeypatch.setenv("WANDB_RUN_ID", "chosen00")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(parameters))
    wandb.teardown()  # it read its environment when it was first used
    config = {"model.name": "rwkv4", "data.length": 32}
    try:
        with tracker(tmp_path, config=config) as active:
            active.log_metrics({"val/loss": 1.0}, 1)
    finally:
        monkeypatch.undo()
        wandb.teardown()
    record = recorded(tmp_path)["one"]
    assert record.run["run_group"] == "g" and record.run["sweep_id"] == "abcdefgh"
    assert config.items() <= record.config.items() and record.config["model"] == "rwkv4"
    assert (tmp_path / "one.id").read_text().strip() == record.run["run_id"] == "chosen00"


def test_folder_names_are_names(tmp_path: Path) -> None:
    assert RunFolder.of("runs", "demo", "first").path == Path("runs/demo/first")
