"""What every HTML page of ours has: one file that works offline, its head, title and warnings.

`page/frame.html` is the frame and `page/page.css` its styles, for whatever `{{body}}` it is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from probes.report.markup import prose

PAGE = Path(__file__).parent / "assets"
SCRIPTS = "script-src 'unsafe-inline'; "  # of the policy; without it no script can run


def read(name: str) -> str:
    """A file of `page/`, without white space around it."""
    return (PAGE / name).read_text(encoding="utf-8").strip()


def framed(
    body: str,
    parts: Mapping[str, str],
    warnings: Iterable[str],
    title: str,
    headline: str,
    facts: Iterable[str],
    quiet: str = "",
    scripts: bool = False,
) -> str:
    """The whole file: `body` in the frame, every `{{name}}` in it replaced by its part.

    `warnings` stand above everything else; `quiet` is the sentence about the machine below the
    headline, empty where it is not known.
    """
    texts = {
        **parts,
        "title": escape(title),
        "headline": prose(headline),
        "meta": " · ".join(f'<span class="nowrap">{escape(fact)}</span>' for fact in facts if fact),
        "quiet": f'<p class="meta">{prose(quiet)}</p>' if quiet else "",
        "warnings": "".join(f'<p class="warning">{prose(warning)}</p>' for warning in warnings),
        "css": read("page.css"),
        "scripts": SCRIPTS if scripts else "",
    }
    whole = (PAGE / "frame.html").read_text(encoding="utf-8").replace("{{body}}", body)
    return re.sub(r"\{\{(\w+)\}\}", lambda match: texts[match[1]], whole)
