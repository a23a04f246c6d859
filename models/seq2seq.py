"""Sequence to sequence: a bidirectional LSTM reads the source, an LSTM writes the target.

The model in which attention was invented (Sutskever, Vinyals and Le 2014, arXiv 1409.3215, without;
Bahdanau, Cho and Bengio 2014, arXiv 1409.0473, with it), in the form of Luong, Pham and Manning
(2015, arXiv 1508.04025): the state is fed to the score, and what was read is fed to the next step.

    h = [forward LSTM ; backward LSTM](emb(source))            [B, S, C], layers added up
    s_t = LSTM([emb(y_t) ; a_{t-1}], s_{t-1})                  s_0 = tanh(W [last ; first of h])
    c_t = context of h by the alignment of s_t                 models/layers/alignment.py
    a_t = tanh(W_c [c_t ; s_t])                                input feeding: the next step reads it
    logits = head(norm(a_t + W_down gelu(W_up norm(a_t))))

With `attention=none` a_t = tanh(W_c s_t): all that is known of the source is s_0.

With `selection=hard` the context is one h_j. In a training step j is drawn from the alignment, and
learned by REINFORCE (Williams 1992; Xu et al. 2015, arXiv 1502.03044, section 4.1): the return of
step t is the log likelihood of the targets from t on, a learned baseline of the state is taken
from it, and the entropy of the alignment is rewarded. Elsewhere j is the likeliest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError
from models.contract import ParamGroup, State
from models.layers.alignment import REACHES, SCORES, Alignment, choose
from models.layers.encoder_decoder import EncoderDecoder, Targets, check_mark
from models.layers.init import split_decay
from models.layers.loss import chunk_tokens, linear_cross_entropy
from models.layers.network_block import How, recur
from models.layers.trunk import Block, Stream, linear_flops

ATTENTIONS = ("none", *SCORES)
SELECTIONS = ("soft", "hard")


@dataclass(frozen=True)
class Seq2SeqConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V]
    n_layer: int  # [L], of the encoder and of the decoder
    n_embd: int  # [C]
    n_ffn: int | None = None  # [F], in front of the head; default 4 C
    separator: int | None = None  # token; default the last of the vocabulary
    attention: str = "general"  # none | additive | content | location | general | dot | scaled_dot
    selection: str = "soft"  # soft | hard
    reach: str = "global"  # global | local_m | local_p
    local_window: int = 5  # tokens to each side that local attention sees
    n_positions: int | None = None  # longest row, of location alone
    baseline_weight: float = 0.5  # of its squared error in the objective
    entropy_weight: float = 0.01  # of the alignment's entropy, in nats

    def __post_init__(self) -> None:
        for name, known in (
            ("attention", ATTENTIONS), ("selection", SELECTIONS), ("reach", REACHES),
        ):  # fmt: skip
            if (value := getattr(self, name)) not in known:
                raise UserError(f"model.{name}={value!r} is not one of {', '.join(known)}")
        if self.n_embd % 2:
            raise UserError(f"model.n_embd={self.n_embd} must be even: the encoder reads both ways")
        check_mark(self.separator, self.vocab_size)
        if self.local_window < 1:
            raise UserError(f"model.local_window={self.local_window} must be 1 or more")
        if self.attention == "none" and (self.selection, self.reach) != ("soft", "global"):
            raise UserError(
                "model.attention=none selects nothing: leave out model.selection and model.reach"
            )
        if (self.attention == "location") != (self.n_positions is not None):
            raise UserError(
                "model.attention=location has a weight for each place, and needs "
                "model.n_positions=, the longest row; the others have none"
            )


class EncoderLayer(Block):
    """One layer of the encoder: x + LSTM both ways, or in the first the LSTM alone."""

    compile_problem = "a compiler would unroll its recurrences, one step for every token"

    def __init__(self, width: int, is_first: bool) -> None:
        super().__init__()
        self.onward = nn.LSTM(width, width // 2, batch_first=True)
        self.backward_ = nn.LSTM(width, width // 2, batch_first=True)
        self.is_first = is_first

    def forward(self, stream: Stream, state: State | None) -> tuple[Stream, State | None]:
        """`stream.positions` are the lengths `[B]` of the rows; None: all are full."""
        x, lengths = stream.x, stream.positions
        places = torch.arange(x.shape[1], device=x.device)
        if lengths is None:
            mirrored = places.flip(0).expand(x.shape[:2])
        else:
            mirrored = lengths[:, None] - 1 - places
            mirrored = torch.where(mirrored < 0, places, mirrored)  # behind the end: where it is
        turned = mirrored[..., None].expand_as(x)
        onward = self._run(self.onward, x)
        back = self._run(self.backward_, x.gather(1, turned))
        back = back.gather(1, turned[..., : back.shape[-1]])
        y = torch.cat((onward, back), dim=-1)
        return stream._replace(x=y if self.is_first else x + y), state

    def _run(self, network: nn.LSTM, x: Tensor) -> Tensor:
        before = [x.new_zeros(1, len(x), network.hidden_size) for _ in "hc"]

        def run(
            x: Tensor, before: list[Tensor], weights: list[Tensor], how: How
        ) -> tuple[Tensor, ...]:
            return torch.lstm(x, before, weights, *how)

        dtype = torch.promote_types(x.dtype, torch.float32)
        return recur(network, run, x, before, dtype)[0]

    def init_state(self, batch: int, capacity: int | None) -> State:
        """None: a source is read at once."""
        return {}

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        """Two LSTMs of C / 2, whose gates read C and C / 2 numbers."""
        width = self.onward.input_size
        return 2 * 2 * batch * length * 2 * width * (width + width // 2)


class Decoder(nn.Module):
    """The cells of all layers, the alignment, and what is fed to the next step."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        c, width = config, config.n_embd
        self.config = config
        self.bridge = nn.Linear(width, 2 * c.n_layer * width)
        self.cells = nn.ModuleList(
            nn.Linear((3 if layer == 0 else 2) * width, 4 * width) for layer in range(c.n_layer)
        )
        """Gates i, f, g, o of each layer, of its input and h."""
        self.alignment: Alignment | None = None
        self.baseline: nn.Linear | None = None
        if c.attention != "none":
            self.alignment = Alignment(c.attention, width, c.reach, c.local_window, c.n_positions)
        if c.selection == "hard":
            self.baseline = nn.Linear(width, 1)
        self.combine = nn.Linear(width if self.alignment is None else 2 * width, width, bias=False)
        self.ln = nn.LayerNorm(width)
        hidden = c.n_ffn or 4 * width
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def first_state(self, x: Tensor, lengths: Tensor) -> State:
        """h and c `[O, L, C]` and nothing fed, from the encoder's `[O, S, C]`: its last states."""
        half = x.shape[2] // 2
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, half)
        ends = torch.cat((x[..., :half].gather(1, last)[:, 0], x[:, 0, half:]), dim=-1)
        ends = ends * (lengths > 0)[:, None]
        h, c = self.bridge(ends).unflatten(1, (2, -1, x.shape[2])).unbind(1)
        return {"h": torch.tanh(h), "c": c, "fed": torch.zeros_like(ends)}

    def cell(self, layer: int, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """h and c `[B, C]` after a token whose input is x, `[B, 2 C]` in the first layer."""
        i, f, g, o = self.cells[layer](torch.cat((x, h), dim=-1)).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def select(self, logs: Tensor, query: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weights `[B, S]` of a step from their logs, and for REINFORCE the log probability of
        the choice, its entropy and the baseline, `[B, 3]`."""
        if self.baseline is None:
            return logs.exp(), None
        learns = self.training and torch.is_grad_enabled()
        weights, log_p, entropy = choose(logs, sample=learns)
        if not learns:
            return weights, None
        expected = self.baseline(query.detach())[:, 0].to(log_p.dtype)
        return weights, torch.stack((log_p, entropy, expected), dim=-1)

    def step(
        self, x: Tensor, h: list[Tensor], c: list[Tensor], fed: Tensor, step: Tensor, state: State
    ) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor | None]:
        """One token x `[B, C]`: h and c of all layers, what is fed on, and what `select` gives."""
        z, new_h, new_c = torch.cat((x, fed), dim=-1), [], []
        for layer in range(len(self.cells)):
            out, cell = self.cell(layer, z, h[layer], c[layer])
            new_h.append(out)
            new_c.append(cell)
            z = out if layer == 0 else z + out
        if self.alignment is None:
            return new_h, new_c, torch.tanh(self.combine(z)), None
        memory = state["memory"]
        keys = memory.get("keys", memory["values"])
        logs = self.alignment(z, keys, state["length"], step)
        weights, choice = self.select(logs, z)
        context = torch.einsum("bs,bsc->bc", weights.to(z.dtype), memory["values"].to(z.dtype))
        return new_h, new_c, torch.tanh(self.combine(torch.cat((context, z), dim=-1))), choice

    def forward(self, targets: Targets, state: State) -> tuple[Tensor, State, Tensor | None]:
        """See `EncoderDecoder.decode`."""
        before = state["decoder"]
        h, c, fed = list(before["h"].unbind(1)), list(before["c"].unbind(1)), before["fed"]
        outputs, choices = [], []
        for place in range(targets.x.shape[1]):
            step = targets.before + place
            new = self.step(targets.x[:, place], h, c, fed, step, state)
            is_there = targets.valid[:, place, None]
            h = [torch.where(is_there, a, b) for a, b in zip(new[0], h, strict=True)]
            c = [torch.where(is_there, a, b) for a, b in zip(new[1], c, strict=True)]
            fed = torch.where(is_there, new[2], fed)
            outputs.append(fed)
            if new[3] is not None:
                choices.append(new[3] * is_there)
        y = torch.stack(outputs, dim=1)
        y = y + self.down(F.gelu(self.up(self.ln(y))))
        after = {"h": torch.stack(h, 1), "c": torch.stack(c, 1), "fed": fed}
        return y, after, torch.stack(choices, 1) if choices else None

    def begin_flops(self, source: int) -> int:
        """Operations of the first state and the keys of a source."""
        keys = 0 if self.alignment is None else self.alignment.score.key_flops(source)
        return linear_flops(self.bridge, 1) + keys

    def flops(self, steps: int, pairs: int) -> int:
        """Operations of so many steps, and pairs of one and a token of the source."""
        layers = [*self.cells, self.combine, self.up, self.down]
        total = sum(linear_flops(each, steps) for each in layers)
        if self.alignment is not None:
            width = self.combine.out_features
            total += self.alignment.flops(steps, pairs) + 2 * width * pairs
        return total


class Seq2Seq(EncoderDecoder):
    """Embedding, encoder, decoder, LayerNorm, head."""

    Config = Seq2SeqConfig
    title = "the LSTM encoder-decoder"
    length_field = "n_positions"
    options: ClassVar[tuple[str, ...]] = ("attention", "selection", "reach", "local_window")
    decoder: Decoder

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__(config)
        self._choices: Tensor | None = None
        """What the decoder chose in the last training step, `[B, T, 3]`; see `Decoder.select`."""

    def build_block(self, layer: int) -> EncoderLayer:
        return EncoderLayer(self.config.n_embd, layer == 0)

    def build_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.n_embd)

    def initialise(self) -> None:
        """Torch's own values for networks; embedding and head as everybody's; forget gates open
        (Jozefowicz, Zaremba and Sutskever 2015)."""
        self.decoder = Decoder(self.config)
        nn.init.normal_(self.emb.weight, std=self.config.n_embd**-0.5)
        nn.init.normal_(self.head.weight, std=0.02)
        with torch.no_grad():
            for cell in self.decoder.cells:
                cast(nn.Linear, cell).bias.chunk(4)[1].fill_(1.0)

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        most = self.config.n_positions
        if most is not None and x.shape[1] > most:
            raise UserError(
                f"model.attention=location has {most} places (n_positions), and a source is "
                f"{x.shape[1]} tokens long"
            )
        memory = {}
        if self.decoder.alignment is not None:
            memory["values"] = x
            keys = self.decoder.alignment.score.keys(x)
            if keys is not x:
                memory["keys"] = keys
        return {"memory": memory, "decoder": self.decoder.first_state(x, lengths)}

    def decode(self, targets: Targets, state: State) -> tuple[Tensor, State, Tensor | None]:
        return self.decoder(targets, state)

    @torch.no_grad()
    def aligned(self, tokens: Tensor) -> Tensor:
        """The weights `[B, I, S]` with which the decoder reads rows `[B, T]`: of each token of the
        target, the separator first, over the tokens of the source. Zeros where a row has no more.

        With hard selection the likeliest place has all. Raises `UserError` without attention.
        """
        alignment = self.decoder.alignment
        if alignment is None:
            raise UserError("model.attention=none has no alignment to look at")
        steps: list[Tensor] = []

        def keep(_: nn.Module, given: tuple[Tensor, ...], logs: Tensor) -> None:
            steps.append(self.decoder.select(logs, given[0])[0])

        handle = alignment.register_forward_hook(keep)
        try:
            _, state, _ = self.read(tokens, None)
        finally:
            handle.remove()
        if not steps:
            return self.emb.weight.new_zeros(len(tokens), 0, 0)
        weights = torch.stack(steps, dim=1)
        is_there = torch.arange(len(steps), device=tokens.device) < state["written"][:, None]
        return weights * is_there[..., None]

    def output(self, x: Tensor, beside: Tensor | None) -> Tensor:
        self._choices = beside
        return super().output(x, beside)

    def objective(
        self,
        tokens: Tensor,
        targets: Tensor,
        state: State | None = None,
        l2wrap: float = 0.0,
        starts: Tensor | None = None,
        z_loss: float = 0.0,
        total: float | None = None,
    ) -> tuple[Tensor, Tensor, State | None]:
        """With hard selection, in a training step, minimise what REINFORCE adds too; see the
        contract for the rest. Raises `UserError` for packed documents, whose parts it cannot tell.
        """
        learns = self.config.selection == "hard" and self.training and torch.is_grad_enabled()
        if not learns:
            return super().objective(tokens, targets, state, l2wrap, starts, z_loss, total)
        if starts is not None:
            raise UserError("model.selection=hard learns from whole rows, not packed documents")
        hidden, state = self.hidden(tokens, state)
        choices, self._choices = self._choices, None
        weight = self.head.weight
        objective, loss = linear_cross_entropy(hidden, weight, targets, l2wrap, z_loss, total)
        if choices is not None:
            rewards = self.log_likelihood(hidden.detach(), targets, total is not None)
            objective = objective + self._reinforce(choices, rewards) / (total or targets.numel())
        return objective, loss, state

    def _reinforce(self, choices: Tensor, rewards: Tensor) -> Tensor:
        """The sum over a batch whose gradient is REINFORCE's; see `Decoder.select`, and rewards
        `[B, T]`, the log likelihoods of targets."""
        log_p, entropy, expected = choices.unbind(-1)
        returns = rewards.flip(1).cumsum(1).flip(1)  # from each step to the end
        is_step = log_p.detach() != 0  # a choice of one is no choice, and nothing to learn
        lack = (returns - expected) * is_step
        learned = -(lack.detach() * log_p).sum() - self.config.entropy_weight * entropy.sum()
        return learned + self.config.baseline_weight * lack.square().sum()

    @torch.no_grad()
    def log_likelihood(self, hidden: Tensor, targets: Tensor, masked: bool) -> Tensor:
        """log p of `targets` `[B, T]`, fp32; with `masked` 0 where nothing is asked."""
        rows, wanted = hidden.flatten(0, 1), targets.flatten()
        size = chunk_tokens(hidden.device.type, self.config.vocab_size)
        found = []
        for part, target in zip(rows.split(size), wanted.split(size), strict=True):
            logits = self.head(part)
            logs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
            found.append(logs.gather(1, target.clamp(min=0)[:, None])[:, 0])
        logs = torch.cat(found).view(targets.shape)
        return logs.masked_fill(targets < 0, 0.0) if masked else logs

    def param_groups(self) -> list[ParamGroup]:
        return split_decay(self)

    def mixer_backends(self) -> dict[str, str]:
        return {"lstm": "torch"}

    def row_flops(self, source: int, target: int, before: int, dense: bool) -> int:
        total = self.decoder.flops(target, source * target)
        if before == 0:
            total += sum(block.flops(1, source, 0, dense) for block in self.layers)
            total += self.decoder.begin_flops(source)
        return total
