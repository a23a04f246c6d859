"""An alignment as a picture: columns are tokens of the source, rows those of the target."""

from __future__ import annotations

import html
from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import UserError
from data.text import TextTokenizer

CELL, EDGE = 14, 44  # pixels
MOST = 96  # tokens to a side
STYLE = (
    "text{font:11px monospace;fill:#1c232c}rect{fill:#0f6f74}.paper{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#ece9e2}rect{fill:#56c5c9}.paper{fill:#181e26}}"
)


def figure_of(model: object, tokenizer: TextTokenizer, row: list[int], title: str) -> str | None:
    """The SVG of a row of tokens, up to the first end of a line in its target; None where the
    model has no alignment, or the row no separator or no source."""
    if not hasattr(model, "aligned"):
        return None
    device = next(model.parameters()).device  # type: ignore[attr-defined]
    try:
        weights = model.aligned(torch.tensor([row], device=device))[0].float().cpu()
    except UserError:  # attention=none
        return None
    steps, length = weights.shape
    written = [tokenizer.decode([token]) for token in row]
    source, target = written[: len(row) - steps], written[len(row) - steps + 1 :]
    if "\n" in target:
        target = target[: target.index("\n") + 1]
    if not source or not target or length != len(source):
        return None
    return svg(source[:MOST], target[:MOST], weights[: len(target[:MOST]), :MOST], title)


def svg(source: Sequence[str], target: Sequence[str], weights: Tensor, title: str) -> str:
    """One file that loads nothing. `weights` `[I, S]`: of the step that writes each of `target`
    `[I]` over `source` `[S]`; the darker, the larger."""
    width, height = EDGE + CELL * len(source) + 8, EDGE + CELL * len(target) + 8
    named = html.escape(title)
    said = html.escape(f"Columns: {''.join(source)!r}. Rows: {''.join(target)!r}.")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="title words" width="{width}" height="{height}">',
        f'<title id="title">{named}</title><desc id="words">{said}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
    ]
    for place, text in enumerate(source):
        at = EDGE + CELL * place + CELL // 2
        lines.append(f'<text x="{at}" y="{EDGE - 6}" text-anchor="middle">{_letter(text)}</text>')
    for step, text in enumerate(target):
        y = EDGE + CELL * step
        lines.append(f'<text x="{EDGE - 6}" y="{y + 11}" text-anchor="end">{_letter(text)}</text>')
        for place, weight in enumerate(weights[step].tolist()):
            if weight >= 0.005:
                lines.append(
                    f'<rect x="{EDGE + CELL * place}" y="{y}" width="{CELL}" height="{CELL}" '
                    f'fill-opacity="{weight:.2f}"/>'
                )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _letter(text: str) -> str:
    """A token in a cell, with marks for what cannot be seen or written in XML."""
    shown = "".join(one if one.isprintable() else "·" for one in text.replace(" ", "␣"))
    return html.escape(shown.replace("·", "↵") if text == "\n" else shown[:4])
