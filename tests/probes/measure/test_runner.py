"""What is settled before a sweep: the number of threads, and that there are kernels."""

from __future__ import annotations

import pytest

from conf.schema import ProbeConf
from core.errors import UserError
from probes.measure.isolated import Outcome
from probes.measure.runner import SweepRunner, choose_threads
from tests.probes.test_rows import make_row


def test_a_sweep_keeps_its_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("probes.measure.counters.disturbance.free_cores", lambda: (3, 4))
    monkeypatch.setattr("core.environment.cpu_name", lambda: "x")
    assert choose_threads("auto", "cpu", []) == (3, "auto: 3 of 4 cores were free")
    assert choose_threads("auto", "cpu", [make_row()]) == (2, "as in the rows before")
    other = make_row(device={"kind": "cpu", "name": "y", "threads": 2})
    assert choose_threads("auto", "cpu", [other])[0] == 3
    assert choose_threads("0", "cpu", []) == (0, "PyTorch's default")
    assert choose_threads(5, "cpu", [make_row()])[0] == 5
    for bad in ("many", "-1", "1.5"):
        with pytest.raises(UserError, match="threads="):
            choose_threads(bad, "cpu", [])


def test_the_users_limit_on_threads_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probes.measure.counters.disturbance.free_cores", lambda: (3, 4))
    monkeypatch.setattr("core.environment.cpu_name", lambda: "x")
    two = [make_row()]
    for limit, expected in (
        ("2,1", (2, "as in the rows before")),
        ("8", (2, "as in the rows before")),
        ("", (2, "as in the rows before")),
        ("many", (2, "as in the rows before")),
    ):
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
        assert choose_threads("auto", "cpu", two) == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    told = "auto: 3 of 4 cores were free, OMP_NUM_THREADS allows 1"
    assert choose_threads("auto", "cpu", []) == (1, told)
    with pytest.raises(UserError, match="allows 1 of the 2 threads that the rows of this group"):
        choose_threads("auto", "cpu", two)
    assert choose_threads(2, "cpu", two) == (2, "2 were asked for")
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    assert choose_threads("auto", "cpu", []) == (3, "auto: 3 of 4 cores were free")


def test_a_gpu_without_kernels_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts = {"no_kernels": {"wkv7": "cuda-core is not installed"}, "baseline_bytes": 1}
    asked = []

    def child(work: object, arguments: tuple[object, ...], seconds: float) -> Outcome:
        asked.append(arguments)
        return Outcome("ok", None, facts)

    monkeypatch.setattr("probes.measure.isolated.run", child)
    conf = ProbeConf(threads="2", precision="bfloat16")
    with pytest.raises(UserError, match=r"wkv7 .*cuda-core is not.* model\.wkv=reference"):
        SweepRunner(conf, "cuda", operators=["wkv7"])
    assert asked == [("cuda", 2, "bfloat16", ["wkv7"])]
