"""The energy counter, on a folder that looks like the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import energy


def zone(folder: Path, name: str, kind: str, joules: float, size: float = 1000.0) -> Path:
    path = folder / name
    path.mkdir()
    (path / "name").write_text(f"{kind}\n")
    (path / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    (path / "max_energy_range_uj").write_text(f"{int(size * 1e6)}\n")
    return path


def spend(path: Path, joules: float) -> None:
    (path / "energy_uj").write_text(f"{int(joules * 1e6)}\n")


def test_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 10)
    part = zone(tmp_path, "intel-rapl:0:0", "core", 5)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 20)
    other = zone(tmp_path, "intel-rapl:2", "psys", 99)
    counter = energy.find("cpu", tmp_path)
    assert counter.method == "RAPL, 2 packages"
    before = counter.read()
    for path, joules in ((first, 13), (part, 500), (second, 21), (other, 700)):
        spend(path, joules)
    assert counter.since(before) == pytest.approx(4)


def test_a_counter_that_begins_anew(tmp_path: Path) -> None:
    path = zone(tmp_path, "intel-rapl:0", "package-0", 998)
    counter = energy.find("cpu", tmp_path)
    before = counter.read()
    spend(path, 5)
    assert counter.since(before) == pytest.approx(7)


def test_the_mean_of_repeats_and_too_short_ones(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    counter = energy.find("cpu", tmp_path)
    assert energy.mean(counter, [1.0, 3.0], 2.0) == (2.0, "RAPL, 1 package")
    joules, why = energy.mean(counter, [1.0, 3.0], 0.01)
    assert joules is None and why.startswith("unavailable: 0.01 s of repeats are too short")


def test_unavailable_says_why(tmp_path: Path) -> None:
    counter = energy.find("cpu", tmp_path)
    assert counter.method == f"unavailable: no RAPL package under {tmp_path}"
    assert counter.since(counter.read()) == 0
    assert energy.mean(counter, [0.0], 10.0) == (None, counter.method)
    path = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (path / "energy_uj").unlink()
    counter = energy.find("cpu", tmp_path)
    assert counter.method == "unavailable: RAPL cannot be read (No such file or directory)"
    assert not counter.sources
