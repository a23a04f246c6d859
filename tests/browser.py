"""Pages in a headless Chromium: what it makes of them, and what a reader with a screen reader, a
keyboard or a phone would stumble over."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium on this machine, the page is not drawn"
)
SCREENS = ((1280, 800), (390, 844))
"""Width and height of a window and of a phone."""


def run(folder: Path, url: str, *arguments: str) -> str:
    """What the browser writes when it has opened `url`; `folder` holds its profile."""
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}", *arguments, url,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def browse(folder: Path, path: Path, *arguments: str) -> str:
    """The DOM after the scripts ran, less the scripts; or what the arguments ask for."""
    dom = run(folder, path.as_uri(), *(arguments or ("--dump-dom",)))
    return re.sub(r"<script.*?</script>", "", dom, flags=re.S)


def scripted(folder: Path, path: Path, script: str) -> Path:
    """A copy of the page that does something once it is drawn."""
    copy = folder / "scripted.html"
    copy.write_text(path.read_text().replace("</body>", f"<script>{script}</script></body>"))
    return copy


def audit(folder: Path, page: str, dark: bool = False) -> list[dict[str, Any]]:
    """For each of `SCREENS`, how high and wide a page is there, and its `problems` as `CHECKS`
    finds them, everything that is folded away opened for these."""
    first = re.search(r"<html[^>]*>(\s*<head>)?", page)
    assert first
    shown = f"{page[: first.end()]}<script>{CHECKS}</script>{page[first.end() :]}"
    frames = "".join(
        f'<iframe width="{width}" height="{height}" srcdoc="{escape(shown)}"></iframe>'
        for width, height in SCREENS
    )
    collect = """
      const frames = [...document.querySelectorAll('iframe')];
      const found = frames.map((one) => one.contentWindow.audit());
      document.body.dataset.found = JSON.stringify(found);
    """
    wrapper = folder / "frames.html"
    wrapper.write_text(f"<body>{frames}<script>onload = () => {{{collect}}}</script></body>")
    scheme = "--blink-settings=preferredColorScheme=" + ("0" if dark else "1")
    dom = run(folder, wrapper.as_uri(), "--virtual-time-budget=3000", scheme, "--dump-dom")
    found = re.search(r'data-found="([^"]*)"', dom)
    assert found, dom[-500:]
    said = found[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">")
    answers: list[dict[str, Any]] = json.loads(said.replace("&amp;", "&"))
    return answers


def violations(folder: Path, page: str) -> list[str]:
    """What axe-core finds wrong with a page whose folded parts are open."""
    axe = pytest.importorskip("axe_core_python")
    rules = Path(axe.__file__).with_name("axe.min.js").read_text()
    ask = """
      document.querySelectorAll('details').forEach((one) => { one.open = true; });
      axe.run().then((found) => {
        const said = found.violations.map((one) => `${one.id}: ${one.nodes[0].html.slice(0, 80)}`);
        document.body.dataset.violations = said.join('|') || 'none of ' + found.passes.length;
      });
    """
    script = f"<script>{rules}</script><script>addEventListener('load', () => {{{ask}}});</script>"
    path = folder / "axe.html"
    path.write_text(page.replace("</main>", f"</main>{script}"))
    dom = run(folder, path.as_uri(), "--virtual-time-budget=60000", "--dump-dom")
    found = re.search(r'data-violations="([^"]*)"', dom)
    assert found, dom[-500:]
    return [] if re.fullmatch(r"none of [1-9]\d*", found[1]) else found[1].split("|")


CHECKS = Path(__file__).with_name("page_audit.js").read_text()
"""Defines `audit()`: contrast, labels, order of headings, landmarks, overflow, errors."""
