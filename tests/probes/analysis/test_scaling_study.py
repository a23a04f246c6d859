"""From summaries of trainings to families, curves and comparisons whose answers are known."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.files import recorded_digest, write_manifest
from probes.analysis.scaling_study import Study, origins, spending, study, swept
from probes.report import scaling_text
from tests.probes.trainings import BUDGETS, SIZES, grid, loss, training


def studied(better: float, noise: float = 0.003, seed: int = 0) -> Study:
    """A grid of both families; the losses of the RWKV are `better` times the Transformer's."""
    runs = [*grid("rwkv7", better, noise, seed), *grid("transformer", 1.0, noise, seed + 1)]
    found = study(runs)
    assert found is not None
    return found


def test_families_hold_their_trainings_in_order() -> None:
    runs = [*grid("transformer", 1.0), *grid("rwkv7", 0.9), *grid("gpt", 1.0)[:2]]
    found = study(runs)
    assert found is not None
    assert [family.label for family in found.families] == ["rwkv7", "transformer"]  # not gpt's two
    for family in found.families:
        assert len(family.trials) == len(SIZES) * len(BUDGETS)
        compute = [trial.flops for trial in family.trials]
        assert compute == sorted(compute)
        assert family.span == (compute[0], compute[-1])
    # Three times the forward pass, on all tokens.
    least = next(one for one in runs if one["model"] == "rwkv7")
    assert found.families[0].trials[0].flops == 3 * least["forward_flops"]


def test_options_make_a_family_of_their_own() -> None:
    windowed = [{**one, "options": {"window": 64}} for one in grid("transformer", 1.1)]
    found = study([*grid("transformer", 1.0), *windowed])
    assert found is not None
    labels = [family.label for family in found.families]
    assert labels == ["transformer", "transformer window 64"]
    assert found.comparisons == ()
    assert "A comparison needs a recurrent and an attention model" in scaling_text.headline(found)


def test_trainings_of_one_compute_are_no_study() -> None:
    same = [training("rwkv7", 1e6, 1e6, 3.0, name=str(seed)) for seed in range(5)]
    assert study(same) is None and swept(same) == []
    old = [{key: value for key, value in one.items() if key != "forward_flops"}
           for one in grid("rwkv7", 1.0)]  # fmt: skip
    assert study(old) is None


def test_pruned_trainings_are_not_points_of_a_curve() -> None:
    trainings = grid("rwkv7", 1.0)
    assert swept(trainings) == trainings
    trainings[0]["ended_early"] = "pruned: validation loss 5.5 at step 4 is above 5.1"
    trainings[1]["ended_early"] = "validation loss 3.3 at step 9 reached the target"
    assert swept(trainings) == trainings[1:]
    trainings[2] |= {"ended_early": "in other words", "pruned": True}
    trainings[0]["pruned"] = False
    assert swept(trainings) == [trainings[0], trainings[1], *trainings[3:]]


def test_the_curve_is_the_best_division_of_the_compute() -> None:
    found = studied(1.0, noise=0.0).families[0]
    assert found.law is not None and not found.law.by_compute
    compute = np.geomspace(*found.span, 7)
    best, drawn = found.curve(compute)
    assert drawn.shape[1:] == best.shape == (7,)
    sizes = np.geomspace(SIZES[0], SIZES[-1], 2000)
    for one, value in zip(compute, best, strict=True):
        tokens = one / (6 * sizes)
        trained = (tokens > 0.999 * BUDGETS[0]) & (tokens < 1.001 * BUDGETS[-1])
        assert value == pytest.approx(loss(sizes, tokens)[trained].min(), rel=2e-3)
    assert best[0] == pytest.approx(loss(SIZES[0], BUDGETS[0]), rel=1e-3)
    assert best[-1] == pytest.approx(loss(SIZES[-1], BUDGETS[-1]), rel=1e-3)
    ends, _ = found.curve(np.array([compute[-1], 1.0001 * compute[-1]]))
    assert ends[0] == pytest.approx(ends[1], rel=1e-3)  # no step where it begins to be dashed


