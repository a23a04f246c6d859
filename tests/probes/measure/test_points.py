from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from conf.schema import PROBES, ProbeConf
from core.errors import UserError
from models.registry import ModelSpec
from probes.measure.points import ONE_SEQUENCE, left_out, list_points

SPECS = [ModelSpec(name, "tiny", f"models.{name}.X", {}) for name in ("a", "b", "c")]


def conf(**changes: Any) -> ProbeConf:
    return ProbeConf(**{"lengths": [256, 1024, 4096, 16384], "fixed_tokens": 4096} | changes)


def test_batches_fill_the_fixed_tokens() -> None:
    points = list_points(SPECS, conf())
    fixed = {point.length: point.batch for point in points if point.sweep == "fixed_tokens"}
    assert fixed == {256: 16, 1024: 4, 4096: 1}
    single = {(point.length, point.batch) for point in points if point.sweep == "batch_1"}
    assert single == {(256, 1), (1024, 1), (4096, 1), (16384, 1)}


def test_decode_has_one_sweep_and_nothing_is_twice() -> None:
    points = list_points(SPECS, conf(probes=["train", "prefill", "decode"]))
    counts = Counter((point.probe, point.sweep, point.spec.name) for point in points)
    for spec in SPECS:
        assert counts["decode", "batch_1", spec.name] == 4
        assert counts["decode", "fixed_tokens", spec.name] == 0
        assert counts["train", "batch_1", spec.name] == 4
        assert counts["train", "fixed_tokens", spec.name] == 3
    assert len({str(point) for point in points}) == len(points) == 3 * (4 + 2 * 7)


@pytest.mark.parametrize("probe", PROBES)
def test_every_probe_has_points_of_batch_1(probe: str) -> None:
    points = list_points(SPECS, conf(probes=[probe]))
    sweeps = Counter(point.sweep for point in points)
    assert sweeps["batch_1"] == 3 * 4
    assert sweeps["fixed_tokens"] == (0 if probe in ONE_SEQUENCE else 3 * 3)


def test_models_take_turns_in_changing_order() -> None:
    points = list_points(SPECS, conf())
    turns = [points[start : start + 3] for start in range(0, len(points), 3)]
    for turn in turns:
        assert {point.spec.name for point in turn} == {"a", "b", "c"}
        assert len({(point.probe, point.sweep, point.length) for point in turn}) == 1
    assert len({tuple(point.spec.name for point in turn) for turn in turns}) > 1


def test_every_process_is_a_pass_over_all_points_in_its_own_order() -> None:
    once = list_points(SPECS, conf())
    points = list_points(SPECS, conf(processes=[3]))
    passes = [points[start : start + len(once)] for start in range(0, len(points), len(once))]
    assert passes[0] == once
    for process, own in enumerate(passes):
        assert {point.process for point in own} == {process}
    orders = [[str(replace(point, process=0)) for point in own] for own in passes]
    assert all(sorted(order) == sorted(map(str, once)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert len(set(map(str, points))) == len(points)


def test_lengths_may_differ_in_their_processes() -> None:
    lengths = {64: 3, 256: 2, 1024: 1}
    points = list_points(SPECS, conf(lengths=[*lengths], processes=[*lengths.values()]))
    for length, processes in lengths.items():
        found = Counter(point.process for point in points if point.length == length)
        assert sorted(found) == [*range(processes)] and len(set(found.values())) == 1
    once = list_points(SPECS, conf(lengths=[*lengths]))
    assert points[: len(once)] == once


def test_order_depends_on_the_seed_alone() -> None:
    assert list_points(SPECS, conf()) == list_points(SPECS, conf())
    other = list_points(SPECS, conf(seed=1))
    assert other != list_points(SPECS, conf())
    assert Counter(map(str, other)) == Counter(map(str, list_points(SPECS, conf())))


def test_what_is_left_out_is_said() -> None:
    assert left_out(conf(lengths=[256], sweeps=["fixed_tokens", "batch_1"])) == []
    (notice,) = left_out(conf())
    assert "16384" in notice
    both = ["train", "ttft", "decode"]
    (notice,) = left_out(conf(lengths=[256], probes=both, sweeps=["fixed_tokens"]))
    assert notice == "ttft, decode are left out: measured in the batch_1 sweep only"
    (notice,) = left_out(conf(lengths=[256], probes=["decode"], sweeps=["fixed_tokens"]))
    assert notice == "decode is left out: measured in the batch_1 sweep only"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probes": ["train", "sprint"]}, "sprint"),
        ({"sweeps": ["batch_2"]}, "batch_2"),
        ({"sweeps": ["batch_1", "batch_1"]}, "twice"),
        ({"lengths": [256, 0]}, "lengths"),
        ({"repeats": 0}, "repeats"),
        ({"processes": [0]}, "processes"),
        ({"processes": [2, 2]}, "processes"),
        ({"probes": ["max_batch"], "sweeps": ["fixed_tokens"]}, "nothing to measure"),
        ({"probes": ["decode"], "sweeps": ["fixed_tokens"]}, "nothing to measure"),
        ({"lengths": [8192], "sweeps": ["fixed_tokens"]}, "nothing to measure"),
        ({"lengths": []}, "nothing to measure"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list_points(SPECS, conf(**changes))


def test_no_model() -> None:
    with pytest.raises(UserError, match="model"):
        list_points([], conf())
