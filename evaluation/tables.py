"""Evaluations as text for a terminal: they only format what evaluation.json holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.units import counted, significant


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


def of_memory(memory: dict[str, Any]) -> str:
    """How far back tokens move the logits, and what each layer's recurrence does to its state."""
    rows = [
        (_span(each["from"], each["to"]), f"{each['gradient']:.3g}", f"{each['perturbation']:.3g}")
        for each in memory["rows"]
    ]
    lines = [
        f"memory, {counted(memory['windows'], 'window')} of {memory['window']:,} tokens: by how "
        "much a logit moves, nats, if a token so many tokens back were another:",
        *_columns(("tokens back", "by the gradient", "replaced"), rows),
    ]
    reaches = [
        ("logits, gradient", memory["gradient"]),
        ("logits, replaced", memory["perturbation"]),
    ]
    reaches += [(f"layer {each['layer']} alone", each["gradient"]) for each in memory["layers"]]
    shown = [
        (name, _reach(each, "half"), _reach(each, "tokens"), f"{each['farthest']:,}")
        for name, each in reaches
    ]
    head = ("reach in tokens, itself included", "half of it within", "above 1 %", "not zero")
    lines += _columns(head, shown)
    lines += [
        f"  (followed for {memory['gradient']['followed']:,} tokens; median, and the middle half "
        "of the windows)"
    ]
    half = [
        (f"layer {each['layer']}", *(half_life(value) for value in each["half_life"]))
        for each in memory["layers"]
        if each.get("half_life")
    ]
    if half:
        quartiles = ("least", "quarter", "median", "3 quarters", "most")
        lines += _columns(("half-life of decays, tokens", *quartiles), half)
    values = [
        (f"layer {each['layer']}", f"{found['least']:.3f}", f"{found['median_least']:.3f}",
         f"{found['most']:.4f}", f"{found['negative']:.1%}", f"{found['growing']:.1%}")
        for each in memory["layers"]
        if (found := each.get("eigenvalues"))
    ]  # fmt: skip
    if values:
        said = ("least", "median least", "largest modulus", "one below 0", "one beyond 1")
        lines += _columns(("eigenvalues of transitions", *said), values)
    return "\n".join(lines)


def half_life(tokens: float | None) -> str:
    """`never` for a channel that forgets nothing."""
    return "never" if tokens is None else significant(tokens)


def _span(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def _reach(found: dict[str, float], name: str) -> str:
    value, low, high = found[name], found[f"{name}_low"], found[f"{name}_high"]
    return f"{value:,.4g}" if low == high else f"{value:,.4g} ({low:,.4g} to {high:,.4g})"


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