@pytest.mark.parametrize(("better", "sign"), [(0.95, -1), (1.05, 1)])
def test_who_is_better_at_equal_compute(better: float, sign: int) -> None:
    one = studied(better).comparisons[0]
    assert one.compute[0] < one.compute[1] < one.compute[2]
    for gap in one.differences:
        assert gap.low is not None and gap.high is not None
        assert gap.low < gap.value < gap.high
        assert sign * gap.low > 0 and sign * gap.high > 0
    word = "worse" if sign > 0 else "better"
    assert f"RWKV-7 predicts new text {word} than the Transformer" in scaling_text.headline(
        studied(better)
    )
    if sign < 0:
        assert 0 < one.saving.number < 1
        assert one.saving.high is not None and one.saving.high < 1
    else:
        assert one.saving.value is None  # its own largest compute does not suffice
        assert "did not reach the loss of the Transformer" in scaling_text.saving(one)


def test_equal_families_are_not_told_apart() -> None:
    """At 95 % few of many studies of equal families may find one better."""
    wrong = 0
    studies = {seed: studied(1.0, 0.01, seed) for seed in range(0, 12, 2)}
    for equal in studies.values():
        gap = equal.comparisons[0].differences[-1]
        assert gap.low is not None and gap.high is not None
        wrong += not gap.low <= 0 <= gap.high
    assert wrong <= 1
    text = scaling_text.headline(studies[2])
    assert "it is not decided whether RWKV-7 or the Transformer predicts new text better" in text


def test_too_few_trainings_are_shown_without_a_law() -> None:
    found = study([*grid("rwkv7", 1.0)[:4], *grid("transformer", 1.0)])
    assert found is not None
    assert found.families[0].law is None and found.comparisons == ()
    assert "too few or too similar to fit" in scaling_text.law_cells(found.families[0])
    assert scaling_text.growth(found.families[0]) == ""
    assert len(scaling_text.trial_cells(found.families[0])) == 4


def test_where_the_rwkv_loses_comes_first() -> None:
    def shifted(one: dict[str, Any]) -> dict[str, Any]:
        early = one["tokens"] < 4e5
        return {**one, "val_loss": one["val_loss"] * (1.05 if early else 0.93)}

    runs = [shifted(one) for one in grid("rwkv7", 1.0)] + grid("transformer", 1.0, 0.003)
    found = study(runs)
    assert found is not None
    text = scaling_text.comparison(found.comparisons[0])
    assert 0 <= text.find("worse") < text.find("better")


def test_a_study_that_shares_no_steps_says_nothing_of_it() -> None:
    runs = grid("rwkv7", 1.0)
    assert spending(runs) is None
    branch = {"path": "runs/a/trunk/checkpoints/step-00000009.ckpt", "step": 9}
    shared = [{**one, "parent": branch, "own_forward_flops": one["forward_flops"] // 4}
              for one in runs]  # fmt: skip
    spent = spending(shared)  # of the trunk only the longest part that was taken over is known
    assert spent is not None
    whole, most = sum(one["forward_flops"] for one in runs), shared[-1]["forward_flops"]
    assert spent.computed == pytest.approx(3 * (whole / 4 + 3 * most / 4))
    assert f"{spent.saving:.1f} times less" in scaling_text.shared(spent)
    del shared[0]["own_forward_flops"]
    assert spending(shared) is None


def test_whose_checkpoint_a_training_began_with_is_what_was_recorded(tmp_path: Path) -> None:
    """Not what it is called: every study has its trunk."""
    runs = []
    for group, flops in (("a", 100), ("b", 10_000)):
        checkpoint = tmp_path / group / "trunk" / "checkpoints" / "step-00000009.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_text(group)
        write_manifest(checkpoint)
        branch = {"path": str(checkpoint), "step": 9, "sha256": recorded_digest(checkpoint)}
        trunk = training("gpt", 1e6, 1.0, 3.0, name="trunk", last_rate=1, forward_flops=flops)
        runs.append(trunk | {"own_forward_flops": flops, "folder": str(tmp_path / group / "trunk")})
        runs += [
            training("gpt", 1e6, 1.0, 3.0, parent=branch, forward_flops=flops + own)
            | {"own_forward_flops": own, "folder": str(tmp_path / group / f"n{own}")}
            for own in (1, 2)
        ]
    assert origins(runs) == [None, runs[0], runs[0], None, runs[3], runs[3]]
    spent = spending(runs)
    assert spent is not None and spent.computed == 3 * (100 + 10_000 + 2 * (1 + 2))
    # Moved since: its checkpoints say which it is.
    (tmp_path / "b" / "trunk").rename(tmp_path / "b" / "longer")
    runs[3]["folder"] = str(tmp_path / "b" / "longer")
    assert origins(runs)[3:] == [None, runs[3], runs[3]]
    shutil.rmtree(tmp_path / "b" / "longer")
    assert origins(runs)[4] == str(tmp_path / "b" / "trunk")
