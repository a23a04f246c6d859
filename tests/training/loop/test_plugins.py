"""Callbacks and loggers named in a configuration."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.errors import UserError
from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training.checkpoints.find import saved
from training.loop import plugins

MINE = """
import lightning
from pathlib import Path

class Counts(lightning.Callback):
    def __init__(self, place, every=1):
        self.place, self.every = Path(place), every

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step % self.every == 0:
            with self.place.open("a") as file:
                file.write(f"{trainer.global_step} ")

class Other:
    pass
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def tensorboard(folder: Path) -> dict[int, float]:
    """`train/loss` by step, as TensorBoard reads it."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("train/loss")
    assert len({each.step for each in scalars}) == len(scalars)
    return {each.step: each.value for each in scalars}


def test_loggers_hold_every_row_also_after_a_kill(tmp_path: Path, corpus: Path) -> None:
    asked = {
        "loggers": ["TensorBoardLogger", {"name": "CSVLogger", "flush_logs_every_n_steps": 1}],
        "callbacks": ["LearningRateMonitor"],
    }
    plain, _ = run(run_conf(tmp_path / "plain", corpus))
    summary, folder = run(run_conf(tmp_path, corpus, **asked))
    assert summary["digest"] == plain["digest"]
    for attempt in range(2):
        rows = read_rows(folder.metrics)
        losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
        assert [*losses] == list(range(1, 9))
        assert tensorboard(folder.path) == pytest.approx(losses)
        table = list(csv.DictReader((folder.path / "csv" / "metrics.csv").open()))
        found = {int(row["step"]): float(row["train/loss"]) for row in table if row["train/loss"]}
        assert found == pytest.approx(losses)
        assert any("lr-AdamW" in key for key in table[0])
        if not attempt:  # as if killed before the last checkpoint
            folder.summary_path.unlink()
            saved(folder)[-1].unlink()
            run(run_conf(tmp_path, corpus, **asked))


def test_a_callback_of_lightnings_and_one_of_the_users(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    stops = {"name": "EarlyStopping", "monitor": "val/loss", "patience": 1, "min_delta": 100.0}
    mine = {"name": f"{tmp_path}/mine.py:Counts", "place": f"{tmp_path}/counts", "every": 2}
    summary, _ = run(run_conf(tmp_path, corpus, callbacks=[stops, mine]))
    assert summary["steps"] == 6  # validated after 3 and 6 steps
    assert summary["ended_early"] == "a callback stopped it at step 6"
    assert (tmp_path / "counts").read_text() == "2 4 6 "
    again, _ = run(run_conf(tmp_path, corpus, callbacks=[stops, mine]))
    assert again == summary and (tmp_path / "counts").read_text() == "2 4 6 "


@pytest.mark.parametrize(
    ("key", "item", "message"),
    [
        ("callbacks", "EarlyStoping", "did you mean EarlyStopping"),
        ("callbacks", "os.system", "choose one of"),
        ("callbacks", {"monitor": "x"}, "neither a name"),
        ("callbacks", "none.py:Class", "no such file"),
        ("callbacks", "~no.such.user/none.py:Class", "no such file"),
        ("loggers", "WandbLogger", "choose one of|did you mean"),
    ],
)
def test_unknown_names_are_told(key: str, item: Any, message: str) -> None:
    (problem,) = plugins.problems(key, [item])
    assert problem.startswith(key)
    assert re.search(message, problem)


def test_classes_that_are_none_and_wrong_arguments_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("import nothing_like_this\n")
    for item, message in (
        (f"{tmp_path}/mine.py:Other", "not a subclass of lightning"),
        (f"{tmp_path}/mine.py:Nobody", "not a subclass of lightning"),
        (f"{tmp_path}/broken.py:Class", "cannot be imported"),
        ({"name": "EarlyStopping", "monitr": "val/loss"}, "does not take these arguments"),
        (f"{tmp_path}/mine.py:Counts", "does not take these arguments"),
    ):
        with pytest.raises(UserError, match=message):
            plugins.check("callbacks", [item])


def test_a_file_that_ends_python_ends_no_training_silently(tmp_path: Path) -> None:
    (tmp_path / "whole.py").write_text("import sys\nsys.exit(0)\n")
    begins = "import sys\nimport lightning\n\n\nclass Ends(lightning.Callback):\n"
    (tmp_path / "made.py").write_text(f"{begins}    def __init__(self):\n        sys.exit(0)\n")
    with pytest.raises(UserError, match=r"whole.py cannot be imported \(SystemExit: 0\)"):
        plugins.check("callbacks", [f"{tmp_path}/whole.py:Class"])
    with pytest.raises(UserError, match=r"cannot be made \(SystemExit: 0\)"):
        plugins.build_callbacks([f"{tmp_path}/made.py:Ends"], 0)


FAILS = """import sys
import lightning


class Base(lightning.Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 5:
            self.act()


class Raises(Base):
    def act(self):
        int("five")


class Exits(Base):
    def act(self):
        sys.exit(0)


class Takes(lightning.Callback):
    def on_train_start(self):
        pass
"""


def test_what_a_hook_raises_is_one_message_and_the_run_goes_on(
    tmp_path: Path, corpus: Path
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FAILS)
    for name, message in (
        ("Takes", f"{path}, line 22: Takes.on_train_start raised TypeError: .*1 positional"),
        ("Exits", f"{path}, line 18: Exits.on_train_batch_end raised SystemExit: 0"),
        ("Raises", f"{path}, line 13: Raises.on_train_batch_end raised ValueError: invalid lit"),
    ):
        conf = run_conf(tmp_path / name, corpus, callbacks=[f"{path}:{name}"])
        with pytest.raises(UserError, match=message):
            run(conf)
    for each in [each for each in sys.modules if each.startswith(plugins.USERS + "mine_")]:
        sys.modules.pop(each)  # other tests have files of that name, too
    path.write_text(FAILS.replace('int("five")', "pass"))
    summary, folder = run(conf)
    assert summary["steps"] == 8
    assert [row["step"] for row in read_rows(folder.metrics) if "train/loss" in row] == [
        *range(1, 9)
    ]


def test_errors_outside_of_files_of_users_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), plugins.told():
        1 / 0  # noqa: B018


def test_ranks_without_loggers_leave_out_what_only_logs() -> None:
    names = ["LearningRateMonitor", "DeviceStatsMonitor", "Timer"]
    assert [type(each).__name__ for each in plugins.build_callbacks(names, 1)] == ["Timer"]
    assert len(plugins.build_callbacks(names, 0)) == 3
