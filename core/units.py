"""Numbers and quantities as people read them: digits, seconds, bytes, lists of words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

SIDE_BY_SIDE = "measured side by side"
MOST_DIGITS = 8


def significant(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits, thousands separated, never in exponent form."""
    if value == 0:
        return "0"
    rounded = f"{value:.{digits - 1}e}"
    decimals = digits - 1 - int(rounded.split("e")[1])
    return f"{float(rounded):,.{max(0, decimals)}f}"


def tokens(length: float) -> str:
    """A measured length as it is, an interpolated one to three digits and whole tokens."""
    return f"{length if isinstance(length, int) else float(f'{length:.3g}'):,.0f}"


def times(ratio: float) -> str:
    """`1.7 times as much`; as many more digits as it takes not to say `1.0`."""
    digits = 2 if ratio >= 1.1 else 3
    while digits < MOST_DIGITS and ratio != 1 and float(f"{ratio:.{digits - 1}e}") == 1:
        digits += 1
    return f"{significant(ratio, digits)} times as much"


def factor(ratio: float, values: tuple[float, float]) -> str:
    """How much more, by the processes that were measured side by side; says so where the two values
    that stand beside it would give another number."""
    said = times(ratio)
    return said if times(values[0] / values[1]) == said else f"{said} {SIDE_BY_SIDE}"


def seconds(value: float) -> str:
    for scale, unit in ((1e-6, "µs"), (1e-3, "ms")):
        if value < 999.5 * scale:
            return f"{significant(value / scale)} {unit}"
    return f"{significant(value)} s" if value < 600 else f"{significant(value / 60)} min"


def size_bytes(value: float) -> str:
    """Bytes in powers of 1024, as memory is counted."""
    for power, unit in enumerate(("B", "KiB", "MiB")):
        if value < 999.5 * 1024**power:
            return f"{significant(value / 1024**power)} {unit}"
    return f"{significant(value / 1024**3)} GiB"


def clock(value: float) -> str:
    """Seconds as `2:10`, or `1:02:05`."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def bits_per_byte(nats_per_token: float, tokens_per_byte: float) -> float:
    """A loss per byte of text, which can be compared between tokenizers."""
    return nats_per_token / math.log(2) * tokens_per_byte


def device_bytes(value: float) -> str:
    """Bytes in powers of 1000, the units that devices are sold in."""
    for power, unit in ((1e12, "TB"), (1e9, "GB")):
        if value >= 0.9995 * power:
            return f"{significant(value / power)} {unit}"
    return f"{significant(value / 1e6)} MB"


def quantity(value: float, unit: str) -> str:
    return seconds(value) if unit == "s" else size_bytes(value)


def round_quantity(value: float, unit: str) -> str:
    """For the ticks of an axis: `5 ms` rather than `5.00 ms`."""
    number, _, name = quantity(value, unit).partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {name}"


def listing(words: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def counted(count: int, word: str) -> str:
    """`1 training`, `3 trainings`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[0].upper() + text[1:]


def unique(values: Iterable[Any]) -> str:
    """Distinct values as text, for the machine table."""
    return ", ".join(dict.fromkeys(str(value) for value in values if value not in (None, "")))
