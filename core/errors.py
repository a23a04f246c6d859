"""The one exception a user is meant to read, and how texts of others are shown in it."""

from __future__ import annotations

import re
from typing import Any

UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\ud800-\udfff"
    r"\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"  # end a line, or turn the order of the others
)
SHOWN = 60  # characters of a value


class UserError(Exception):
    """What was wrong, where, and what to do, in one message.

    Scripts print it without a traceback and exit with status 2.
    """


def escaped(text: str, keep: str = "") -> str:
    """`text` with what a terminal would obey, but for the characters in `keep`, written out."""
    return UNPRINTABLE.sub(
        lambda character: character[0] if character[0] in keep else repr(character[0])[1:-1], text
    )


def shown(value: Any, most: int = SHOWN) -> str:
    """What a file holds, as a message can show it: the first `most` characters, on one line."""
    return escaped(f"{value!s:.{most}}")
