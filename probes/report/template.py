"""Pages from the templates in `assets/`: each is one file that works offline.

`frame.html` is the frame of every page, `report_frame.html` that of a report; every value is
escaped where it is written.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape


def render(name: str, **values: Any) -> str:
    """The template `name` with these values. Raises `ValueError` for a number JSON lacks."""
    return TEMPLATES.get_template(name).render(values)


def prose(text: str) -> Markup:
    """Escaped text whose numbers stay on one line with their units, and names in one piece."""
    kept = re.sub(r"(\d) (?=%|(?:[µm]?s|min|[KMG]?i?B|tokens|times)\b)", "\\1\u00a0", escape(text))
    return Markup(re.sub(r"\bRWKV-\d", r'<span class="nowrap">\g<0></span>', kept))


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "assets"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["prose"] = prose
TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
