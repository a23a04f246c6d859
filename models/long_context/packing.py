"""Several documents in one row: each is read as if it were alone.

No mask reaches a block. The documents of a batch are cut out, read side by side as sequences of
their own, and put back where they were. So whatever a block remembers (a recurrent state, a shifted
token, keys, positions) starts afresh with every document, attention costs the sum of squares of the
documents instead of the square of the row, and each model keeps its fastest kernel. Documents
of nearly equal length are read together, the shorter ones padded at the end, where a causal model
cannot look.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from models.contract import State, combine_states, map_state

# A document may be padded by this many tokens, or by this part of the longest one beside it.
SLACK_TOKENS, SLACK_PART = 16, 1 / 8


@dataclass(frozen=True)
class Span:
    """Tokens `first` to `end` of one row: a document, or the part of one that lies in the row."""

    row: int
    first: int
    end: int
    fresh: bool
    """Whether the document starts here; otherwise it began before the row."""
    last: bool
    """Whether the row ends with it, so that it may go on in the next call."""

    @property
    def length(self) -> int:
        return self.end - self.first


def hidden_of_documents(
    trunk: Any, tokens: Tensor, starts: Tensor, state: State | None
) -> tuple[Tensor, State | None]:
    """`trunk.hidden` of rows in which documents begin where starts `[B, T]` is true.

    With a state, a row that does not begin with a start continues from its own part of it, and the
    state returned is that of the last document of every row. Raises `UserError` if starts do not
    fit, or for a state of attention: its rows would have seen different numbers of tokens.
    """
    if starts.shape != tokens.shape or starts.dtype != torch.bool:
        raise UserError(
            f"starts must be bool {list(tokens.shape)} like the tokens, got {starts.dtype} "
            f"{list(starts.shape)}"
        )
    if state is not None and not trunk.recurrent:
        raise UserError(
            f"{type(trunk).__name__} cannot read packed documents in parts: its cache has one "
            "length for all rows. Give it whole rows, without a state"
        )
    carried: list[Span] = []
    others: list[Span] = []
    for span in _spans(starts, state is not None):
        at_edge = state is not None and (span.last or not span.fresh)
        (carried if at_edge else others).append(span)
    pieces, places, ends = [], [], []
    for group, edge in [*_groups(carried, edge=True), *_groups(others, edge=False)]:
        index, real = _places(group, tokens.shape[1], tokens.device)
        before = None
        if state is not None and edge:  # each span continues its row's state, or a fresh one
            joined = combine_states([state, trunk.init_state(1)], torch.cat)
            rows = [-1 if span.fresh else span.row for span in group]
            before = map_state(joined, lambda leaf, rows=rows: leaf[rows])
        piece, after = trunk.hidden(tokens.flatten()[index], before)
        pieces.append(piece[real])
        places.append(index[real])
        if after is not None:
            ends += [(span.row, after, place) for place, span in enumerate(group) if span.last]
    order = torch.cat(places).argsort()
    hidden = torch.cat(pieces)[order].unflatten(0, tokens.shape)
    if state is None:
        return hidden, None
    last = [
        map_state(after, lambda leaf, place=place: leaf[place])
        for _, after, place in sorted(ends, key=lambda end: end[0])  # in the order of rows
    ]
    return hidden, combine_states(last, torch.stack)


def _spans(starts: Tensor, continuing: bool) -> Iterator[Span]:
    rows, length = starts.shape
    inner = starts.clone()
    inner[:, 0] = True
    begins: list[list[int]] = [[] for _ in range(rows)]
    for row, place in inner.nonzero().tolist():
        begins[row].append(place)
    at_edge = starts[:, 0].tolist()
    for row, places in enumerate(begins):
        for first, end in zip(places, [*places[1:], length], strict=True):
            yield Span(row, first, end, first > 0 or at_edge[row] or not continuing, end == length)


def _groups(spans: Sequence[Span], edge: bool) -> Iterator[tuple[list[Span], bool]]:
    """Spans to read together, of nearly equal length; and `edge`, handed through.

    Those at an edge are not padded, because their state counts.
    """
    group: list[Span] = []
    for span in sorted(spans, key=lambda span: -span.length):
        longest = group[0].length if group else span.length
        slack = 0 if edge else max(SLACK_TOKENS, int(longest * SLACK_PART))
        if longest - span.length > slack:
            yield group, edge
            group = []
        group.append(span)
    if group:
        yield group, edge


def _places(group: Sequence[Span], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where in the flattened batch the tokens of `[D, T]` documents lie, and which are no padding.

    Padding repeats the last token of its document.
    """
    edges = torch.tensor([(span.row * width + span.first, span.length) for span in group])
    first, length = edges.to(device).split(1, dim=1)
    step = torch.arange(group[0].length, device=device)
    return first + torch.minimum(step, length - 1), step < length
