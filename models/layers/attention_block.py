"""Causal self-attention with a cache: what `transformer` and `gpt` share.

One `forward` serves training, prefill, chunks and single steps. The cache is allocated ahead and
written in place, as any serious decoder does, so that the baseline's decoding is not slowed by
copies; it doubles when it is full. With a window of W tokens it stops at W and becomes a ring.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from models.contract import ParamGroup, State, map_state
from models.decoding.captured import AHEAD, room_for
from models.decoding.program import Program
from models.layers.init import init_normal, split_decay
from models.layers.matrices import matrices_rounded
from models.layers.mixer_block import ShortConvolution
from models.layers.norms import LayerNorm, RMSNorm
from models.layers.trunk import Block, Mixer, Stream, Trunk, linear_flops
from models.ops.attention import (
    KERNELS,
    attend,
    attend_one,
    first_position,
    query_key_pairs,
)
from models.ops.attention_choice import in_use
from models.ops.elementwise import rotate

Rope = tuple[Tensor, Tensor]
"""cos and sin `[T, N/2]` of rotary positions."""


@dataclass(frozen=True)
class Rotation:
    """How fast queries and keys turn with their position (Su et al. 2021, eq. 34).

    With a `factor` other than 1 as Llama 3.1 scales it (Grattafiori et al. 2024, arXiv 2407.21783):
    pairs of channels that turn less than `low` times within `length` tokens turn `factor` times
    slower, those that turn more than `high` times stay, and those between are blended.
    """

    base: float
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    length: int = 8192  # tokens

    def frequencies(self, head_size: int, device: torch.device | str) -> Tensor:
        """Angles per token, `[N/2]`, fp32."""
        half = head_size // 2
        exponent = torch.arange(half, device=device, dtype=torch.float32) / half
        angle = self.base**-exponent
        if self.factor == 1:
            return angle
        turns = angle * (self.length / (2 * math.pi))
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return angle * (kept + (1 - kept) / self.factor)


Positions = tuple[int | Tensor, Rope | None]
"""Tokens before this call, those of other ranks included, and the table for this call's. A tensor
`[1]` where only the device knows how many, and one token is read (`Trunk.fixed_state`)."""

MIN_CAPACITY = 64


class Attention(Mixer):
    """Multi-head causal self-attention, with rotary positions where a table is given.

    Vaswani et al. 2017 (arXiv 1706.03762) section 3.2; grouped-query heads of Ainslie et al. 2023
    (arXiv 2305.13245). With a `window` W a token sees itself and the W - 1 before it. With a
    `rotation`, queries and keys are rotated by the table among the positions. Heads are C / H wide
    unless `head_size` says otherwise; `output_bias` is by default `bias`. With a `head_norm`, every
    query and key is normed before it is rotated, with weights `[N]` that the heads share (Henry et
    al. 2020, arXiv 2010.04245, with the root mean square as Qwen3 and OLMo 2 have it). With
    `n_conv` K, queries, keys and values are first convolved over the last K tokens, every channel
    on its own (Primer's attention: So et al. 2021, arXiv 2109.08668).
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        n_kv_head: int | None,
        kernel: str,
        bias: bool = False,
        window: int | None = None,
        rotation: Rotation | None = None,
        head_size: int | None = None,
        output_bias: bool | None = None,
        head_norm: Callable[[int], nn.Module] | None = None,
        n_conv: int = 1,
    ) -> None:
        super().__init__()
        self.n_head, self.n_kv_head = n_head, n_kv_head or n_head
        self.head_size = head_size or n_embd // n_head
        self.kernel, self.window, self.rotation = kernel, window, rotation
        heads = n_head + 2 * self.n_kv_head
        self.qkv = nn.Linear(n_embd, heads * self.head_size, bias=bias)
        convolution = ShortConvolution(heads * self.head_size, n_conv, silu=False)
        self.conv = convolution if n_conv > 1 else None
        output_bias = bias if output_bias is None else output_bias
        self.output = nn.Linear(n_head * self.head_size, n_embd, bias=output_bias)
        self.normed = head_norm is not None
        if head_norm is not None:
            self.q_norm, self.k_norm = head_norm(self.head_size), head_norm(self.head_size)

    def forward(
        self, x: Tensor, state: State | None, positions: Positions
    ) -> tuple[Tensor, State | None, Positions]:
        """x `[B, T, C]` to `[B, T, C]`; positions are the tokens before x, and its rotations."""
        past, rope = positions
        batch, length, _ = x.shape
        mixed = self.qkv(x)  # [B, T, (H + 2 G) N]
        before: State = {}
        if self.conv is not None:
            mixed, before["conv"] = self.conv(mixed, None if state is None else state["conv"])
            mixed = mixed.contiguous()  # fast kernels want rows in one piece
        heads = mixed.view(batch, length, -1, self.head_size)  # [B, T, H + 2 G, N]
        qk, v = heads.split((self.n_head + self.n_kv_head, self.n_kv_head), dim=2)
        if self.normed:
            q, k = qk.split((self.n_head, self.n_kv_head), dim=2)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), dim=2)
        if rope is not None and self.rotation is not None:
            qk = rotate(qk, *rope)  # queries and keys at once: fewer passes over memory
        q, k = qk.split((self.n_head, self.n_kv_head), dim=2)  # [B, T, H, N], [B, T, G, N]
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # [B, H, T, N], [B, G, T, N] twice
        if isinstance(past, Tensor):
            assert state is not None
            place = past if self.window is None else past % self.window
            state["k"].index_copy_(2, place, k.to(state["k"].dtype))
            state["v"].index_copy_(2, place, v.to(state["v"].dtype))
            y = attend_one(q, state["k"], state["v"], past)
            return self.output(y.transpose(1, 2).flatten(2)), state, positions
        if state is not None:
            state = {**grow_cache(state, past, past + length, self.window), **before}
            k = write_cache(state["k"], k, past, self.window)  # [B, G, S, N]
            v = write_cache(state["v"], v, past, self.window)
        y = attend(q, k, v, self.kernel, self.window)  # [B, H, T, N]
        y = self.output(y.transpose(1, 2).flatten(2))  # [B, T, H N] to [B, T, C]
        return y, state, positions

    def init_state(self, batch: int, capacity: int | None) -> State:
        """Empty keys and values `[B, G, capacity, N]`, of W tokens at most, and the last tokens of
        the convolution `[B, K-1, (H + 2 G) N]`, if there is one."""
        capacity = min(capacity or 0, self.window or capacity or 0)
        shape, like = (batch, self.n_kv_head, capacity, self.head_size), self.qkv.weight
        state: State = {name: like.new_empty(shape).detach() for name in ("k", "v")}
        return state if self.conv is None else {**state, "conv": self.conv.init_state(batch, like)}

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        """Projections, and two products of `N` per head and query-key pair."""
        pairs = query_key_pairs(length, past, self.window, dense)
        projections = linear_flops(self.qkv, batch * length) + linear_flops(
            self.output, batch * length
        )
        convolution = 0 if self.conv is None else self.conv.flops(batch, length)
        return projections + convolution + 4 * batch * self.n_head * self.head_size * pairs

    def step(self, p: Program, x: Tensor, norm: nn.Module, layer: int) -> None:
        (y,) = p.norm(x, norm)
        qkv = p.linear(y, self.qkv, "qkv")
        out = p.buffer("heads", self.n_head * self.head_size)
        turn = self.rotation
        n = [self.n_head, self.n_kv_head, self.head_size, turn is not None]
        caches = p.cache("k"), p.cache("v")
        scaled = turn.frequencies(self.head_size, "cpu") if turn and turn.factor != 1 else None
        operands = [qkv, *caches, p.place(self.window), out, scaled]
        p.emit("attend", n, operands, turn.base if turn else 0.0)
        p.linear(out, self.output, x, sink="add")

    def kernel_in_use(self) -> str:
        """The kernel of a training step, by name: the one that was found fastest on a GPU, or the
        one that PyTorch dispatches to."""
        heads = (self.n_head, self.n_kv_head, self.head_size)
        return kernel_in_use(self.kernel, self.qkv.weight, *heads, self.window is not None)


