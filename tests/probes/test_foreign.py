"""Report, scaling study and planner over models of others: what they say, never their names."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from conf.schema import MachineConf, PlanConf
from core.errors import UserError
from models.registry import nature
from models.step_trace import trace
from probes.analysis import crossovers
from probes.analysis.dataset import Dataset, collect
from probes.analysis.scaling_study import study
from probes.plan import cost_model
from probes.plan.cost_model import CostModel
from probes.plan.plan import SEGMENTS, Planner
from probes.report import answer, narrative, scaling_text, write
from probes.rows import Row, label_of, read_rows
from tests.probes.synthetic import LENGTHS, make_row, write_run
from tests.probes.trainings import grid
from tests.registered_models import spec_of

MINE, RWKVISH = "mine", "rwkvish"
SECONDS = {MINE: lambda at: 2 + 1e-3 * at, RWKVISH: lambda at: 1 + 5e-4 * at + 3e-7 * at**2}


def says(name: str, **config: Any) -> dict[str, Any]:
    """What rows and summaries hold about it."""
    spec = spec_of(name, **config)
    said = asdict(nature(spec.target, spec.config))
    return {"target": spec.target, "config": spec.config, **said}


def rows() -> list[Row]:
    return [
        make_row(name, "train", length, process=process, seconds=[cost(length)] * 3, **says(name))
        for name, cost in SECONDS.items()
        for length in LENGTHS
        for process in range(2)
    ]


def collected(folder: Path, measured: list[Row]) -> Dataset:
    return collect([write_run(folder / "run", measured)])


def test_options_are_those_of_the_class() -> None:
    assert says(RWKVISH, sharpness=2.0)["options"] == {"sharpness": 2.0}
    assert label_of(spec_of(RWKVISH, sharpness=2.0)) == "rwkvish sharpness 2.0"
    assert label_of(spec_of(RWKVISH, sharpness=1.0)) == "rwkvish"


@pytest.mark.usefixtures("no_pictures")
def test_the_report_compares_what_they_are(tmp_path: Path) -> None:
    dataset = collected(tmp_path, rows())
    assert [(mine.label, other.label) for mine, other in dataset.pairs] == [(MINE, RWKVISH)]
    found = crossovers.comparisons(dataset)
    time = next(one for one in found if one.measure.key == "train")
    assert time.kind == "crosses" and 2048 < time.crossings[0].number < 4096
    headline = answer.headline(dataset, found)
    assert "the minimal GRU" in headline and "the plain attender" in headline
    text = " ".join(text for _, block in narrative.story(dataset, found) for text in block)
    assert "RWKV" not in headline + text
    write.write_report([tmp_path / "run"], tmp_path / "out", 256, 8192, False)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "the minimal GRU" in page and "RWKV" not in page.replace("rwkvish", "")


def test_rows_from_before_models_said_what_they_are(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rows())
    path = folder / "probes.jsonl"
    old = [json.loads(line) for line in path.read_text().splitlines()]
    for row in old:
        for key in ("recurrent", "title", "options"):
            del row[key]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in old))
    assert {(row.model, row.recurrent) for row in read_rows(path)} == {
        (MINE, True),
        (RWKVISH, False),
    }


def test_the_scaling_study_compares_what_they_are() -> None:
    trainings = [
        {**one, **says(name)}
        for name, factor in ((RWKVISH, 1.0), (MINE, 0.9))
        for one in grid(name, factor, 0.003)
    ]
    found = study(trainings)
    assert found is not None
    (one,) = found.comparisons
    assert (one.recurrent.label, one.attention.label) == (MINE, RWKVISH)
    assert (
        "the minimal GRU predicts new text better than the plain attender"
        in scaling_text.headline(found)
    )
    alone = study(trainings[len(trainings) // 2 :])
    assert alone is not None
    assert "a recurrent and an attention model" in scaling_text.headline(alone)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces of 16 tokens and up, so that a loop over tokens is traced soon."""
    monkeypatch.setattr(cost_model, "chunk_tokens", lambda device, vocab: 8)
    monkeypatch.setattr(cost_model, "DIRECT_LENGTH", 32)


@pytest.mark.parametrize("name", [MINE, RWKVISH])
def test_a_plan_scales_what_is_traced(name: str, short: None) -> None:
    """Also where a longer sequence is more operations."""
    spec = spec_of(name, n_layer=4)
    work = CostModel(spec, "cpu", "32-true").work(1, 48, False)
    ops = trace(spec, 1, 48, 4, "cpu", "32-true", False)
    few, more = (work.ops[layers] for layers in cost_model.LAYERS)
    for quantity in ("flops", "bytes", "count"):
        at = [sum(getattr(op, quantity) for op in one) for one in (few, more)]
        real = sum(getattr(op, quantity) for op in ops)
        assert at[0] + 2 * (at[1] - at[0]) == pytest.approx(real, rel=0.02), quantity
    peak = max(op.activations + op.gradients for op in ops)
    assert work.moments.sum(axis=1).max() == pytest.approx(peak, rel=0.05)


def test_operations_that_do_not_scale_are_refused(
    short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uneven(spec: Any, batch: int, length: int, *rest: Any) -> Any:
        ops = trace(spec, batch, length, *rest)
        return [replace(op, bytes=op.bytes * length) for op in ops]

    monkeypatch.setattr(cost_model, "trace", uneven)
    with pytest.raises(UserError, match=r"mine cannot be planned at 201 tokens: its operations"):
        CostModel(spec_of(MINE, n_layer=5), "cpu", "32-true").work(1, 201, False)


def test_only_a_recurrent_model_is_planned_in_segments(short: None) -> None:
    conf = PlanConf(segment=16)
    machine = MachineConf(
        flops_fp32=1e12, flops_bf16=1e12, memory_bytes=1e9, memory_bytes_s=1e10,
        matmul_efficiency=1.0, attention_efficiency=1.0, memory_efficiency=1.0,
        recurrence_flops=1e12, device="cpu", title="a machine",
    )  # fmt: skip
    conf.machine = machine
    for name, expected in ((MINE, True), (RWKVISH, False)):
        plan = Planner(spec_of(name), conf).plan(32)
        assert any(row.variant == SEGMENTS for row in plan.rows) is expected
        assert bool(plan.sizes.state_bytes) is expected
