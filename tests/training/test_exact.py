"""A run that is killed and stopped on its way ends in the bits of one that is not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import pytest

from tests.training.children import run_in_child, server
from tests.training.runs import run_conf, write_corpus
from training.folder import RunFolder
from training.metrics import read_rows
from training.signals import STOPPED

FACTORS: dict[str, tuple[Any, ...]] = {
    "contestant": ("rwkv4", "rwkv7", "transformer"),
    "trainer__accumulate_grad_batches": (1, 4),
    "data__workers": (0, 2),
    "trainer__precision": ("32-true", "bf16-mixed"),
    "training__gradient_checkpointing": (False, True),
    "trainer__devices": (1, 2),
}
EVERY = list(itertools.product(*FACTORS.values()))
PAIRS = [  # of values of any two factors, each in at least one row
    ("rwkv4", 1, 0, "32-true", True, 2),
    ("rwkv4", 1, 0, "bf16-mixed", False, 1),
    ("rwkv4", 4, 2, "32-true", True, 1),
    ("rwkv7", 1, 2, "bf16-mixed", True, 1),
    ("rwkv7", 4, 0, "32-true", False, 2),
    ("transformer", 1, 2, "32-true", False, 1),
    ("transformer", 1, 2, "bf16-mixed", True, 2),
    ("transformer", 4, 0, "bf16-mixed", False, 1),
]
MEASURED = ("train_seconds", "tokens_per_second", "peak_bytes")


@pytest.fixture(scope="module", autouse=True)
def children() -> Iterator[None]:
    with server():
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_the_rows_cover_every_pair_of_values() -> None:
    for one, other in itertools.combinations(range(len(FACTORS)), 2):
        values = list(FACTORS.values())
        pairs = {(row[one], row[other]) for row in PAIRS}
        assert pairs == set(itertools.product(values[one], values[other]))


@pytest.mark.parametrize("row", PAIRS, ids=str)
def test_interruptions_leave_no_trace(tmp_path: Path, corpus: Path, row: tuple[Any, ...]) -> None:
    check(tmp_path, corpus, row)


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in EVERY if row not in PAIRS], ids=str)
def test_interruptions_leave_no_trace_anywhere(
    tmp_path: Path, corpus: Path, row: tuple[Any, ...]
) -> None:
    check(tmp_path, corpus, row)


def check(tmp_path: Path, corpus: Path, row: tuple[Any, ...]) -> None:
    values = dict(zip(FACTORS, row, strict=True))
    contestant = values.pop("contestant")
    confs = [
        run_conf(tmp_path / name, corpus, trainer__max_steps=7, checkpoint__every=2, **values)
        for name in ("straight", "broken")
    ]
    straight, broken = (RunFolder(Path(conf.runs_dir) / "run") for conf in confs)
    assert run_in_child(confs[0], contestant).status == 0
    # Killed in step 4, so it continues from step 2; stopped in step 6, so from there.
    assert run_in_child(confs[1], contestant, (3, SIGKILL)).status == -SIGKILL
    assert run_in_child(confs[1], contestant, (5, SIGTERM)).status == STOPPED
    ended = run_in_child(confs[1], contestant)
    assert ended.status == 0 and "continuing from step 6" in ended.err
    assert outcome(straight) == outcome(broken)
    assert not list(broken.path.rglob("*.tmp"))


def outcome(folder: RunFolder) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and rows, without what is measured anew."""
    summary = folder.summary()
    assert summary is not None
    rows = read_rows(folder.metrics)
    for row in rows:
        for name in ("time", "train/tokens_per_second", "train/peak_memory_bytes"):
            row.pop(name, None)
    return {key: summary[key] for key in summary if key not in MEASURED}, rows
