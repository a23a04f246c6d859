"""Which checkpoints stay, by the rules and in a real run, whenever it is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from core.files import damage
from tests.training.runs import run, run_conf
from training.checkpoints.callback import Checkpointer
from training.checkpoints.find import read, saved, step_of
from training.checkpoints.keep import Keep
from training.run_folder.folder import RunFolder, find_place


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("last:2,best:1", {20, 60, 70}),
        ("last:1", {70}),
        ("best:2", {20, 40, 70}),
        ("every:30", {30, 60, 70}),
        ("every:20, best:1", {20, 40, 60, 70}),
        ("last:99", {10, 20, 30, 40, 50, 60, 70}),
    ],
)
def test_the_rules(text: str, kept: set[int]) -> None:
    assert Keep.parse(text).stay(range(10, 80, 10), [20, 40, 10]) == kept


@pytest.mark.parametrize(
    "text", ["", "last", "last:0", "last:-1", "best:1.5", "all:3", "last:1,last:2", "last:2;best:1",
             "every:9999999999", "last:2,", "last:\u0662"],
)  # fmt: skip
def test_another_grammar_is_one_message(text: str) -> None:
    with pytest.raises(
        UserError,
        match=r"last:N, best:N and every:STEPS, each once, with numbers from 1 to 999999999,",
    ):
        Keep.parse(text)


class Killed(BaseException):
    pass


def steps(folder: RunFolder) -> list[int]:
    return [step_of(path) for path in saved(folder)]


def test_a_run_keeps_what_was_promised_at_every_moment(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation losses by step: 1 to 8; after each deletion the folder is looked at."""
    by_step = [3.0, 2.0, 2.5, 1.9, 4.0, 1.8, 2.2, 1.7]
    seen: list[list[int]] = []
    monkeypatch.setattr(
        "training.loop.module.LanguageModel.on_validation_epoch_end",
        lambda module: setattr(module, "val_loss", by_step[module.trainer.global_step - 1]),
    )
    monkeypatch.setattr("training.loop.monitor.Monitor.on_validation_end", lambda *args: None)
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".ckpt":
            seen.append(steps(folder))
            assert damage(saved(folder)[-1]) is None  # the new one was whole before
            if len(seen) == kill_at:
                raise Killed
        real(path, missing_ok)

    conf = run_conf(
        tmp_path, corpus, trainer__val_check_interval=1, checkpoint__best=True,
        checkpoint__every_n_train_steps=0, checkpoint__keep="last:1,best:2,every:5",
    )  # fmt: skip
    folder = RunFolder(tmp_path / "run")
    kill_at = 2
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink)
        with pytest.raises(Killed):
            run(conf)
        assert seen == [[1, 2, 4], [2, 4, 5, 6]] and steps(folder) == seen[-1]
        kill_at = 0
        run(conf)
    assert seen[2:] == [[2, 4, 5, 6], [4, 5, 6, 8]]  # at once, and after the last save
    assert steps(folder) == [5, 6, 8]
    last = read(saved(folder)[-1])["crossover"]
    assert last["lowest"] == [{"step": 8, "val_loss": 1.7}, {"step": 6, "val_loss": 1.8}]
    assert last["best"] == last["lowest"][0]
    with pytest.raises(UserError, match="has no checkpoint of step 4; there are: 5, 6, 8"):
        find_place("from", f"{folder.path}@4", "runs")


def test_a_kill_after_the_last_save_leaves_nothing_behind(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left to train then, and so nothing would be saved and tidied any more."""
    conf = run_conf(
        tmp_path, corpus, trainer__val_check_interval=2, trainer__max_steps=4,
        checkpoint__every_n_train_steps=2, checkpoint__keep="last:1,best:1", checkpoint__best=True,
    )  # fmt: skip
    tidy = Checkpointer._tidy

    def killed(saver: Checkpointer, checkpoint: dict[str, Any]) -> None:
        if checkpoint["global_step"] == 4:
            raise Killed
        tidy(saver, checkpoint)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Checkpointer, "_tidy", killed)
        run(conf)
    folder = RunFolder(tmp_path / "run")
    assert steps(folder) == [2, 4] and json.loads(folder.best.read_text())["step"] == 2
    left = [folder.path / f".{'0' * 16}.json", folder.checkpoints / "step-00000001.json"]
    for path in left:
        path.write_text("{}")
    summary, _ = run(conf)
    assert summary["steps"] == 4 and steps(folder) == [4]
    assert json.loads(folder.best.read_text())["step"] == 4
    assert not any(path.exists() for path in left)


def test_the_best_is_named_only_where_it_stays(tmp_path: Path, corpus: Path) -> None:
    for keep, named in (("last:1", False), ("last:1,best:1", True)):
        conf = run_conf(
            tmp_path / keep, corpus, trainer__val_check_interval=2, trainer__max_steps=4,
            checkpoint__every_n_train_steps=1, checkpoint__keep=keep, optim__lr=1.0,
        )  # fmt: skip
        _, folder = run(conf)
        assert not folder.best.exists() or named
        if folder.best.exists():
            assert (folder.checkpoints / json.loads(folder.best.read_text())["file"]).exists()
