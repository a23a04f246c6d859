"""The summaries of finished trainings, as far as a report depends on them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from core.parsing import Unreadable, current_names, read_object, read_yaml
from probes.field_types import (
    Count,
    Fields,
    Loss,
    Name,
    Number,
    Operations,
    Parameters,
    Plain,
    Rate,
    Ratio,
    Scalar,
    Text,
    fields_of,
    misfits,
    some,
)
from probes.rows import RENAMED, said_by

NEEDED: dict[str, Any] = {
    "model": Name,
    "val_loss": Loss | None,
    "val_bits_per_byte": Loss | None,
}
KNOWN: dict[str, Any] = {
    "name": Name,
    "size": Name,
    "target": Name,
    "parameters": Parameters | None,
    "tokens": Count | None,
    "trained_tokens": Count | None,
    "forward_flops": Operations | None,
    "own_forward_flops": Operations | None,
    "spared_flops": Operations | None,
    "last_rate": Ratio | None,
    "parent": dict[Name, Scalar | Text] | None,
    "tokens_per_second": Rate | None,
    "val_accuracy": Ratio | None,
    "val_exact_match": Ratio | None,
    "val_bits_per_sequence": Loss | None,
    "val_formed": Ratio | None,
    "validation": dict[Name, dict[Name, Scalar]],
    "unigram_entropy": Loss | None,
    "gzip_bits_per_byte": Loss | None,
    "xz_bits_per_byte": Loss | None,
    "order_hash": Name | None,
    "data_fingerprint": Name | None,
    "precision": Name | None,
    "packing": Name | None,
    "segment": Number | None,
    "bptt": Name | None,
    "config": dict[Name, Plain],
    "options": dict[Name, Scalar],
    "backends": dict[Name, Name],
    "ended_early": str | None,
    "pruned": bool | None,
    "recurrent": bool | None,
    "title": Name,
}
"""Fields that older summaries may lack; a report uses no others."""


@cache
def _fields() -> Fields:
    return fields_of(NEEDED | KNOWN)


def was_pruned(summary: dict[str, Any]) -> bool:
    """Whether a training ended because it was worse than its group; older summaries say it in the
    first word of the reason."""
    pruned = summary.get("pruned")
    if pruned is None:
        return str(summary.get("ended_early") or "").startswith("pruned")
    return bool(pruned)


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a training, with the absolute path of its `folder` added.

    Raises `Unreadable` if it is not one, or contains impossible values.
    """
    summary = current_names(read_object(path), RENAMED)
    if missing := sorted(set(NEEDED) - set(summary)):
        raise Unreadable(path, f"not a training summary (without {some(missing)})")
    odd = misfits(summary, _fields())
    if summary.get("forward_flops"):  # it counts for a scaling study
        needed = ("name", "size", "parameters", "tokens")
        odd += [name for name in needed if not summary.get(name)]
    if odd:
        raise Unreadable(
            path, f"not a training summary (values that make no sense: {some(sorted(odd))})"
        )
    if "recurrent" not in summary:  # written before models said what they are
        try:
            model = read_yaml(path.with_name("config.yaml")).get("model")
        except Unreadable:
            model = None
        target = model.get("target") if isinstance(model, dict) else None
        config = summary.get("config", {})
        summary |= said_by(target if isinstance(target, str) else None, config)
    return summary | {"folder": str(path.parent.resolve())}
