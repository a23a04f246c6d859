"""Shared by the tests of measurements."""

from __future__ import annotations

import pytest

from probes.measure import isolated, worker


@pytest.fixture(scope="session")
def baseline() -> int:
    return isolated.run(worker.calibrate, ("cpu", 1, "float32"), 120).facts["baseline_bytes"]
