"""Joules the device has used, from a counter of its own where the machine shows one.

On a GPU it is NVML's total-energy counter, on a CPU that of RAPL's packages (Linux, if it may be
read). Both count everything the device does, other processes and idling included, and nothing else
of the machine. Where there is none the answer is "unavailable" with the reason, never a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

POWERCAP = Path("/sys/class/powercap")
NVML_SHORTEST = 1.0  # seconds; the counter moves every 20 to 100 ms
RAPL_SHORTEST = 0.05  # it moves every millisecond


@dataclass(frozen=True)
class Counter:
    """Something to read before and after; `method` says what it is, or why it is missing."""

    method: str
    sources: tuple[Callable[[], float], ...] = ()
    """Each returns joules."""
    ranges: tuple[float, ...] = ()
    """At which each starts again from 0."""
    shortest: float = 0.0
    """Seconds of measurement below which the counter is too coarse."""

    def read(self) -> list[float]:
        """The present counts; none where there is no counter."""
        return [source() for source in self.sources]

    def since(self, before: Sequence[float]) -> float:
        """Joules since `before`, an earlier `read`; a counter that began anew is taken for that."""
        now = self.read()
        steps = zip(before, now, self.ranges, strict=True)
        return sum(
            after - before + (size if after < before else 0) for before, after, size in steps
        )


def find(device: str, powercap: Path = POWERCAP) -> Counter:
    """The counter of the device, if there is one that can be read."""
    return _nvml() if device == "cuda" else _rapl(powercap)


def mean(counter: Counter, joules: Sequence[float], seconds: float) -> tuple[float | None, str]:
    """Joules per repeat and how they were got, or `None` and why not."""
    if not counter.sources or not joules:
        return None, counter.method
    if seconds < counter.shortest:
        return None, (
            f"unavailable: {seconds:.2g} s of repeats are too short for {counter.method}, which "
            f"needs {counter.shortest:g} s"
        )
    return fmean(joules), counter.method


def _nvml() -> Counter:
    try:
        import pynvml
    except ImportError:
        return Counter("unavailable: the package nvidia-ml-py is not installed")
    try:
        import torch

        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception as error:  # a driver or card without the counter
        return Counter(f"unavailable: NVML says {type(error).__name__}: {error}")

    def joules() -> float:
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

    return Counter("NVML total energy", (joules,), (2**64 / 1e3,), NVML_SHORTEST)


def _rapl(powercap: Path) -> Counter:
    packages = []
    for zone in sorted(powercap.glob("*-rapl:*")):
        name = zone / "name"
        if zone.name.count(":") == 1 and name.is_file() and "package" in name.read_text():
            packages.append(zone)
    if not packages:
        return Counter(f"unavailable: no RAPL package under {powercap}")
    try:
        ranges = tuple(_joules(zone / "max_energy_range_uj") for zone in packages)
        sources = tuple(partial(_joules, zone / "energy_uj") for zone in packages)
        for source in sources:
            source()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return Counter(f"unavailable: RAPL cannot be read ({reason})")
    plural = "s" if len(packages) > 1 else ""
    return Counter(f"RAPL, {len(packages)} package{plural}", sources, ranges, RAPL_SHORTEST)


def _joules(path: Path) -> float:
    return int(path.read_text()) / 1e6
