"""Who was searched how: equal grids, equal studies, and what makes them unequal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probes.analysis.training_grid import Grid, grid
from probes.analysis.tuning import describe, same
from probes.training_runs import TrainingRun
from tests.probes.synthetic import make_summary


def runs(model: str, *settings: dict[str, Any], group: str = "g") -> list[TrainingRun]:
    """Finished trainings with these keys beside the defaults."""
    return [
        TrainingRun(
            Path(group, f"{model}-{number}"),
            make_summary(model, 4.0 + number, name=f"{model}-{number}"),
            {"seed": 0, "optim.lr": 1e-3, "name": f"{model}-{number}", **setting},
        )
        for number, setting in enumerate(settings)
    ]


def alike(mine: list[TrainingRun], other: list[TrainingRun]) -> bool:
    found: Grid = grid([*mine, *other])
    (pair,) = found.pairs
    assert ("search" in pair.obstacles) != same(pair.lower.search, pair.higher.search)
    return "search" not in pair.obstacles


def rates(*values: float, **more: Any) -> list[dict[str, Any]]:
    return [{"optim.lr": value, **more} for value in values]


@pytest.mark.parametrize(
    ("mine", "other", "expected"),
    [
        (rates(1e-3), rates(1e-3), True),
        (rates(1e-3), rates(2e-3), False),
        (rates(1e-3, 2e-3), rates(2e-3, 1e-3), True),
        (rates(1e-3, 2e-3), rates(1e-3, 4e-3), False),
        (rates(1e-3, 2e-3), rates(1e-3, 2e-3, 4e-3), False),
        (rates(1e-3), rates(1e-3, seed=1), False),
        (rates(1e-3, 2e-3), [*rates(1e-3), {"optim.warmup_steps": 5}], False),
        # What says where things go is no setting.
        (rates(1e-3, runs_dir="a"), rates(1e-3, runs_dir="b"), True),
    ],
)
def test_grids(mine: list[dict[str, Any]], other: list[dict[str, Any]], expected: bool) -> None:
    assert alike(runs("rwkv4", *mine), runs("gpt", *other)) is expected


def trials(
    model: str, group: Path, values: list[float], space: str, sampler: str = "tpe"
) -> list[TrainingRun]:
    """Trials of a study in a folder of its own."""
    group.mkdir(parents=True, exist_ok=True)
    (group / "study.json").write_text(
        f'{{"space": {{"optim.lr": "{space}"}}, "sampler": "{sampler}", "seed": 0, "trials": []}}'
    )
    found = runs(model, *rates(*values), group=str(group))
    return [
        TrainingRun(group / f"trial-{number}", run.summary, run.config)
        for number, run in enumerate(found)
    ]


def test_studies_need_the_same_space_and_as_many_trials(tmp_path: Path) -> None:
    space = "interval(1e-4,1e-2)"
    mine = trials("rwkv4", tmp_path / "a", [1e-3, 2e-3], space)
    assert alike(mine, trials("gpt", tmp_path / "b", [3e-3, 4e-3], space))
    assert not alike(mine, trials("gpt", tmp_path / "c", [3e-3, 4e-3, 5e-3], space))
    assert not alike(mine, trials("gpt", tmp_path / "d", [1e-3, 2e-3], "interval(1e-4,1)"))
    assert not alike(mine, trials("gpt", tmp_path / "e", [1e-3, 2e-3], space, "random"))
    assert not alike(mine, runs("gpt", *rates(1e-3, 2e-3)))


def test_a_search_is_described_with_keys_values_and_seeds() -> None:
    mine = runs("rwkv4", *rates(1e-3, 2e-3), *rates(2e-3, seed=1))
    (arm,) = grid(mine).arms
    assert (
        describe(arm.search) == "3 trainings of 2 settings of optim.lr (0.001, 0.002), seeds 0, 1"
    )
    assert arm.at_the_edge == ["optim.lr"]
