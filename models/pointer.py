"""The pointer network: what it writes are places of the source.

Vinyals, Fortunato and Jaitly (2015, arXiv 1506.03134): the encoder and the decoder of
`models/seq2seq.py`, by default without attention, and the alignment itself is what is written.

    u_k = v . tanh(W a_t + U e_k)              e_k the encoder's state at the end of item k
    p(place k) ~ exp(u_k),   p(word w) ~ exp(logit_w of the head)         one softmax over both
    a place that was written is read as e_k, any other token as its embedding

So it can write as many places as a source has items, whatever was trained. Items have `item`
tokens each, as a point has two; the tokens that stand for places are the last before the separator,
in their order. With `attention` other than none there is a glimpse before it points (Bello et al.
2016, arXiv 1611.09940).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError
from models.contract import State
from models.layers.alignment import Additive
from models.layers.encoder_decoder import Targets
from models.seq2seq import Seq2Seq, Seq2SeqConfig

MOST_PLACES = 26
"""By default: tasks name places by the letters of the alphabet."""
STEPS = 128
"""Steps whose scores are computed together: each takes K C numbers on the way."""
FAR = -1e4
"""The logit of a place that the source does not have, finite in every precision."""


@dataclass(frozen=True)
class PointerConfig(Seq2SeqConfig):
    """Those of `Seq2SeqConfig`, and what places are."""

    attention: str = "none"
    places: int | None = None  # tokens that stand for places; default 26, or as many as there are
    item: int = 1  # tokens of an item of the source

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.selection != "soft":
            raise UserError("model.selection=hard: what a pointer network writes is its choice")
        before = place_range(vars(self)).start
        if before < 0 or (self.places is not None and self.places < 1):
            raise UserError(
                f"model.places={self.places}: 1 or more, as there are tokens before the separator"
            )
        if self.item < 1:
            raise UserError(f"model.item={self.item} must be 1 or more")


def place_range(config: Mapping[str, Any]) -> range:
    """The tokens that stand for places: the last before the separator."""
    end = Seq2Seq.separator(config)
    places = config.get("places")
    return range(end - (min(MOST_PLACES, end) if places is None else places), end)


class PointerHead(nn.Module):
    """Logits `[..., V]` of words by a matrix, and of places by their scores, which stand behind the
    C channels of what it reads, `[..., C + P]`."""

    def __init__(self, width: int, vocab_size: int, places: range) -> None:
        super().__init__()
        self.words = nn.Linear(width, vocab_size - len(places), bias=False)
        self.places = places
        self.in_features, self.out_features = width + len(places), vocab_size

    @property
    def weight(self) -> Tensor:
        """`[V, C + P]`: the matrix for words and ones for places, in the order of tokens."""
        words, first = self.words.weight, self.places.start
        count = len(self.places)
        of_words = torch.cat((words, words.new_zeros(len(words), count)), dim=1)
        ones = torch.eye(count, dtype=words.dtype, device=words.device)
        of_places = torch.cat((words.new_zeros(count, words.shape[1]), ones), dim=1)
        return torch.cat((of_words[:first], of_places, of_words[first:]))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight)


class Pointer(Seq2Seq):
    """Embedding, encoder, decoder, LayerNorm, head and pointer."""

    Config = PointerConfig
    title = "the pointer network"
    options = (*Seq2Seq.options, "places", "item")

    def initialise(self) -> None:
        super().initialise()
        self.places = place_range(vars(self.config))
        self.pointer = Additive(self.config.n_embd)
        nn.init.uniform_(self.pointer.v.weight, -1, 1)  # smaller, all places stay alike for long
        head = PointerHead(self.config.n_embd, self.config.vocab_size, self.places)
        nn.init.normal_(head.words.weight, std=0.02)
        self.head = head  # type: ignore[assignment]

    @classmethod
    def pointing(cls, config: Mapping[str, Any]) -> tuple[int, int]:
        """How many places it can write, and the tokens of an item of the source."""
        return len(place_range(config)), config.get("item", 1)

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        begun = super().begin(x, lengths)
        items = x[:, self.config.item - 1 :: self.config.item][:, : len(self.places)]
        keys = self.pointer.keys(items)
        return {**begun, "memory": {**begun["memory"], "items": items, "pointed": keys}}

    def decode(self, targets: Targets, state: State) -> tuple[Tensor, State, Tensor | None]:
        """See `EncoderDecoder.decode`; beside, the logits of places `[B, I, P]`."""
        memory = state["memory"]
        known = memory["items"].shape[1]  # of rows whose source has ended
        counts = (state["length"] // self.config.item).clamp(max=known)[:, None]
        if known:
            place = targets.tokens - self.places.start  # [B, I]
            is_place = (place >= 0) & (place < counts)
            rows = torch.arange(len(place), device=place.device)[:, None]
            pointed = memory["items"][rows, torch.where(is_place, place, 0)]
            x = torch.where(is_place[..., None], pointed.to(targets.x.dtype), targets.x)
            targets = targets._replace(x=x)
        y, decoder, _ = self.decoder(targets, state)
        return y, decoder, self.scores(y, memory["pointed"], counts)

    def scores(self, y: Tensor, keys: Tensor, counts: Tensor) -> Tensor:
        """The logits `[B, I, P]` of all places for y `[B, I, C]`, by keys `[B, K, C]` of items, of
        which a row has the first of `counts` `[B, 1]`."""
        known, found = keys.shape[1], []
        for part in y.split(STEPS, dim=1):
            steps = part.shape[1]
            u = self.pointer(part.flatten(0, 1), keys.repeat_interleave(steps, dim=0))
            found.append(u.unflatten(0, (-1, steps)))
        u = torch.cat(found, dim=1).to(y.dtype)
        is_there = torch.arange(known, device=y.device) < counts
        u = u.masked_fill(~is_there[:, None], FAR)
        return nn.functional.pad(u, (0, len(self.places) - known), value=FAR)

    def output(self, x: Tensor, beside: Tensor | None) -> Tensor:
        """What the head reads, `[B, T, C + P]`."""
        if beside is None:
            beside = x.new_zeros(*x.shape[:2], len(self.places))
        return torch.cat((self.ln_out(x), beside.to(x.dtype)), dim=-1)

    def row_flops(self, source: int, target: int, before: int, dense: bool) -> int:
        items = min(source // self.config.item, len(self.places))
        total = super().row_flops(source, target, before, dense)
        total += self.pointer.query_flops(target) + target * items * self.pointer.pair_flops()
        return total if before else total + self.pointer.key_flops(items)
