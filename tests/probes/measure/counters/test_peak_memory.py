import sys

import pytest

from probes.measure import isolated
from probes.measure.counters import peak_memory
from tests.probes import works

MIB = 1 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_known_block_is_measured() -> None:
    facts = isolated.run(works.allocate, (200 * MIB, None), 60).facts
    assert facts["peak"] - facts["before"] == pytest.approx(200 * MIB, rel=0.1)


def test_what_was_freed_before_does_not_count() -> None:
    """A block twice the size, gone before the reset, must not show in the peak."""
    facts = isolated.run(works.allocate, (200 * MIB, None, 400 * MIB), 60).facts
    assert facts["peak"] - facts["before"] == pytest.approx(200 * MIB, rel=0.1)


def test_every_child_starts_afresh() -> None:
    """The same small figure before and after a large child, whatever this process holds."""
    held = bytearray(300 * MIB)
    small = isolated.run(works.allocate, (MIB, None), 60).facts["peak"]
    isolated.run(works.allocate, (400 * MIB, None), 60)
    again = isolated.run(works.allocate, (MIB, None), 60).facts["peak"]
    assert abs(again - small) < 10 * MIB
    assert small < peak_memory.peak("cpu") - 200 * MIB
    del held