def kernel_in_use(
    kernel: str, like: Tensor, n_head: int, n_kv_head: int, head_size: int, masked: bool
) -> str:
    """See `Attention.kernel_in_use`; with weights like this one, and masks or none."""
    if kernel != "auto":
        return kernel
    dtype = like.dtype
    if torch.is_autocast_enabled(like.device.type):
        dtype = torch.get_autocast_dtype(like.device.type)
    if found := in_use(like.device, dtype, n_head, head_size):
        return found
    q = torch.empty(1, n_head, 16, head_size, dtype=dtype, device=like.device)
    keys = 32 if masked else 16  # masks are for windows, and not every kernel can have one
    k = torch.empty(1, n_kv_head, keys, head_size, dtype=dtype, device=like.device)
    mask = torch.ones(16, keys, dtype=torch.bool, device=like.device) if masked else None
    chosen = torch._fused_sdp_choice(
        q, k, k, attn_mask=mask, is_causal=mask is None, enable_gqa=n_head != n_kv_head
    )
    return {backend.value: name for name, backend in KERNELS.items()}[chosen]


class AttentionBlock(Block):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), with dropout on what is added."""

    def __init__(
        self,
        att: Attention,
        ffn: Any,
        norm: Callable[[], LayerNorm | RMSNorm],
        dropout: float | None,
    ) -> None:
        super().__init__()
        self.ln1 = norm()
        self.att = att
        self.ln2 = norm()
        self.ffn = ffn
        self.dropout = dropout

    def forward(self, stream: Stream, state: State | None) -> tuple[Stream, State | None]:
        with matrices_rounded(self):
            mixed, state, _ = self.att(self.ln1(stream.x), state, stream.positions)
            x, normed = self.ln2.of_sum(stream.x, dropout(mixed, self.dropout, self))
            mixed = self.ffn(normed)
        return stream._replace(x=x + dropout(mixed, self.dropout, self)), state

    def init_state(self, batch: int, capacity: int | None) -> State:
        return self.att.init_state(batch, capacity)

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        return sum(part.flops(batch, length, past, dense) for part in (self.att, self.ffn))

    def step(self, program: Program, x: Tensor, layer: int) -> None:
        self.att.step(program, x, self.ln1, layer)
        self.ffn.step(program, x, self.ln2, layer)


class AttentionTrunk(Trunk):
    """A trunk whose state knows how many tokens it has seen, and whose stream carries it."""

    can_span = True
    attends = True
    """Whether any of its blocks is attention."""

    def initialise(self) -> None:
        residual = ("att.output.weight", "ffn.down.weight")
        init_normal(self, self.config.n_layer, residual)
        for block in self.layers:
            if isinstance(block, AttentionBlock) and block.att.conv is not None:
                block.att.conv.reset()

    @property
    def convolves(self) -> bool:
        """Whether queries, keys and values are convolved, for which native steps have no room."""
        return (getattr(self.config, "n_conv", None) or 1) > 1

    @property
    def can_step(self) -> bool:
        is_normed = bool(getattr(self.config, "qk_norm", None))  # which no instruction does
        return self.config.attention in ("auto", "flash") and not is_normed and not self.convolves

    def reserve_cache(self, program: Program, state: State, rows: slice) -> State:
        if not self.attends:
            return state
        past = self.past(state)
        state = {**self.advance(state, 1), "blocks": dict(state["blocks"])}
        rooms = {}
        for layer, block in enumerate(self.layers):
            if isinstance(block, AttentionBlock):
                window = block.att.window
                grown = grow_cache(state["blocks"][str(layer)], past, past + 1, window)
                state["blocks"][str(layer)] = grown
                rooms[window] = grown["k"].shape[2]
        for window, room in rooms.items():
            place = program.place(window)
            place[rows, 0], place[rows, 1] = past, room
        program.positions[rows] = past
        return state

    @property
    def can_fix(self) -> bool:
        return not self.convolves

    def fixed_state(self, state: State, past: int) -> tuple[State, int | None]:
        window = getattr(self.config, "window", None)
        room = room_for(past + AHEAD)
        room = min(room, window or room)
        held = min(past, room)
        device = self.emb.weight.device

        def copied(cache: Tensor) -> Tensor:
            fixed = cache.new_zeros(*cache.shape[:2], room, cache.shape[3])  # no NaN: it is read
            fixed[:, :, :held] = cache[:, :, :held]
            return fixed

        blocks = {layer: map_state(cache, copied) for layer, cache in state["blocks"].items()}
        position = torch.full((1,), past, dtype=torch.int64, device=device)
        return {"position": position, "blocks": blocks}, None if room == window else room

    def tokens_before(self, state: State) -> int:
        return self.past(state)

    def first_position(self, state: State | None, length: int) -> int | Tensor:
        """Where the first of `length` tokens stands in its sequence."""
        if state is not None and "position" in state:
            return state["position"]
        return first_position(self.past(state), length)

    def past(self, state: State | None) -> int:
        """Tokens seen before this call."""
        return 0 if state is None else int(state["length"])

    def init_state(self, batch: int, capacity: int | None = None) -> State:
        blocks = super().init_state(batch, capacity)
        if not self.attends:
            return blocks
        # The length lives on the CPU, so that reading it never waits for the GPU.
        return {"length": torch.tensor(0, device="cpu"), **blocks}

    def advance(self, state: State, length: int) -> State:
        blocks = super().advance(state, length)
        if "position" in state:
            return {"position": state["position"] + length, **blocks}
        return {"length": state["length"] + length, **blocks} if self.attends else blocks

    def param_groups(self) -> list[ParamGroup]:
        return split_decay(self)

    def mixer_backends(self) -> dict[str, str]:
        blocks = [block for block in self.layers if isinstance(block, AttentionBlock)]
        kernels = dict.fromkeys(block.att.kernel_in_use() for block in blocks)
        return {"attention": ", ".join(kernels)}  # several where some layers have a window


def dropout(x: Tensor, share: float | None, module: nn.Module) -> Tensor:
    """x `[B, T, C]` with a share of it zero and the rest scaled up.

    Only if the module is in training mode and where a gradient is wanted: a validation never drops
    anything (Srivastava et al. 2014; on the residual stream as Radford et al. 2019).
    """
    if not share or not module.training or not torch.is_grad_enabled():
        return x
    return F.dropout(x, share)


def check_config(config: Any) -> None:
    """Raise `UserError` if sizes do not divide, the window is empty, the kernel is unknown, or all
    would be dropped."""
    own_size = getattr(config, "head_size", None)
    width, heads = config.n_embd, config.n_head
    groups = getattr(config, "n_kv_head", None) or heads
    window = getattr(config, "window", None)
    if not 0 <= (config.dropout or 0) < 1:
        raise UserError(f"model.dropout={config.dropout} must be at least 0 and below 1")
    if own_size is None and width % heads:
        raise UserError(f"model.n_embd={width} must be a multiple of model.n_head={heads}")
    if heads % groups:
        raise UserError(f"model.n_head={heads} must be a multiple of model.n_kv_head={groups}")
    if config.attention != "auto" and config.attention not in KERNELS:
        names = ", ".join(["auto", *KERNELS])
        raise UserError(f"model.attention={config.attention!r} is not one of {names}")
    if window is not None and window < 1:
        raise UserError(f"model.window={window} must be at least 1: it counts the token itself")


def rope_table(
    past: int | Tensor, length: int, head_size: int, turn: Rotation, like: Tensor
) -> Rope:
    """cos and sin `[T, N/2]`, fp32, of positions past .. past + T - 1."""
    if isinstance(past, Tensor):
        position = (past + torch.arange(length, device=like.device)).float()
    else:
        position = torch.arange(past, past + length, device=like.device, dtype=torch.float32)
    angle = torch.outer(position, turn.frequencies(head_size, like.device))
    return angle.cos(), angle.sin()


def grow_cache(cache: State, past: int, needed: int, window: int | None) -> State:
    """The cache with room for `needed` tokens, or for a window of them; it holds `past`."""
    needed = min(needed, window or needed)

    def grow(buffer: Tensor) -> Tensor:
        if needed <= buffer.shape[2]:
            return buffer
        capacity = max(needed, 2 * buffer.shape[2], MIN_CAPACITY)
        capacity = min(capacity, window or capacity)
        grown = buffer.new_empty(*buffer.shape[:2], capacity, buffer.shape[3])
        grown[:, :, :past] = buffer[:, :, :past]
        return grown

    return {name: grow(cache[name]) for name in ("k", "v")}


def write_cache(buffer: Tensor, new: Tensor, past: int, window: int | None) -> Tensor:
    """Write `[B, G, T, N]` after `past` tokens; returns what the new queries may see.

    Token t is kept at t, or at t mod W where there is a window: beyond W tokens the buffer is a
    ring. What is returned ends with the new tokens, in order, unless there is only one, whose query
    sees the whole ring and does not mind.
    """
    length, end = new.shape[2], past + new.shape[2]
    if window is None or end <= window:
        buffer[:, :, past:end] = new
        return buffer[:, :, :end]
    if length == 1:
        buffer[:, :, past % window] = new[:, :, 0]
        return buffer
    if past:
        old = buffer[:, :, :past] if past < window else buffer.roll(-(past % window), dims=2)
        new = torch.cat((old.to(new.dtype), new), dim=2)
    buffer.copy_(new[:, :, -window:].roll(end % window, dims=2))
    return new
