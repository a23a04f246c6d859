"""The encoder-decoder Transformer of 2017: self-attention on both sides, and cross attention.

Vaswani et al. 2017 (arXiv 1706.03762): an encoder that sees the whole source, and a decoder that
sees the target so far and, in each layer, what the encoder made of the source.

    h = sqrt(C) emb(source) + positions                  sines and cosines, section 3.5
    encoder layer:  x + attention(norm x), then x + W_2 relu(W_1 norm x)
    decoder layer:  y + causal attention(norm y), y + attention(norm y; norm(h)), then as above
    logits = head(norm(y))

Norms stand before each part and not behind it, as in its authors' own later code (Tensor2Tensor):
deep stacks then learn without a long warmup. Positions of the target count from the separator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from models.contract import ParamGroup, State
from models.layers.attention_block import kernel_in_use
from models.layers.encoder_decoder import EncoderDecoder, Targets, check_mark
from models.layers.init import init_normal, split_decay
from models.layers.trunk import Block, Stream, linear_flops
from models.ops.attention import KERNELS, attend_where, query_key_pairs


@dataclass(frozen=True)
class EncDecConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L], of the encoder and of the decoder
    n_embd: int  # [C]
    n_head: int  # [H]
    n_ffn: int | None = None  # [F]; default 4 C
    separator: int | None = None  # token; default the last of the vocabulary
    attention: str = "auto"

    def __post_init__(self) -> None:
        check_mark(self.separator, self.vocab_size)
        if self.n_head < 1 or self.n_embd % self.n_head or self.n_embd % 2:
            raise UserError(
                f"model.n_embd={self.n_embd} must be even and a multiple of model.n_head="
                f"{self.n_head}"
            )
        if self.attention not in ("auto", *KERNELS):
            raise UserError(
                f"model.attention={self.attention!r} is not one of {', '.join(('auto', *KERNELS))}"
            )


class Attention(nn.Module):
    """softmax(q k^T / sqrt(N)) v over keys that a mask allows, H heads of N = C / H."""

    def __init__(self, config: EncDecConfig) -> None:
        super().__init__()
        width, self.heads, self.kernel = config.n_embd, config.n_head, config.attention
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def keys(self, x: Tensor) -> Tensor:
        """Keys and values of x `[B, S, C]`, `[B, S, 2 C]`."""
        return self.kv(x)

    def forward(self, x: Tensor, kv: Tensor, seen: Tensor) -> Tensor:
        """x `[B, T, C]` reads kv `[B, S, 2 C]` where seen, bool, broadcast to `[B, T, S]`, says so.

        A token that may read nothing adds nothing.
        """
        split = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in kv.chunk(2, -1)]
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, T, N]
        k, v = split  # [B, H, S, N] each
        nothing = ~seen.any(-1, keepdim=True)
        y = attend_where(q, k, v, self.kernel, (seen | nothing)[:, None])
        y = y.transpose(1, 2).flatten(2)
        return self.output(y.masked_fill(nothing, 0.0))

    def flops(self, queries: int, keys: int, pairs: int) -> int:
        """Operations of so many queries, keys that are made anew, and pairs of one of each."""
        width = self.q.in_features
        made = linear_flops(self.kv, keys)
        return (
            linear_flops(self.q, queries)
            + linear_flops(self.output, queries)
            + made
            + (4 * width * pairs)
        )


class FeedForward(nn.Module):
    """W_2 relu(W_1 x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)))

    def flops(self, rows: int) -> int:
        """Operations of so many tokens."""
        return linear_flops(self.up, rows) + linear_flops(self.down, rows)


