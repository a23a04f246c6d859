"""The benchmark of elementwise formulas: every one is listed, and its ways agree."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import elementwise
from benchmarks.elementwise import FORMULAS, HEAD, inputs, often, summary
from benchmarks.harness import Samples
from benchmarks.operators import passes
from models.ops import build
from models.ops.elementwise import kernels
from models.ops.elementwise.fused import Fused
from models.ops.elementwise.kernels import Kernel


def test_every_native_kernel_is_measured() -> None:
    known = {id(value) for value in vars(kernels).values() if isinstance(value, Kernel)}
    fused = [native for native, _, _ in FORMULAS.values() if isinstance(native, Fused)]
    assert {id(native.kernel) for native in fused} == known
    assert FORMULAS.keys() - {native.__name__ for native in fused} == {"rotate"}


@pytest.mark.parametrize("name", FORMULAS)
def test_native_and_eager_compute_the_same(name: str) -> None:
    native, plain, kinds = FORMULAS[name]
    torch.manual_seed(0)
    given = inputs(kinds, 5, 2 * HEAD)
    for ours, true in zip(
        passes(native, given, backward=True)(), passes(plain, given, backward=True)(), strict=True
    ):
        torch.testing.assert_close(ours, true, rtol=1e-3, atol=1e-3)


def test_the_summary_counts_what_quartiles_decide() -> None:
    def case(eager: float, compiled: float) -> dict[str, Samples]:
        seconds = {"native": 1.0, "eager": eager, "compiled": compiled}
        return {way: Samples((value,) * 3) for way, value in seconds.items()}

    eager, compiled = summary([case(2.0, 0.5), case(3.0, 1.0), case(4.0, 2.0)])
    assert "eager takes 3.00 times" in eager and "slower in 3 and faster in 0" in eager
    assert "compiled takes 1.00 times" in compiled and "slower in 1 and faster in 1" in compiled


def test_short_work_is_repeated() -> None:
    calls: list[int] = []
    measure = often(lambda: calls.append(1))
    before = len(calls)
    measure()
    assert len(calls) - before > 100


def test_the_second_call_finds_what_the_first_one_left(monkeypatch: pytest.MonkeyPatch) -> None:
    caches: dict[str, int] = {}

    def first_calls(way: str, names: list[str], shape: tuple[int, int], folder: str) -> Any:
        assert Path(folder).is_dir()
        caches[folder] = caches.get(folder, 0) + 1
        return 10.0 / caches[folder], 4.0

    monkeypatch.setattr(elementwise, "first_calls", first_calls)
    rows = [*elementwise.first_call_rows(["gate", "swiglu"], (4, HEAD))]
    assert [row.what for row in rows] == [
        "gate, native", "gate, compiled", "all 2, native", "all 2, compiled"
    ]  # fmt: skip
    assert {tuple(row.figures) for row in rows} == {("10.00 s (4.00 s)", "5.00 s (4.00 s)")}
    assert [*caches.values()] == [2] * 4


def test_a_first_call_has_its_own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "cache_dir", build.cache_dir)  # they are put back afterwards
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "2")
    wall, processor = elementwise.call_first("native", ["gate"], (4, HEAD), str(tmp_path))
    assert wall > 0 and processor >= 0
    assert build.cache_dir() == tmp_path
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
