"""A run that is killed and stopped on its way ends in the bits of one that is not."""

from __future__ import annotations

import itertools
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import pytest
import torch

from core.stop_signals import STOPPED
from tests.training.children import Stop, run_in_child
from tests.training.runs import run, run_conf, write_corpus
from tracking.jsonl import read_rows
from training.run_folder.folder import RunFolder

FACTORS: dict[str, tuple[Any, ...]] = {
    "model": ("rwkv4", "rwkv7", "transformer"),
    "trainer__accumulate_grad_batches": (1, 4),
    "data__workers": (0, 2),
    "trainer__precision": ("32-true", "bf16-mixed"),
    "training__gradient_checkpointing": (False, True),
    "trainer__devices": (1, 2),
    "optim__name": ("adamw", "muon"),
}
EVERY = list(itertools.product(*FACTORS.values()))
PAIRS = [  # of values of any two factors, each in at least one row
    ("rwkv4", 1, 0, "32-true", False, 2, "adamw"),
    ("rwkv4", 1, 2, "bf16-mixed", True, 1, "adamw"),
    ("rwkv4", 4, 0, "bf16-mixed", True, 1, "adamw"),
    ("rwkv7", 1, 0, "bf16-mixed", False, 1, "adamw"),
    ("rwkv7", 4, 2, "32-true", True, 2, "muon"),
    ("transformer", 1, 0, "32-true", True, 1, "adamw"),
    ("transformer", 4, 2, "bf16-mixed", False, 2, "muon"),
    ("rwkv4", 1, 0, "32-true", False, 1, "muon"),
]
QUICK = (0, 1, 3, 4)
"""Rows that are always tested: each value of each factor is in one of them, but `transformer`."""
STOPS: tuple[Stop, ...] = ((3, SIGKILL), (5, SIGTERM))
MEASURED = (  # and what the file of the checkpoint holds of them
    "train_seconds", "tokens_per_second", "peak_bytes", "checkpoint_sha256", "sha256",
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_the_rows_cover_every_pair_of_values() -> None:
    for first, other in itertools.combinations(range(len(FACTORS)), 2):
        values = list(FACTORS.values())
        pairs = {(row[first], row[other]) for row in PAIRS}
        assert pairs == set(itertools.product(values[first], values[other]))


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, marks=() if number in QUICK else pytest.mark.slow)
        for number in range(len(PAIRS))
    ],
    ids=lambda number: str(PAIRS[number]),
)
def test_interruptions_leave_no_trace(tmp_path: Path, corpus: Path, number: int) -> None:
    stops = STOPS if number == 0 else STOPS[number % 2 :][:1]
    check(tmp_path, corpus, PAIRS[number], stops)


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in EVERY if row not in PAIRS], ids=str)
def test_interruptions_leave_no_trace_anywhere(
    tmp_path: Path, corpus: Path, row: tuple[Any, ...]
) -> None:
    check(tmp_path, corpus, row, STOPS)


def check(tmp_path: Path, corpus: Path, row: tuple[Any, ...], stops: tuple[Stop, ...]) -> None:
    values = dict(zip(FACTORS, row, strict=True))
    model = values.pop("model")
    confs = [
        run_conf(
            tmp_path / name,
            corpus,
            trainer__max_steps=7,
            checkpoint__every_n_train_steps=2,
            **values,
        )
        for name in ("straight", "broken")
    ]
    straight, broken = (RunFolder(Path(conf.runs_dir) / "run") for conf in confs)
    assert run_in_child(confs[0], model).status == 0
    for after, number in stops:
        ended = run_in_child(confs[1], model, (after, number))
        assert ended.status == (STOPPED if number == SIGTERM else -number)
    ended = run_in_child(confs[1], model)
    # Stopped in step 6, a run saves it; killed in step 4, it goes on from the last save.
    since = 6 if stops[-1] in STOPS[1:] else 2
    assert ended.status == 0 and f"continuing from step {since}" in ended.err
    assert outcome(straight) == outcome(broken)
    assert not list(broken.path.rglob("*.tmp"))


def outcome(folder: RunFolder) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and rows, without what is measured anew."""
    summary = folder.summary()
    assert summary is not None
    rows = read_rows(folder.metrics)
    for row in rows:
        for name in ("time", "train/seconds", "train/tokens_per_second", "train/peak_memory_bytes"):
            row.pop(name, None)
    return {key: summary[key] for key in summary if key not in MEASURED}, rows


def test_looking_changes_nothing(tmp_path: Path, corpus: Path) -> None:
    digests = set()
    for number, changes in enumerate(
        (
            {"trainer__val_check_interval": 0, "checkpoint__every_n_train_steps": 0},
            {
                "trainer__val_check_interval": 1,
                "checkpoint__every_n_train_steps": 1,
                "checkpoint__best": True,
            },
            {"trainer__val_check_interval": 3, "trainer__log_every_n_steps": 5, "data__workers": 2},
        )
    ):
        summary, _ = run(run_conf(tmp_path / str(number), corpus, **changes))
        digests.add(summary["digest"])
    assert len(digests) == 1
    other, _ = run(run_conf(tmp_path / "other", corpus, seed=1))
    assert other["digest"] not in digests


@pytest.mark.slow
def test_another_number_of_processes_sees_the_same_tokens(tmp_path: Path, corpus: Path) -> None:
    seen = []
    for devices in ((1, 1), (2, 2), (1, 2), (2, 1)):  # before and after an interruption
        place = tmp_path / f"{devices}"
        for part, stops in zip(devices, [[(3, SIGTERM)], []], strict=True):
            conf = run_conf(place, corpus, trainer__accumulate_grad_batches=2)
            conf.trainer.devices = part
            run_in_child(conf, "rwkv4", *stops, record=place)
        files = sorted(place.glob("batch-*-0.pt"))
        assert len(files) == 16
        batches = []
        for file in files:
            other = file.with_name(file.name.replace("-0.pt", "-1.pt"))
            parts = [torch.load(path) for path in (file, other) if path.exists()]
            batches.append(torch.cat(parts))
        seen.append(torch.stack(batches))
    assert all(torch.equal(seen[0], batch) for batch in seen)
