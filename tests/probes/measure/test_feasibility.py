"""Points that cannot end well are named as such, and only those."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from models.registry import build
from probes.measure.feasibility import Predictor
from probes.measure.points import Point
from probes.rows import OOM, PREDICTED_OOM, PREDICTED_TIMEOUT, TIMEOUT, Row
from tests.probes.measure.child_tasks import TASK
from tests.probes.specs import rwkv4, transformer
from tests.probes.synthetic import make_row

GIB = 1 << 30
SPEC = transformer()


def point(length: int, probe: str = "train", batch: int = 1, sweep: str = "batch_1") -> Point:
    return Point(SPEC, probe, sweep, length, batch)


def task(one: Point, **changes: Any) -> Any:
    told = {"spec": one.spec, "probe": one.probe, "length": one.length, "batch": one.batch}
    return replace(TASK, **told | {"warmup": 1, "repeats": 4, "memory_bytes": GIB} | changes)


def row(length: int, *seconds: float, peak: int = 1 << 20, **changes: Any) -> Row:
    repeats = list(seconds or [0.1])
    told = {"target": SPEC.target, "config": SPEC.config, "seconds": repeats, "peak_bytes": peak}
    return make_row("transformer", "train", length, **told | changes)


def taught(*rows: Row, timeout_s: float = 10.0, peak_flops: float | None = None) -> Predictor:
    predictor = Predictor(timeout_s, peak_flops)
    for one in rows:
        predictor.learn(one, GIB)
    return predictor


def ending(predictor: Predictor, one: Point, **changes: Any) -> tuple[str, str] | None:
    outcome = predictor.impossible(one, task(one, **changes))
    if outcome is None:
        return None
    assert outcome.error and outcome.error.startswith("not tried: ")
    return outcome.status, outcome.error


def test_nothing_known_is_tried() -> None:
    assert ending(taught(), point(1 << 20)) is None
    assert ending(taught(row(64)), point(1 << 20)) is None, "one point makes no line"


def test_a_line_through_two_times_is_the_least() -> None:
    """0.1 s at 100 and 0.2 s at 200 tokens: 2 s a repeat at 2,000, five repeats are 10 s."""
    predictor = taught(row(100, 0.1), row(200, 0.2))
    assert ending(predictor, point(1900)) is None
    status, error = ending(predictor, point(2100)) or ("", "")
    assert status == PREDICTED_TIMEOUT
    assert "at least 10 s by the times at 100 and 200 tokens, the limit is 10 s" in error


def test_constant_and_falling_costs_are_not_extrapolated_upwards() -> None:
    predictor = taught(row(100, 1.0), row(200, 0.9))
    assert ending(predictor, point(1 << 30)) is None


def test_noise_is_taken_for_the_lower_line() -> None:
    noisy = [row(100, 0.1, 0.3), row(200, 0.25, 0.5)]
    assert ending(taught(*noisy), point(1 << 30)) is None


def test_a_line_through_two_peaks() -> None:
    predictor = taught(row(100, peak=GIB // 100), row(200, peak=GIB // 50))
    assert ending(predictor, point(10_000)) is None
    status, error = ending(predictor, point(20_000)) or ("", "")
    assert status == PREDICTED_OOM
    assert "at least 2.00 GiB by the peaks at 100 and 200 tokens, the limit is 1.00 GiB" in error


@pytest.mark.parametrize(
    ("status", "expected"), [(OOM, PREDICTED_OOM), (TIMEOUT, PREDICTED_TIMEOUT)]
)
def test_a_shorter_context_that_failed(status: str, expected: str) -> None:
    predictor = taught(row(1000, seconds=[], status=status))
    told = ending(predictor, point(2000))
    assert told and told[0] == expected and "1,000 tokens" in told[1]
    assert ending(predictor, point(500)) is None, "a longer one says nothing about a shorter one"
    assert ending(predictor, point(2000, batch=2)) is None
    assert ending(predictor, point(2000, probe="prefill")) is None
    assert ending(predictor, point(2000), memory_bytes=2 * GIB) is None, "it may fit by now"


def test_tensors_that_must_exist() -> None:
    weights = sum(parameter.numel() for parameter in cast(Any, build(SPEC)).parameters())
    training = point(8)
    assert ending(taught(), training, memory_bytes=8 * weights + 1000) is None
    told = ending(taught(), training, memory_bytes=8 * weights - 1000)
    assert told and told[0] == PREDICTED_OOM and "weights and gradients alone" in told[1]
    cache = 2 * 2 * 64 * 4  # keys and values of two layers, bytes per token
    decoding = point(1 << 20, "decode")
    assert ending(taught(), decoding, memory_bytes=4 * weights + (cache << 20) + 1000) is None
    told = ending(taught(), decoding, memory_bytes=cache << 20)
    assert told and told[0] == PREDICTED_OOM and "weights and state alone" in told[1]
    recurrent = Point(rwkv4(), "decode", "batch_1", 1 << 20, 1)
    assert ending(taught(), recurrent, memory_bytes=cache << 20) is None, "its state is constant"


def test_work_that_no_device_does_in_time() -> None:
    one = point(4096)
    work = 5 * 3 * cast(Any, build(SPEC)).flops(1, 4096)
    assert ending(taught(peak_flops=work / 19), one) is None
    told = ending(taught(peak_flops=work / 21), one)
    assert told and told[0] == PREDICTED_TIMEOUT and "twice the highest rate" in told[1]
    assert ending(taught(peak_flops=1.0), point(4096, "max_batch")) is None


def test_a_model_that_cannot_be_built_is_left_to_its_child() -> None:
    broken = Point(transformer(n_head=3), "train", "batch_1", 64, 1)
    assert ending(taught(peak_flops=1.0), broken) is None
