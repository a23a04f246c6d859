"""Training on text of which some is read and not learned."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from conf.schema import TrainConf
from tests.training.runs import run, run_conf
from tracking.jsonl import read_rows
from training.checkpoints.find import saved

SUMS = 1e-5  # of fp32 rounding between two ways to sum the same gradients


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions and answers of many lengths: windows learn different numbers of tokens."""
    draw = random.Random(1)
    path = tmp_path_factory.mktemp("corpus") / "pairs.jsonl"
    with path.open("w") as file:
        for number in range(60):
            question = f"question {number} " * draw.choice((1, 9, 30))
            pair = {"question": question, "answer": "answer " * draw.choice((1, 2, 20))}
            file.write(json.dumps(pair) + "\n")
    return path


def pairs_conf(folder: Path, corpus: Path, **changes: Any) -> TrainConf:
    words = {"data__corpus": "jsonl", "data__prompt": "question", "data__answer": "answer"}
    return run_conf(folder, corpus, **words, **changes)


def figures(rows: list[dict[str, Any]], *keys: str) -> dict[str, list[float]]:
    return {key: [row[key] for row in rows if key in row] for key in keys}


def test_a_step_is_the_mean_over_all_that_it_learns(tmp_path: Path, corpus: Path) -> None:
    """However its rows are spread over micro-batches and processes, whose numbers differ."""
    compared = ("train/loss", "train/grad_norm", "val/loss", "train/trained_tokens")
    found, summaries = [], []
    for batch, accumulate, devices in ((8, 1, 1), (2, 4, 1), (4, 2, 2)):
        conf = pairs_conf(
            tmp_path / str(batch),
            corpus,
            data__batch_size=batch,
            trainer__accumulate_grad_batches=accumulate,
            trainer__devices=devices,
            trainer__max_steps=4,
            optim__l2wrap=1e-3,
            optim__z_loss=1e-3,
        )
        summary, folder = run(conf, "rwkv4")
        found.append(figures(read_rows(folder.metrics), *compared))
        summaries.append(summary)
    for other, summary in zip(found[1:], summaries[1:], strict=True):
        for key in compared:
            assert found[0][key] == pytest.approx(other[key], rel=SUMS), key
        assert summaries[0]["val_loss"] == pytest.approx(summary["val_loss"], rel=SUMS)
    assert summaries[0]["tokens"] == 4 * 8 * 32
    assert 0 < summaries[0]["trained_tokens"] == found[0]["train/trained_tokens"][-1] < 4 * 8 * 32
    assert summaries[0]["forward_flops"] == summaries[1]["forward_flops"]


def test_steps_without_anything_to_learn_are_no_nan(tmp_path: Path, corpus: Path) -> None:
    """They have no loss, count no trained token, and the run resumes as if it had not stopped."""
    conf = pairs_conf(
        tmp_path, corpus, data__batch_size=1, data__length=16, trainer__max_steps=24,
        checkpoint__every_n_train_steps=9, optim__ema=0.9,
    )  # fmt: skip
    summary, folder = run(conf)
    rows = [row for row in read_rows(folder.metrics) if "train/lr" in row]
    trained = [row["train/trained_tokens"] for row in rows]
    learned = [after - before for before, after in zip([0, *trained], trained, strict=False)]
    assert 0 in learned[1:] and max(learned) > 0
    for row, count in zip(rows, learned, strict=True):
        assert ("train/loss" in row) == (count > 0)
        assert row["train/grad_norm"] >= 0
    assert 0 < summary["val_loss"] < 10 and 0 < summary["val_bits_per_byte"] < 15
    folder.summary_path.unlink()
    for checkpoint in saved(folder)[1:]:
        checkpoint.unlink()
    again, _ = run(conf)
    for key in ("digest", "trained_tokens", "tokens", "val_loss"):
        assert again[key] == summary[key], key


@pytest.mark.parametrize("changes", [{"training__segment": 12}, {"data__packing": "documents"}])
def test_other_ways_to_read_learn_the_same_targets(
    tmp_path: Path, corpus: Path, changes: dict[str, Any]
) -> None:
    changes = {"trainer__max_steps": 3, **changes}
    whole, _ = run(pairs_conf(tmp_path / "whole", corpus, trainer__max_steps=3), "rwkv7")
    other, _ = run(pairs_conf(tmp_path / "other", corpus, **changes), "rwkv7")
    assert other["trained_tokens"] == whole["trained_tokens"]
    if "training__segment" in changes:
        assert other["val_loss"] == pytest.approx(whole["val_loss"], rel=SUMS)


def test_a_masked_text_validates_what_is_trained_on_another(tmp_path: Path, corpus: Path) -> None:
    """And the other way round; each loss is that of what is learned."""
    plain = tmp_path / "plain.txt"
    plain.write_text("answer question " * 300)
    words = {"corpus": "jsonl", "prompt": "question", "answer": "answer", "paths": [str(corpus)]}
    conf = run_conf(tmp_path, plain, trainer__max_steps=3, data__validation={"pairs": words})
    summary, folder = run(conf)
    assert summary["trained_tokens"] == summary["tokens"]
    (row,) = (row for row in read_rows(folder.metrics) if "val/pairs/loss" in row)
    assert 0 < row["val/pairs/loss"] < 10 and "train/trained_tokens" not in row
