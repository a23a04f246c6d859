"""The trunk of models that read a source as a whole and then write a target, token by token.

A row is source, separator, target. Up to the separator a token's logits are the head's of its
embedding alone, since nothing may depend on what comes later; at the separator the encoder reads
the source, and from there on the decoder reads the target, of which the separator is the first
token, beside what the encoder made of it. A row without a separator has no target: such a model
is for tasks whose rows have one, and refused elsewhere.

    memory = begin(blocks(emb(source)))            the blocks of the trunk are the encoder
    hidden = norm(decode(emb(target), memory))     through `decoder`

The rows of a batch may have their separators in different places, and a row may be read in any
parts: the state holds the source so far, and from the separator on the encoder's memory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.checkpoint import checkpoint

from core.errors import UserError
from models.contract import State, map_state
from models.layers.trunk import Stream, Trunk, linear_flops
from models.long_context.packing import hidden_of_documents
from models.ops.intercept import interceptable


class Targets(NamedTuple):
    """The target tokens of a call, each row's from the left on."""

    tokens: Tensor
    """Their ids, `[B, I]`."""
    x: Tensor
    """Their embeddings, `[B, I, C]`."""
    valid: Tensor
    """Which of them there are, bool `[B, I]`."""
    before: Tensor
    """How many target tokens each row read before, `[B]`."""
    lengths: Tensor
    """Tokens of each row's source, `[B]`."""


class Counts(NamedTuple):
    """What a row has in a call: how many tokens of the source, how many of the target before it,
    and how many of the source with these."""

    first: int
    written: int
    source: int

    def opens(self, length: int) -> bool:
        """Whether the separator is among the `length` tokens of the call."""
        return not self.written and self.first < length