class EncoderLayer(Block):
    """One layer of the encoder."""

    compile_problem = "its sources have another length in every batch"

    def __init__(self, config: EncDecConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.att = Attention(config)
        self.ffn = FeedForward(width, config.n_ffn or 4 * width)

    def forward(self, stream: Stream, state: State | None) -> tuple[Stream, State | None]:
        """`stream.positions` are the lengths `[B]` of the rows; None: all are full."""
        x, lengths = stream.x, stream.positions
        places = torch.arange(x.shape[1], device=x.device)
        if lengths is None:
            seen = torch.ones(1, 1, x.shape[1], dtype=torch.bool, device=x.device)
        else:
            seen = (places < lengths[:, None])[:, None]
        y = self.ln1(x)
        x = x + self.att(y, self.att.keys(y), seen)
        return stream._replace(x=x + self.ffn(self.ln2(x))), state

    def init_state(self, batch: int, capacity: int | None) -> State:
        """None: a source is read at once."""
        return {}

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        return batch * (self.att.flops(length, length, length**2) + self.ffn.flops(length))


class DecoderLayer(nn.Module):
    """One layer of the decoder."""

    def __init__(self, config: EncDecConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.ln1, self.ln2, self.ln3 = (nn.LayerNorm(width) for _ in range(3))
        self.att = Attention(config)
        self.cross = Attention(config)
        self.ffn = FeedForward(width, config.n_ffn or 4 * width)

    def forward(
        self, y: Tensor, cache: Tensor, before: Tensor, memory: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """y `[B, I, C]` after `before` `[B]` tokens, whose keys and values `[B, I', 2 C]` are in
        the cache; beside the memory `[B, S, 2 C]` of sources of these `lengths` `[B]`.

        Returns the same, and the cache with the new tokens.
        """
        normed = self.ln1(y)
        cache = appended(cache, self.att.keys(normed), before)
        last = before[:, None] + torch.arange(y.shape[1], device=y.device)  # [B, I]
        seen = torch.arange(cache.shape[1], device=y.device) <= last[..., None]
        y = y + self.att(normed, cache, seen)
        in_source = torch.arange(memory.shape[1], device=y.device) < lengths[:, None]
        y = y + self.cross(self.ln2(y), memory, in_source[:, None])
        return y + self.ffn(self.ln3(y)), cache

    def flops(self, target: int, pairs: int, source_pairs: int) -> int:
        """Operations of so many tokens of the target, their pairs, and those with the source."""
        return (
            self.att.flops(target, target, pairs)
            + self.cross.flops(target, 0, source_pairs)
            + self.ffn.flops(target)
        )


def appended(cache: Tensor, new: Tensor, before: Tensor) -> Tensor:
    """cache `[B, I', N]`, of which row b has `before[b]` entries, with the rows of new `[B, I, N]`
    behind them: `[B, I'', N]`, I'' the most that a row can then have."""
    most = int(before.max()) if cache.shape[1] else 0
    places = torch.arange(most + new.shape[1], device=new.device)
    index = (places - before[:, None]).clamp(0, new.shape[1] - 1)
    rows = torch.arange(len(new), device=new.device)[:, None]
    after = new[rows, index]
    if not most:
        return after
    old = cache[:, places.clamp(max=cache.shape[1] - 1)]
    return torch.where((places < before[:, None])[..., None], old.to(new.dtype), after)


class Decoder(nn.Module):
    """All layers of the decoder, and the norm of what they read of the encoder."""

    def __init__(self, config: EncDecConfig) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(config.n_embd)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.n_layer))

    @property
    def typed_layers(self) -> list[DecoderLayer]:
        """The layers, under their own type."""
        return cast(list[DecoderLayer], list(self.layers))


class EncDec(EncoderDecoder):
    """Embedding, encoder, decoder, LayerNorm, head."""

    Config = EncDecConfig
    title = "the encoder-decoder Transformer"
    options = ("attention",)
    decoder: Decoder

    def build_block(self, layer: int) -> EncoderLayer:
        return EncoderLayer(self.config)

    def build_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.n_embd)

    def initialise(self) -> None:
        """Those of the other Transformers, and an embedding that is of the size of positions once
        it is multiplied."""
        self.decoder = Decoder(self.config)
        init_normal(self, 2 * self.config.n_layer, ("output.weight", "down.weight"))
        nn.init.normal_(self.emb.weight, std=self.config.n_embd**-0.5)

    def encoded(self, ids: Tensor, lengths: Tensor) -> Stream:
        places = torch.arange(ids.shape[1], device=ids.device)
        return Stream(self._placed(self.emb(ids), places), positions=lengths)

    def _placed(self, x: Tensor, places: Tensor) -> Tensor:
        """x `[B, T, C]` scaled, and its positions `[T]` or `[B, T]` added."""
        return math.sqrt(x.shape[-1]) * x + sinusoids(places, x.shape[-1]).to(x.dtype)

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        normed, layers = self.decoder.ln(x), self.decoder.typed_layers
        memory = {str(at): layer.cross.keys(normed) for at, layer in enumerate(layers)}
        empty = x.new_zeros(len(x), 0, 2 * x.shape[2])
        return {"memory": memory, "decoder": {str(at): empty for at in range(len(layers))}}

    def decode(self, targets: Targets, state: State) -> tuple[Tensor, State, None]:
        places = targets.before[:, None] + torch.arange(targets.x.shape[1], device=targets.x.device)
        y, after = self._placed(targets.x, places), {}
        for at, layer in enumerate(self.decoder.typed_layers):
            cache, memory = state["decoder"][str(at)], state["memory"][str(at)]
            y, after[str(at)] = layer(y, cache, targets.before, memory, targets.lengths)
        return y, after, None

    def param_groups(self) -> list[ParamGroup]:
        return split_decay(self)

    def mixer_backends(self) -> dict[str, str]:
        c = self.config
        heads = (c.n_head, c.n_head, c.n_embd // c.n_head)
        return {"attention": kernel_in_use(c.attention, self.head.weight, *heads, masked=True)}

    def row_flops(self, source: int, target: int, before: int, dense: bool) -> int:
        pairs = query_key_pairs(target, before, None, dense)
        layers = self.decoder.typed_layers
        total = sum(layer.flops(target, pairs, source * target) for layer in layers)
        if before == 0:
            total += sum(block.flops(1, source, 0, dense) for block in self.layers)
            total += sum(linear_flops(layer.cross.kv, source) for layer in layers)
        return total


def sinusoids(places: Tensor, width: int) -> Tensor:
    """Sines and cosines of positions `[...]`, in turn: `[..., C]`, fp64, since an angle of many
    turns loses its fraction in fp32."""
    even = torch.arange(0, width, 2, device=places.device, dtype=torch.float64)
    speed = 10_000 ** (-even / width)
    angle = places[..., None] * speed
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)
