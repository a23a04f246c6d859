"""The shared loop beside a bare one: rows of a tiny training."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import loop
from conf.schema import DataConf, TrainConf
from data.store import Corpus, prepare


@pytest.fixture
def training(tmp_path: Path) -> tuple[TrainConf, Corpus]:
    """Four steps on a small text."""
    text = tmp_path / "text.txt"
    text.write_text("abcdefgh\n" * 400)
    data = DataConf(
        corpus="text", paths=[str(text)], tokenizer="bytes", length=16, batch_size=2,
        cache_dir=str(tmp_path), val_fraction=0.1,
    )  # fmt: skip
    return loop.training_of(data, steps=4, every=2), prepare(data)


def test_both_loops_are_timed(training: tuple[TrainConf, Corpus]) -> None:
    row = loop.compare("rwkv4", *training, rounds=1)
    bare, shared, ratio = row.figures
    assert float(bare) > 0 and float(shared) > 0
    assert abs(float(ratio.split()[0]) - float(shared) / float(bare)) < 0.01 * float(shared)


def test_saves_are_counted(training: tuple[TrainConf, Corpus]) -> None:
    parameters, saves, held, share = loop.saving("gpt", *training, width=64).figures
    assert int(parameters.replace(",", "")) > 10_000 and saves == "2"
    assert float(held) > 0 and 0 < float(share.split()[0]) < 100


def test_the_monitor_is_switched_on_and_off(
    training: tuple[TrainConf, Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "TURN", 2)
    row = loop.monitor_cost("rwkv4", *training, steps=16)
    milliseconds, ratio, share = row.figures
    assert float(milliseconds) > 0 and " to " in ratio and share.endswith("%")


def test_what_is_switched_off_is_compared_with_what_is_not_there(
    training: tuple[TrainConf, Corpus],
) -> None:
    _, corpus = training
    steps, milliseconds, ratio, interval, share = loop.switched_off(
        "rwkv4-tiny", corpus, 12
    ).figures
    low, high = map(float, interval.split(" to "))
    assert steps == "12" and float(milliseconds) > 0 and low <= float(ratio) <= high
    assert 0 < float(share.rstrip("%")) < 100