class EncoderDecoder(Trunk):
    """Embedding, encoder, decoder, norm, head; see the module for what each of them reads."""

    decoder: nn.Module
    can_file = False  # its counts say where the decoder reads

    @classmethod
    def separator(cls, config: Mapping[str, Any]) -> int:
        given = config.get("separator")
        return config["vocab_size"] - 1 if given is None else given

    @abstractmethod
    def begin(self, x: Tensor, lengths: Tensor) -> State:
        """What the decoder needs of the encoder's `[O, S, C]`, and its state before the separator.

        `lengths` `[O]`: tokens of each source. Returns leaves `memory`, `[O, S, ...]` each, and
        `decoder`, `[O, ...]` each.
        """

    @abstractmethod
    def decode(self, targets: Targets, state: State) -> tuple[Tensor, State, Any]:
        """Read target tokens: `[B, I, C]`, `decoder` of the state after them, and what a training
        step needs beside, a tensor `[B, I, ...]` or None. Tokens that are not there change nothing.
        """

    @interceptable
    def hidden(
        self, tokens: Tensor, state: State | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, State | None]:
        if starts is not None:
            return hidden_of_documents(self, tokens, starts, state)
        x, after, beside = self.read(tokens, state)
        return self.output(x, beside), after if state is not None else None

    def output(self, x: Tensor, beside: Any) -> Tensor:
        """What the head reads of the residual `[B, T, C]`, and what `decode` gave beside."""
        return self.ln_out(x)

    def read(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State, Any]:
        """The residual `[B, T, C]`, the state, and what `decode` gives beside, `[B, T, ...]`."""
        state = self._unread(len(tokens)) if state is None else state
        x, length = self.embed(tokens, state).x, tokens.shape[1]
        counts = self._counts(tokens, state)
        first = torch.tensor([row.first for row in counts], device=x.device)[:, None]  # [B, 1]
        if any(row.first for row in counts):
            state = _gathered(tokens, first, max(row.source for row in counts), state)
        opened = [place for place, row in enumerate(counts) if row.opens(length)]
        if opened:
            state = self._open(opened, max(counts[place].source for place in opened), state)
        beside = None
        if steps := length - min(row.first for row in counts):
            place = first + torch.arange(steps, device=x.device)  # [B, I]
            ids, y = _taken(tokens, place), _taken(x, place)
            targets = Targets(ids, y, place < length, state["written"], state["length"])
            y, decoder, beside = self._checkpointed(self.decode, targets, state)
            places = torch.arange(length, device=x.device)
            back, of_target = (places - first).clamp(min=0), places >= first  # [B, T] both
            x = torch.where(of_target[..., None], _taken(y, back).to(x.dtype), x)
            beside = None if beside is None else _taken(beside, back) * of_target[..., None]
            state = {**state, "decoder": decoder}
        return x, {**state, "written": state["written"] + length - first[:, 0]}, beside

    def _counts(self, tokens: Tensor, state: State) -> list[Counts]:
        """One for each row; on the host, since shapes follow from them."""
        length = tokens.shape[1]
        if isinstance(tokens, FakeTensor):  # without values: as `flops` has it
            return [Counts(length // 2, 0, length // 2)] * len(tokens)
        is_mark = tokens == self.separator(vars(self.config))
        written = state["written"]
        of_target = (is_mark.cumsum(1) > 0) | (written > 0)[:, None]
        first = (~of_target).sum(1)
        return [
            Counts(*row)
            for row in torch.stack((first, written, state["length"] + first), 1).tolist()
        ]

    def _open(self, rows: list[int], longest: int, state: State) -> State:
        """The state with the memory of these rows, whose source has ended, of `longest` at most."""
        index = torch.tensor(rows, device=state["source"].device)
        lengths = state["length"][index]
        if longest:
            ids = state["source"][index][:, :longest]
        else:  # one token that nobody reads
            ids = state["source"].new_zeros(len(rows), 1)
        stream = self.encoded(ids, lengths)
        for block in self.layers:
            stream, _ = self._checkpointed(block, stream, None)
        fresh = self.begin(stream.x, lengths)
        if len(rows) == len(state["written"]):
            return {**state, **fresh}
        if "memory" not in state:
            state = {**self.init_state(len(state["written"])), **state}
        merged = {part: _merged(state[part], fresh[part], index) for part in ("memory", "decoder")}
        return {**state, **merged}

    def encoded(self, ids: Tensor, lengths: Tensor) -> Stream:
        """What the first block of the encoder reads of a source `[O, S]`."""
        return Stream(self.emb(ids), positions=lengths)

    def _checkpointed(self, function: Any, *arguments: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)

    def init_state(self, batch: int, capacity: int | None = None) -> State:
        """No source, nothing written, and a memory without tokens."""
        weight = self.emb.weight
        state = self._unread(batch)
        with torch.no_grad():
            begun = self.begin(weight.new_zeros(batch, 1, weight.shape[1]), state["length"])
        memory = {name: leaf[:, :0] for name, leaf in begun["memory"].items()}
        return {**state, "memory": memory, "decoder": map_state(begun["decoder"], Tensor.detach)}

    def _unread(self, batch: int) -> State:
        """What `init_state` says of the tokens."""
        none = torch.zeros(batch, dtype=torch.int64, device=self.emb.weight.device)
        return {"source": none.new_zeros(batch, 0), "length": none, "written": none.clone()}

    def flops(self, batch: int, length: int, past: int = 0, dense: bool = False) -> int:
        """Operations of whole rows with the separator in the middle; with a `past`, those of so
        many target tokens after a past that ends with the separator."""
        source = past - 1 if past else length // 2
        target = length if past else length - source
        row = self.row_flops(source, target, min(past, 1), dense)
        return batch * (row + linear_flops(self.head, length))

    @abstractmethod
    def row_flops(self, source: int, target: int, before: int, dense: bool) -> int:
        """Forward operations of one row without the head: of `target` target tokens, the separator
        one of them, after `before`; and of the encoder and its `source` tokens if that is 0."""


def _gathered(tokens: Tensor, first: Tensor, longest: int, state: State) -> State:
    """The state with the first `first` `[B, 1]` of these tokens added to the sources."""
    before, length = state["source"], state["length"][:, None]
    places = torch.arange(longest, device=tokens.device)
    new = tokens.gather(1, (places - length).clamp(0, tokens.shape[1] - 1))
    if before.shape[1]:
        old = before.gather(1, places.clamp(max=before.shape[1] - 1).expand(len(before), -1))
        new = torch.where(places < length, old, new)
    source = new.masked_fill(places >= length + first, 0)
    return {**state, "source": source, "length": (length + first)[:, 0]}


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """x `[B, T, ...]` at places `[B, I]`, or at the last if they lie behind: `[B, I, ...]`."""
    rows = torch.arange(len(x), device=x.device)[:, None]
    return x[rows, places.clamp(max=x.shape[1] - 1)]


def _merged(before: State, fresh: State, rows: Tensor) -> State:
    """The leaves `[B, S, ...]` with those of `fresh` in these rows, with room for the longer."""
    merged = {}
    for name, leaf in before.items():
        both = [leaf, fresh[name].to(leaf.dtype)]
        room = max(each.shape[1] for each in both)
        leaf, new = (_padded(each, room) for each in both)
        merged[name] = leaf.index_copy(0, rows, new)
    return merged


def _padded(x: Tensor, room: int) -> Tensor:
    """x `[B, S, ...]` with zeros up to `[B, room, ...]`."""
    if x.shape[1] == room:
        return x
    return torch.cat((x, x.new_zeros(len(x), room - x.shape[1], *x.shape[2:])), dim=1)


def check_mark(separator: int | None, vocab_size: int) -> None:
    """Raise `UserError` for a separator that is no token."""
    if separator is not None and not 0 <= separator < vocab_size:
        raise UserError(f"model.separator={separator} is no token of a vocabulary of {vocab_size}")
