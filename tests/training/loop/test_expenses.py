"""What the rows of a training carry beside steps, tokens, operations and seconds, if asked for."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path

import pytest
import torch

from conf.schema import TrainConf
from core import energy
from core.parsing import read_yaml
from models.contract import TRAINING_FACTOR
from tests.scripts.commands import ROOT
from tests.training.records import recorded
from tests.training.runs import run, run_conf, write_corpus
from tracking.configuration import flatten, setting_of
from tracking.jsonl import read_rows
from tracking.wandb_run import STEP
from training.loop.expenses import Expenses
from training.loop.monitor import describe

PEAK = 1e12
AXES = ("tokens", "flops", "seconds", "joules", "cost")
ASKED = {
    "training__also": ["joules", "mfu"],
    "training__peak_flops": PEAK,
    "training__price_per_hour": 7.2,
    "training__currency": "EUR",
}


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that has counted another joule whenever it is read, and begins anew at 5."""
    counts = itertools.count()
    found = energy.Counter("test", (lambda: float(next(counts) % 5),), (5.0,))
    monkeypatch.setattr(energy, "find", lambda device: found)


def test_nothing_asked_for_is_nothing() -> None:
    assert Expenses.of(TrainConf(), 10, 2) is None


@pytest.mark.usefixtures("counter")
def test_a_gpu_shows_its_use_and_energy_unasked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("training.loop.expenses.on_gpu", lambda trainer: True)
    monkeypatch.setattr("training.loop.expenses.highest_rate", lambda kind, dtype: 4e9)
    expenses = Expenses.of(TrainConf(), 1000, 2)
    assert expenses is not None
    expenses.start(torch.device("cpu"), 1)
    assert expenses.use(2e6) == {"train/mfu": 0.25}
    assert expenses.spent(1.0)["train/joules"] > 0
    monkeypatch.setattr(energy, "find", lambda device: energy.Counter("unavailable: none", ()))
    without = Expenses.of(TrainConf(), 1000, 2)
    assert without is not None
    without.start(torch.device("cpu"), 1)
    assert without.spent(1.0) == {}, "a figure was made up"
    assert not caplog.text
    both = describe({"train/mfu": 0.25, "train/joules": 12_340.0})
    assert both == "25% MFU  12.3 kJ"


@pytest.mark.usefixtures("counter")
def test_rows_and_records_have_what_was_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = write_corpus(tmp_path)
    _, uncounted = run(run_conf(tmp_path / "plain", corpus, trainer__max_steps=4))
    asked = ASKED | {"wandb__over": "cost", "group": "sweep"}
    run(
        run_conf(tmp_path, corpus, trainer__max_steps=2, checkpoint__every_n_train_steps=2, **asked)
    )
    asked |= {"wandb__mode": "offline"}
    summary, folder = run(run_conf(tmp_path, corpus, trainer__max_steps=4, **asked))
    rows = read_rows(folder.metrics)
    assert any("val/loss" in row for row in rows)
    for row in rows:
        assert row["train/cost"] == pytest.approx(row["train/seconds"] / 3600 * 7.2)
    joules = [row["train/joules"] for row in rows]  # sums over both sessions
    assert joules[0] > 0 and joules == sorted(joules) and len(set(joules)) == len(joules)
    rates = [row for row in rows if "train/tokens_per_second" in row]
    per_token = summary["forward_flops"] / summary["tokens"]
    for row in rates:
        used = TRAINING_FACTOR * per_token * row["train/tokens_per_second"]
        assert row["train/mfu"] == pytest.approx(used / PEAK)
    record = recorded(tmp_path / "sweep")["run"]
    assert record.axes == {"train/*": "train/cost", "val/*": "train/cost"}
    assert record.run["run_group"] == "sweep"
    assert record.config["setting"] == setting_of(flatten(read_yaml(folder.config)))
    example = runpy.run_path(str(ROOT / "examples" / "wandb_workspace.py"))
    axes = {STEP, *(f"train/{axis}" for axis in AXES)}
    assert set(example["AXES"].values()) == axes and example["GROUP_BY"] in record.config
    assert all(axes <= row.keys() for row in record.history)
    assert {*example["LOSSES"]} <= {key for row in record.history for key in row}
    # So are the sums of a training that begins with the weights of another.
    source = str(folder.path)
    taking = asked | {
        "name": "next",
        "init_from": source,
        "take": "weights",
        "trainer__max_steps": 1,
    }
    _, after = run(run_conf(tmp_path, corpus, **taking))
    assert read_rows(after.metrics)[0]["train/joules"] > joules[-1]
    # What is counted is no other run, and of a session that did not count the sum is not known.
    run(run_conf(tmp_path / "plain", corpus, trainer__max_steps=5, **ASKED))
    rows = read_rows(uncounted.metrics)
    assert not any("train/joules" in row for row in rows)
    assert "train/cost" not in rows[0] and "train/cost" in rows[-1]
    assert "steps before these were not counted" in caplog.text


@pytest.mark.usefixtures("counter")
def test_figures_change_no_bit(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path)
    more = ASKED | {"training__peak_flops": 0.0}  # measured, with torch's generators
    digests = [
        run(run_conf(tmp_path / name, corpus, trainer__max_steps=1, **words))[0]["digest"]
        for name, words in (("with", more), ("without", {}))
    ]
    assert digests[0] == digests[1]


def test_a_setting_is_all_but_the_seed() -> None:
    described = {"seed": 0, "model.name": "gpt", "model.size": "5m", "optim.lr": 1e-3, "name": "a"}
    same = described | {"seed": 1, "name": "b", "wandb.mode": "online", "training.also": ["mfu"]}
    assert setting_of(described) == setting_of(same) != setting_of(described | {"optim.lr": 2e-3})
    assert setting_of(described).startswith("gpt 5m ")


def test_without_a_counter_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(energy, "find", lambda device: energy.Counter("unavailable: none here"))
    conf = TrainConf()
    conf.training.also = ["joules", "mfu"]
    expenses = Expenses.of(conf, 10, 2)
    assert expenses is not None
    state = torch.random.get_rng_state()
    expenses.start(torch.device("cpu"), 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "training.also=[joules]: none here" in caplog.text
    assert "operations per second here" in caplog.text
    assert expenses.spent(3.0) == {} and expenses.state() is None
    assert expenses.use(1e6)["train/mfu"] > 0
