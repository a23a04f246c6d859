"""The harness on a clock that only tells what the pieces take, and what it prints."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.harness import Row, Samples, interleave, table, timed
from tests.test_house import ROOT


class Clock:
    """Seconds that pass only when a piece of work says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], None]:
        def spend() -> None:
            self.now += seconds

        return spend


def test_time_is_that_of_a_call() -> None:
    clock = Clock()
    assert timed(clock.work(2.0), clock=clock)() == 2.0
    assert timed(clock.work(2.0), number=4, clock=clock)() == 2.0
    assert clock() == 10.0


def test_every_piece_is_measured_once_in_each_round_in_changing_order() -> None:
    random.seed(0)
    order: list[str] = []

    def piece(name: str) -> Callable[[], float]:
        return lambda: float(order.append(name) or len(order))

    found = interleave({name: piece(name) for name in "abc"}, rounds=20, warmup=2)
    rounds = [order[start : start + 3] for start in range(0, len(order), 3)]
    assert len(rounds) == 22 and all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1
    assert {len(samples.values) for samples in found.values()} == {20}
    assert min(min(samples.values) for samples in found.values()) == 7  # two rounds of three before


def test_drift_of_the_machine_leaves_ratios_alone() -> None:
    clock, calls = Clock(), itertools.count()

    def piece(seconds: float) -> Callable[[], float]:
        """Takes twice as long in the second round of two pieces, and so on."""
        return lambda: timed(clock.work(seconds * (1 + next(calls) // 2)), clock=clock)()

    found = interleave({"ours": piece(1.0), "theirs": piece(3.0)}, rounds=5, warmup=0)
    assert found["ours"].spread() == "3.00 (1.00 to 5.00)"
    assert found["theirs"].over(found["ours"]).spread() == "3.00 (3.00 to 3.00)"


def test_samples() -> None:
    seconds = Samples((4.0, 1.0, 2.0, 3.0, 5.0))
    assert (seconds.median, seconds.best, seconds.quartiles) == (3.0, 1.0, (2.0, 4.0))
    assert seconds.middle(".1f") == "3.0 (2.0 to 4.0)"
    assert seconds.spread(".0%") == "300% (100% to 500%)"
    assert seconds.scaled(2).values == (8.0, 2.0, 4.0, 6.0, 10.0)
    assert seconds.rates(20).values == (5.0, 20.0, 10.0, 20 / 3, 4.0)
    assert seconds.over(seconds).values == (1.0,) * 5
    assert Samples((7.0,)).quartiles == (7.0, 7.0)
    with pytest.raises(ValueError, match="zip"):
        seconds.over(Samples((1.0,)))


def test_a_table_is_markdown_and_fills_missing_figures() -> None:
    rows = [Row("x", ("1 ms", "<= 2 ms")), Row("y", ("not measured",))]
    assert [*table(("what", "measured", "goal"), rows, "Time")] == [
        "## Time",
        "",
        "| what | measured | goal |",
        "|---|--:|--:|",
        "| x | 1 ms | <= 2 ms |",
        "| y | not measured |  |",
    ]


def test_a_record_says_where_it_comes_from_and_is_written_when_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = ROOT / "benchmarks" / "loop.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--seed", "-1", "--out", str(tmp_path)])
    arguments = harness.parse(harness.parser("A title.\n\nMore.", rounds=3))
    assert arguments.rounds == 3 and arguments.seed >= 0
    harness.publish("A title", ["a line"], packages=("torch", "no-such"), arguments=arguments)
    (file,) = tmp_path.iterdir()
    text = file.read_text()
    assert capsys.readouterr().out.startswith(text)
    title, _, machine, versions, command, *rest = text.splitlines()
    assert title == "# A title" and rest == ["", "a line"]
    assert "threads" in machine and "torch " in versions and "no-such is missing" in versions
    assert f"`python benchmarks/loop.py --seed -1 --out {tmp_path}`" in command
    assert f"seed {arguments.seed}" in command and "commit " in command


def test_a_row_is_printed_before_the_next_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> Iterator[Row]:
        yield Row("first", ())
        assert "| first |" in capsys.readouterr().out
        yield Row("second", ())

    harness.publish("A title", table(("what",), rows()))
    assert "| second |" in capsys.readouterr().out


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)

sys.meta_path.insert(0, Blocked())
import benchmarks.decode, benchmarks.gpu, benchmarks.gpu_checks, benchmarks.kernels, benchmarks.wkv7
benchmarks.kernels.check("T=1", ["reference"])
"""
MISSING = {
    "lightning", "hydra", "omegaconf", "wandb", "psutil", "tokenizers", "safetensors", "plotly",
    "transformers", "rwkv", "datasets", "yaml", "rich", "scipy", "pydantic", "matplotlib",
}  # fmt: skip
"""Packages that a machine for the GPU's benchmarks need not have."""


def test_benchmarks_of_a_gpu_need_nothing_but_torch() -> None:
    command = [sys.executable, "-c", BLOCKED.format(names=MISSING)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
