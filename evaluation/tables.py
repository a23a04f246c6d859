"""Evaluations as text for a terminal: they only format what evaluation.json holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.units import counted


def of_text(text: dict[str, Any]) -> str:
    """The loss on a text, as a whole and by the tokens of context that a prediction had."""
    most = text["context"]
    reading = "each document as a whole" if most is None else f"at most {most:,} tokens of context"
    tokens = f"{text['tokens']:,} tokens"
    if text["read_tokens"] != text["tokens"]:
        tokens = f"{text['tokens']:,} learned tokens of {text['read_tokens']:,}"
    rows = [
        (f"{each['low']:,} to {each['high']:,}", f"{each['tokens']:,}", f"{each['loss']:.4f}")
        for each in text["buckets"]
    ]
    return "\n".join(
        [
            f"{counted(text['documents'], 'document')}, {text['bytes']:,} bytes, "
            f"{tokens}, {reading}:",
            f"  loss {text['loss']:.4f} nats/token, {text['bits_per_byte']:.4f} bits/byte",
            *_columns(("context, tokens", "predictions", "nats/token"), rows),
        ]
    )


def of_tasks(tasks: dict[str, Any]) -> str:
    """Every figure of every task, and how much reading shared beginnings once has saved."""
    rows = [
        (name, figure.replace(",", ", "), f"{value:.4f}", _error(figures, figure))
        for name, figures in tasks["results"].items()
        for figure, value in figures.items()
        if "_stderr" not in figure
    ]
    lines = _columns(("task", "figure", "value", "standard error"), rows)
    read, asked = tasks["tokens_read"], tasks["tokens_asked"]
    if 0 < read < asked:
        lines.append(
            f"read {read:,} tokens for {asked:,}: shared beginnings once, {asked / read:.1f} times "
            "fewer"
        )
    return "\n".join(lines)


def _error(figures: dict[str, float], figure: str) -> str:
    name, comma, kind = figure.partition(",")
    error = figures.get(f"{name}_stderr{comma}{kind}")
    return "" if error is None else f"{error:.4f}"


def _columns(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a table, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    ]
