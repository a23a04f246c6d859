"""Whole, in segments, documents apart: one training loop reads them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training.run import RunFolder

STEP = 1e-5  # of fp32 rounding between two ways to sum the same gradients, over 8 steps


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path)


def losses(folder: RunFolder, key: str = "train/loss") -> list[float]:
    return [row[key] for row in read_rows(folder.metrics) if key in row]


@pytest.mark.parametrize("changes", [{}, {"trainer__accumulate_grad_batches": 2}])
def test_segments_train_as_whole_sequences_do(
    tmp_path: Path, corpus: Path, changes: dict[str, Any]
) -> None:
    """Also the gradient norm, which clipping reads, and the loss on all validation tokens."""
    changes |= {"trainer__gradient_clip_val": 0.5, "optim__l2wrap": 1e-3, "optim__z_loss": 1e-3}
    whole, whole_folder = run(run_conf(tmp_path / "whole", corpus, **changes), "rwkv7")
    changes |= {"training__segment": 12}
    parts, parts_folder = run(run_conf(tmp_path / "parts", corpus, **changes), "rwkv7")
    for key in ("train/loss", "train/grad_norm", "val/loss"):
        assert losses(parts_folder, key) == pytest.approx(losses(whole_folder, key), rel=STEP), key
    assert parts["val_loss"] == pytest.approx(whole["val_loss"], rel=STEP)
    assert (parts["segment"], parts["bptt"]) == (12, "exact")


def test_truncated_training_is_another_and_says_so(tmp_path: Path, corpus: Path) -> None:
    _, whole = run(run_conf(tmp_path / "whole", corpus), "rwkv4")
    conf = run_conf(tmp_path / "cut", corpus, training__segment=8, training__bptt="truncated")
    summary, cut = run(conf, "rwkv4")
    # The first loss is taken before any gradient was used.
    assert losses(cut)[0] == pytest.approx(losses(whole)[0], rel=STEP)
    assert losses(cut)[1:] != pytest.approx(losses(whole)[1:], rel=STEP)
    assert summary["bptt"] == "truncated"


def test_half_precision_trains_in_segments(tmp_path: Path, corpus: Path) -> None:
    changes: dict[str, Any] = {"trainer__precision": "bf16-mixed", "trainer__max_steps": 3}
    _, whole = run(run_conf(tmp_path / "whole", corpus, **changes), "rwkv6")
    _, parts = run(run_conf(tmp_path / "parts", corpus, training__segment=12, **changes), "rwkv6")
    assert losses(parts) == pytest.approx(losses(whole), rel=5e-3)


@pytest.fixture
def documents(tmp_path: Path) -> list[str]:
    """Many short files whose words differ from one to the next."""
    paths = []
    for number in range(40):
        path = tmp_path / f"{number}.txt"
        path.write_text(f"{chr(97 + number % 26) * 3} {number} " * 12)
        paths.append(str(path))
    return paths


@pytest.mark.parametrize("name", ["rwkv4", "transformer"])
def test_documents_are_trained_apart(tmp_path: Path, documents: list[str], name: str) -> None:
    changes: dict[str, Any] = {"data__length": 150, "data__paths": documents}
    path = Path(documents[0])
    stream, stream_folder = run(run_conf(tmp_path / "stream", path, **changes), name)
    changes["data__packing"] = "documents"
    apart, apart_folder = run(run_conf(tmp_path / "apart", path, **changes), name)
    assert losses(apart_folder) != pytest.approx(losses(stream_folder), rel=STEP)
    assert apart["order_hash"] == stream["order_hash"]
    assert (stream["packing"], apart["packing"]) == ("stream", "documents")


def test_documents_without_a_token_between_them_are_refused(tmp_path: Path, corpus: Path) -> None:
    conf = run_conf(tmp_path, corpus, data__packing="documents", data__tokenizer="chars")
    with pytest.raises(UserError, match="'chars' has no end-of-text token"):
        run(conf)
