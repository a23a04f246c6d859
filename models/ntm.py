"""The Neural Turing Machine (Graves, Wayne and Danihelka 2014, arXiv 1410.5401), one per block.

An LSTM with a memory of S slots of M numbers that it reads and writes by weightings w over the
slots, one for each head. A head addresses in four steps (equations 5 to 9):

    w_c = softmax_i(beta cos(k, m_i))                     by content
    w_g = g w_c + (1 - g) w_{t-1}                         or where it was
    w_s(i) = sum_j s(j) w_g(i - j)                        shifted round the circle of slots
    w_t = w_s^gamma / sum w_s^gamma                       and sharpened

Heads that read return r = sum_i w(i) m_i, which the controller reads with the next token and the
block adds to the controller's output at once; those that write then erase and add (3 and 4):

    m_i <- m_i (1 - w(i) e) + w(i) a

A token's state per layer is h, c, the reads, the weightings and the memory. Its steps depend on
each other through matrices, so time cannot be parallel, and a step is some forty operations of
PyTorch: small models take half a millisecond a step, whatever the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from models.contract import State
from models.layers.mixer_block import MixerBlock, MixerTrunk
from models.layers.norms import RMSNorm
from models.layers.trunk import Mixer, linear_flops
from models.transformer import FeedForward

SMALLEST = 1e-4
"""Added to the squared length of a slot: an empty one is like no key, and has a gradient."""


@dataclass(frozen=True)
class NTMConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C], of the controller too
    n_ffn: int | None = None  # [F]; default 3 C / 2
    n_slots: int = 32  # slots of a memory
    slot_size: int = 20  # numbers of a slot
    n_heads: int = 1  # heads that read, and as many that write
    # Slots that a head may move at a step; 0: none, it finds by content alone.
    shift_range: int = field(default=1, metadata={"low": 0})
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("n_slots", "slot_size", "n_heads"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}={getattr(self, name)} must be 1 or more")
        if not 0 <= 2 * self.shift_range < self.n_slots:
            raise UserError(
                f"model.shift_range={self.shift_range} must be 0 or more, and less than half of "
                f"model.n_slots={self.n_slots}"
            )


class TuringMachine(Mixer):
    """h + W r of each token. Computed in fp32 or wider, also under autocast: weightings are
    sharpened step by step, and errors with them."""

    def __init__(self, config: NTMConfig) -> None:
        super().__init__()
        width, self.config = config.n_embd, config
        read = config.n_heads * config.slot_size
        self.moves = 2 * config.shift_range + 1
        self.input = nn.Linear(width, 4 * width)
        self.recurrent = nn.Linear(width + read, 4 * width, bias=False)
        self.parts = (2 * read, 2 * config.n_heads * (3 + self.moves), 2 * read)
        """Numbers that the controller tells all heads: keys; beta, g, gamma and s; e and a."""
        self.heads = nn.Linear(width, sum(self.parts))
        self.output = nn.Linear(read, width, bias=False)

    def forward(
        self, x: Tensor, state: State | None, beside: Any
    ) -> tuple[Tensor, State | None, Any]:
        """x `[B, T, C]` to `[B, T, C]`."""
        before = self.init_state(len(x), None) if state is None else state
        with torch.autocast(x.device.type, enabled=False):
            wide = torch.promote_types(x.dtype, torch.float32)
            now = {name: leaf.to(wide) for name, leaf in before.items()}
            dtype = self.input.weight.dtype
            inputs, steps = self.input(x.to(dtype)).to(wide), []
            for gates in inputs.unbind(1):
                now = self._step(gates, now)
                steps.append((now["h"], now["reads"]))
            h, reads = (torch.stack(each, dim=1) for each in zip(*steps, strict=True))
            y = h + self.output(reads.to(dtype)).to(wide)
        return y.to(x.dtype), None if state is None else now, beside

    def _step(self, gates: Tensor, state: State) -> State:
        """One token: `gates` `[B, 4 C]` is what the controller's gates have of it."""
        wide, dtype = gates.dtype, self.input.weight.dtype
        before = torch.cat((state["h"], state["reads"]), dim=1)
        gates = gates + self.recurrent(before.to(dtype)).to(wide)
        width = state["h"].shape[1]
        enter, forget, leave = gates[:, : 3 * width].sigmoid().chunk(3, dim=1)
        c = forget * state["c"] + enter * gates[:, 3 * width :].tanh()
        h = leave * c.tanh()
        keys, how, change = self.heads(h.to(dtype)).to(wide).split(self.parts, dim=1)
        memory, count = state["memory"], self.config.n_heads  # [B, S, M]
        weightings = self._address(
            keys.unflatten(1, (2 * count, -1)), how.unflatten(1, (2 * count, -1)), memory,
            state["weightings"],
        )  # fmt: skip
        reading, writing = weightings.split(count, dim=1)  # [B, H, S] each
        erase, add = change.unflatten(1, (2 * count, -1)).split(count, dim=1)  # [B, H, M] each
        reads = torch.bmm(reading, memory).flatten(1)
        for weights, part in zip(writing.unbind(1), erase.sigmoid().unbind(1), strict=True):
            memory = memory - memory * (weights[..., None] * part[:, None])
        memory = torch.baddbmm(memory, writing.transpose(1, 2), add.tanh())
        return {"h": h, "c": c, "reads": reads, "weightings": weightings, "memory": memory}

    def _address(self, keys: Tensor, how: Tensor, memory: Tensor, before: Tensor) -> Tensor:
        """Weightings `[B, 2 H, S]` of keys `[B, 2 H, M]`, from those `before`."""
        length = (memory.square().sum(-1) + SMALLEST).sqrt()  # [B, S]
        alike = torch.bmm(F.normalize(keys, dim=-1), memory.transpose(1, 2)) / length[:, None]
        beta, gamma = F.softplus(how[..., :2]).split(1, dim=-1)
        by_content = (beta * alike).softmax(-1)
        weightings = torch.lerp(before, by_content, how[..., 2:3].sigmoid())
        if self.moves > 1:
            weightings = _shifted(weightings, how[..., 3:].softmax(-1))
        powers = (weightings / weightings.amax(-1, keepdim=True)) ** (1 + gamma)
        return powers / powers.sum(-1, keepdim=True)

    def reset(self) -> None:
        """Initial values of the biases: those of torch's linear layers are drawn, these are 0."""
        for layer in (self.input, self.heads):
            nn.init.zeros_(layer.bias)

    def init_state(self, batch: int, capacity: int | None) -> State:
        """h and c `[B, C]`, reads `[B, H M]`, weightings `[B, 2 H, S]` and memory `[B, S, M]`: an
        empty memory, all heads at its first slot."""
        c, device = self.config, self.output.weight.device
        shapes = {
            "h": (c.n_embd,), "c": (c.n_embd,), "reads": (c.n_heads * c.slot_size,),
            "weightings": (2 * c.n_heads, c.n_slots), "memory": (c.n_slots, c.slot_size),
        }  # fmt: skip
        state = {
            name: torch.zeros(batch, *shape, dtype=torch.float32, device=device)
            for name, shape in shapes.items()
        }
        state["weightings"][..., 0] = 1
        return state

    def learnable_state(self) -> dict[str, Any]:
        """All but the weightings, which would not stay such."""
        state = self.init_state(1, None)
        return {name: leaf[0] for name, leaf in state.items() if name != "weightings"}

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        """The controller and its heads; keys against slots, reads and writes."""
        c, rows = self.config, batch * length
        linears = (self.input, self.recurrent, self.heads, self.output)
        of_heads = 2 * c.n_heads * 4 * c.n_slots * c.slot_size
        return sum(linear_flops(layer, rows) for layer in linears) + rows * of_heads


