"""What lies in the folder when: whole files, the last two, the best, and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import training.checkpoints.async_io
from core import files
from core.errors import UserError
from core.files import damage
from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training.checkpoints import callback
from training.checkpoints.async_io import BackgroundIO
from training.checkpoints.find import read, saved


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def content(value: float = 1.0) -> dict[str, Any]:
    return {"global_step": 1, "crossover": {}, "state_dict": {"a": torch.full((3,), value)}}


def test_a_checkpoint_is_of_the_moment_it_was_asked_for(tmp_path: Path) -> None:
    done: list[Any] = []
    io = BackgroundIO(None, done.append)
    live = content()
    io.save_checkpoint(live, tmp_path / "a.ckpt")
    live["state_dict"]["a"].zero_()  # the next step changes the weights in place
    io.wait()
    written = read(tmp_path / "a.ckpt")
    assert damage(tmp_path / "a.ckpt") is None
    assert torch.equal(written["state_dict"]["a"], torch.ones(3))
    assert [each["global_step"] for each in done] == [1]


def test_a_failed_write_surfaces_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    io = BackgroundIO(None, done.append)
    io.save_checkpoint(content(), tmp_path / "a.ckpt")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    io.wait()
    monkeypatch.setattr(training.checkpoints.async_io.torch, "save", full)
    io.save_checkpoint(content(), tmp_path / "b.ckpt")
    with pytest.raises(UserError, match=r"b\.ckpt cannot be written: .*No space left.*make room"):
        io.wait()
    io.wait()  # told once
    io.save_checkpoint(content(), tmp_path / "b.ckpt")
    with pytest.raises(UserError, match="No space left"):
        io.save_checkpoint(content(), tmp_path / "c.ckpt")  # the next save waits for the former
    assert {path.name for path in tmp_path.iterdir()} == {"a.ckpt", "a.json"}
    assert len(done) == 1


def test_the_manifest_is_there_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*args: Any) -> None:
        raise Killed

    monkeypatch.setattr(files, "write_manifest", killed)
    with pytest.raises(Killed), files.atomic(tmp_path / "a.ckpt", manifest=True) as file:
        file.write(b"x")
    assert not (tmp_path / "a.ckpt").exists()


def test_a_failed_save_stops_the_run_and_the_next_goes_on(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, []

    def full_later(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(*args)

    conf = run_conf(tmp_path, corpus, checkpoint__every_n_train_steps=2)
    with monkeypatch.context() as patched:
        patched.setattr(training.checkpoints.async_io.torch, "save", full_later)
        with pytest.raises(UserError, match=r"step-00000004\.ckpt cannot be written"):
            run(conf)
    summary, folder = run(conf)
    straight, _ = run(run_conf(tmp_path / "straight", corpus))
    assert summary["digest"] == straight["digest"]
    assert not list(folder.path.rglob("*.tmp"))


def test_the_best_is_kept_and_named(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.0, 4.0, 3.0, 2.2, float("nan")])
    monkeypatch.setattr(
        "training.loop.module.LanguageModel.on_validation_epoch_end",
        lambda module: setattr(module, "val_loss", next(losses)),
    )
    monkeypatch.setattr("training.loop.monitor.Monitor.on_validation_end", lambda *args: None)
    conf = run_conf(tmp_path, corpus, trainer__val_check_interval=1, checkpoint__best=True)
    _, folder = run(conf)
    note = json.loads(folder.best.read_text())
    assert note == {"file": "step-00000002.ckpt", "step": 2, "val_loss": 2.0}
    assert [path.name for path in saved(folder)] == [
        "step-00000002.ckpt", "step-00000004.ckpt", "step-00000008.ckpt",
    ]  # fmt: skip


def test_the_best_so_far_travels_with_a_checkpoint(tmp_path: Path, corpus: Path) -> None:
    conf = run_conf(tmp_path, corpus, trainer__val_check_interval=2, checkpoint__best=True)
    _, folder = run(conf)
    rows = [row for row in read_rows(folder.metrics) if "val/loss" in row]
    for path in saved(folder):
        checkpoint = read(path)
        lowest = min(
            (row["val/loss"], row["step"])
            for row in rows
            if row["step"] <= checkpoint["global_step"]
        )
        best = checkpoint["crossover"]["best"]
        assert (best["val_loss"], best["step"]) == lowest


def test_saving_by_minutes(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))  # a look at the clock every ten seconds

    class Clock:
        monotonic = staticmethod(lambda: float(next(clock)))

    monkeypatch.setattr(callback, "time", Clock)
    conf = run_conf(
        tmp_path, corpus, checkpoint__every_n_train_steps=0, checkpoint__every_minutes=0.5
    )
    _, folder = run(conf)
    assert [path.name for path in saved(folder)] == ["step-00000006.ckpt", "step-00000008.ckpt"]


def test_a_resuming_run_hashes_a_checkpoint_once(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(run_conf(tmp_path, corpus, trainer__max_steps=4))
    hashed: list[Path] = []
    real = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: hashed.append(path) or real(path))
    run(run_conf(tmp_path, corpus, trainer__max_steps=5))
    assert [path.name for path in hashed].count("step-00000004.ckpt") == 1


def test_leftovers_of_a_killed_process_are_swept(tmp_path: Path, corpus: Path) -> None:
    _, folder = run(run_conf(tmp_path, corpus, trainer__max_steps=2))
    left = folder.checkpoints / ".step-00000004.ckpt.12345.tmp"
    left.write_bytes(b"half")
    run(run_conf(tmp_path, corpus, trainer__max_steps=3))
    assert not left.exists()
