"""Trainings on a mixture: curves of their own, the record by parts, bit-exact continuation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training.run_folder.folder import RunFolder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("mixed"))


def mixed(folder: Path, corpus: Path, **changes: Any) -> Any:
    for name, line in (("code", "def f(x): return x + "), ("books", "once upon a time ")):
        path = corpus.parent / f"{name}.txt"
        if not path.exists():
            path.write_text("".join(f"{line}{number}\n" for number in range(150)))
    settings: dict[str, Any] = {
        "data__mix": {"text": 0.75, "code": 0.25},
        "data__parts": {
            "text": {"paths": [str(corpus)]},
            "code": {"paths": str(corpus.parent / "code.txt")},
        },
        "data__validation": {"books": {"paths": str(corpus.parent / "books.txt")}},
        "data__paths": [],
    }
    return run_conf(folder, corpus, **{**settings, **changes})


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, RunFolder]:
    return run(mixed(tmp_path_factory.mktemp("whole"), corpus, optim__ema=0.5))


def test_every_text_has_its_curve(whole: tuple[Any, RunFolder]) -> None:
    summary, folder = whole
    rows = [row for row in read_rows(folder.metrics) if "val/loss" in row]
    assert len(rows) == 2
    for row in rows:
        mean = 0.75 * row["val/text/loss"] + 0.25 * row["val/code/loss"]
        assert row["val/loss"] == pytest.approx(mean, rel=1e-12)
        assert {f"val/{name}/bits_per_byte" for name in ("text", "code", "books")} <= row.keys()
        assert row["val/ema_loss"] != row["val/loss"]
    own = summary["validation"]
    assert {name: each["share"] for name, each in own.items()} == {
        "code": 0.25, "text": 0.75, "books": 0.0,
    }  # fmt: skip
    mean = 0.75 * own["text"]["loss"] + 0.25 * own["code"]["loss"]
    assert summary["val_loss"] == pytest.approx(mean, rel=1e-12)
    for each in own.values():  # bytes: one end of text for each document, else a token per byte
        assert each["bits_per_byte"] == pytest.approx(each["loss"] / math.log(2), rel=0.01)


def test_the_summary_has_the_tokens_of_each_part(whole: tuple[Any, RunFolder]) -> None:
    summary, _ = whole
    parts = summary["parts"]
    assert summary["tokens"] == 8 * 4 * 32
    assert {name: each["tokens"] for name, each in parts.items()} == {"code": 256, "text": 768}
    assert 0 < parts["text"]["epochs"] < parts["code"]["epochs"] < 1


def test_a_stopped_training_ends_in_the_same_bits(
    whole: tuple[Any, RunFolder], corpus: Path, tmp_path: Path
) -> None:
    conf = mixed(tmp_path, corpus, optim__ema=0.5, trainer__max_steps=8)
    conf.callbacks = []
    first = mixed(tmp_path, corpus, optim__ema=0.5)
    first.trainer.max_steps = 8
    with pytest.MonkeyPatch.context() as patch:
        from training.loop.monitor import Monitor

        ended = Monitor.on_train_batch_end

        def stop(self: Any, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 6:
                raise KeyboardInterrupt
            ended(self, trainer, *args)

        patch.setattr(Monitor, "on_train_batch_end", stop)
        with pytest.raises(BaseException):  # noqa: B017 (however it is stopped)
            run(first)
    conf.data.workers = 2
    summary, _ = run(conf)
    for key in ("digest", "val_loss", "val_ema_loss", "validation", "parts", "order_hash"):
        assert summary[key] == whole[0][key], key


def test_further_texts_change_nothing_else(corpus: Path, tmp_path: Path) -> None:
    plain, _ = run(run_conf(tmp_path / "plain", corpus))
    mixed(tmp_path, corpus)  # writes the further text
    books = {"books": {"paths": str(corpus.parent / "books.txt")}}
    ours, folder = run(run_conf(tmp_path / "books", corpus, data__validation=books))
    for key in ("digest", "val_loss", "val_bits_per_byte", "order_hash", "data_fingerprint"):
        assert ours[key] == plain[key], key
    assert list(ours["validation"]) == ["books"] and plain["validation"] == ours["parts"] == {}
    assert all("val/books/loss" in row for row in read_rows(folder.metrics) if "val/loss" in row)