def _shifted(weightings: Tensor, moves: Tensor) -> Tensor:
    """Weightings `[B, 2 H, S]` round their circle by the moves `[B, 2 H, 2 R + 1]`, R back to R
    forward, each with its share."""
    reach, slots = moves.shape[-1] // 2, weightings.shape[-1]
    parts = (weightings[..., -reach:], weightings, weightings[..., :reach])
    round_twice = torch.cat(parts, dim=-1)
    ahead = moves.flip(-1).split(1, dim=-1)
    shifted = round_twice[..., :slots] * ahead[0]
    for offset, share in enumerate(ahead[1:], start=1):
        shifted = torch.addcmul(shifted, round_twice[..., offset : offset + slots], share)
    return shifted


class NTMBlock(MixerBlock):
    """The Transformer's block around a Turing machine."""

    compile_problem = "a compiler would unroll its recurrence, one step for every token"


class NTM(MixerTrunk):
    """Embedding, L blocks, RMSNorm, head; the order of tokens enters through the recurrence."""

    Config = NTMConfig
    title = "the Neural Turing Machine"
    recurrent = True
    options = ("n_slots", "slot_size", "n_heads", "shift_range")

    def build_block(self, layer: int) -> NTMBlock:
        c = self.config
        ffn = FeedForward(c.n_embd, c.n_ffn or 3 * c.n_embd // 2)
        return NTMBlock(TuringMachine(c), ffn, self.build_norm)

    def build_norm(self) -> RMSNorm:
        return RMSNorm(self.config.n_embd, self.config.norm_eps)

    def mixer_backends(self) -> dict[str, str]:
        return {"ntm": "torch"}
