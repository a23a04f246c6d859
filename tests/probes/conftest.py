"""Shared by the tests of the instruments."""

from __future__ import annotations

import pytest

from probes.report import figures


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are written without their pictures, which take most of the time."""
    monkeypatch.setattr(figures, "draw_all", lambda analysis, folder: [])
