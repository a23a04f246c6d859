"""The audit of pages finds what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import audit, needs_browser, violations

FAULTY = """<!doctype html><html lang="en"><head><meta name="viewport" content="width=device-width">
<title>Faulty</title></head><body><main><h1>One</h1><h3>Three</h3><input id="bare">
<p style="color:#aaa;background:#fff">pale</p><div aria-label="of nothing">text</div>
<div id="twice" style="width:2000px">wide</div><p id="twice">again</p><button></button>
<script>throw new Error("broken")</script></main></body></html>"""


@needs_browser
@pytest.mark.slow
def test_axe_finds_what_is_wrong(tmp_path: Path) -> None:
    found = violations(tmp_path, FAULTY.replace('<script>throw new Error("broken")</script>', ""))
    assert {one.partition(":")[0] for one in found} >= {"button-name", "label", "color-contrast"}


@needs_browser
def test_the_audit_finds_what_is_wrong(tmp_path: Path) -> None:
    _, phone = audit(tmp_path, FAULTY)
    expected = (
        "error: Uncaught Error: broken", "wider than the window", "heading h3 after h1",
        "no label: input#bare", "no name: button", "a label of what has no role", "an id twice",
        "contrast 2.32: p pale",
    )  # fmt: skip
    for problem in expected:
        assert any(one.startswith(problem) for one in phone["problems"]), (problem, phone)
