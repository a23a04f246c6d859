"""The trunk every model shares: embedding, blocks, final norm, head and fused loss.

    stream = embed(tokens)            embedding, plus whatever flows up the stack with it
    stream, state = block(stream, state)        once per layer
    logits = head(norm(stream.x))

Sharing it keeps the comparison fair: the block is the only thing in which two models differ.
The plug-in unit is the block and not the mixer, because RWKV's channel mix carries state too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.contract import ParamGroup, State, clone_state, map_state
from models.decoding.program import Program, applies, invalidate, is_possible, program_for
from models.layers.adapters import Adapted
from models.layers.learned_state import LearnedState
from models.layers.loss import linear_cross_entropy
from models.long_context.packing import hidden_of_documents
from models.ops.intercept import interceptable


class Stream(NamedTuple):
    """What flows from block to block. A block hands on what it does not know."""

    x: Tensor
    """The residual, `[B, T, C]`."""
    positions: Any = None
    """Where attention stands in the sequence (`models.layers.attention_block.Positions`)."""
    first_value: Tensor | None = None
    """The value of the first layer that has one, `[B, T, C]`, which RWKV-7 reads in all others."""


class Block(nn.Module, ABC):
    """One layer: `(stream, state) -> (stream, state)`."""

    @property
    def compile_problem(self) -> str:
        """Why torch's compiler makes no graph of it that does not grow with the sequence, or ""."""
        return ""

    def is_graph(self, state: State | None) -> bool:
        """Whether what it does when it is called now can be such a graph; other calls are run as
        they are."""
        return True

    @abstractmethod
    def forward(self, stream: Stream, state: State | None) -> tuple[Stream, State | None]:
        """Advance the stream by one layer. `None` state in means `None` out."""

    @abstractmethod
    def init_state(self, batch: int, capacity: int | None) -> State:
        """State of this layer before the first token."""

    @abstractmethod
    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        """Forward operations of this layer; see `models.contract.Model.flops`."""

    def learnable_state(self) -> dict[str, Any]:
        """What of the state before the first token a training may learn: the leaves at the values
        it begins with, as `LearnedState` takes them. By default all of them, as they are."""
        return map_state(self.init_state(1, None), lambda leaf: leaf[0])

    def anneal(self, share: float) -> None:
        """Prepare for a training step after this share of the training; see `Trunk.anneal`."""

    def step(self, program: Program, x: Tensor, layer: int) -> None:
        """The layer for a single token, as instructions that advance the buffer x `[B, C]`.

        Optional: a trunk that says `can_step` has blocks that implement it.
        """
        raise NotImplementedError


class Mixer(nn.Module, ABC):
    """The part of a block in which tokens see one another: attention or an RWKV's time mix.

    `beside` is what it reads of the stream beside the residual: positions for attention, the first
    layer's value for an RWKV, which all but RWKV-7 hand on as it is.
    """

    @abstractmethod
    def forward(
        self, x: Tensor, state: State | None, beside: Any
    ) -> tuple[Tensor, State | None, Any]:
        """x `[B, T, C]` to `[B, T, C]`, the state after it, and `beside` for the next layer."""

    @abstractmethod
    def init_state(self, batch: int, capacity: int | None) -> State:
        """The state before the first token."""

    @abstractmethod
    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        """Forward operations of this part; see `models.contract.Model.flops`."""

    def learnable_state(self) -> dict[str, Any]:
        """Its part of the block's; see `Block.learnable_state`."""
        return map_state(self.init_state(1, None), lambda leaf: leaf[0])

    def step(self, p: Program, x: Tensor, norm: nn.Module, layer: int) -> None:
        """Add to the decode program: x `[B, C]` += this part of norm(x), for a single token.

        Optional, as `Block.step` is.
        """
        raise NotImplementedError


class Trunk(nn.Module, ABC):
    """Base of all models; subclasses say how to build a block and how to initialise."""

    Config: ClassVar[type]
    recurrent: ClassVar[bool] = False
    title: ClassVar[str] = ""  # default: the name of the class
    options: ClassVar[tuple[str, ...]] = ()
    length_field: ClassVar[str] = ""
    """The config field that holds the longest context it can read, if it has one."""
    first_layer = 0
    """The lowest of its layers: another one than 0 only in a stack of several kinds of blocks."""
    can_span: ClassVar[bool] = False
    """Whether its blocks mix tokens through operators of `models.ops` alone, so that ranks can
    share a sequence (`models.long_context.sequence_parallel`)."""

    can_file: ClassVar[bool] = True
    """Whether the shapes of a state and its numbers being finite tell that kernels may believe it,
    so that one may come from a file."""
    chooses: ClassVar[bool] = False
    """Whether what a token reads jumps where two scores tie, so that rounding can change it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "title" not in vars(cls):  # a name is not inherited
            cls.title = cls.__name__

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.emb = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(self.build_block(layer) for layer in range(config.n_layer))
        self.ln_out = self.build_norm()
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.gradient_checkpointing = False
        self.is_adapted = False
        """Whether adapters stand beside the weights of layers (`models.tuning`)."""
        self.initial: LearnedState | None = None
        """The state before the first token where it is learned, by layer."""
        self.register_load_state_dict_post_hook(invalidate)
        if getattr(config, "tie_embeddings", None):
            self.tie()
            self.register_load_state_dict_post_hook(Trunk.tie)
        self.initialise()

    def anneal(self, share: float) -> None:
        """Prepare for a training step after this share of the training, from 0 to 1: for layers
        that are computed in another way at its beginning than at its end."""
        for block in self.layers:
            block.anneal(share)

    @classmethod
    def is_recurrent(cls, config: Mapping[str, Any]) -> bool:
        """`recurrent` of a model with these config fields."""
        return cls.recurrent

    @classmethod
    def separator(cls, config: Mapping[str, Any]) -> int | None:
        """The token between the source and the target of a row, for a model with these config
        fields that has no meaning without one (`models.layers.encoder_decoder`)."""
        return None

    def tie(self, *_: Any) -> None:
        """Let the head read the embedding's weight `[V, C]`: one parameter under both names."""
        self.head.weight = self.emb.weight

    def learn_state(self) -> None:
        """Make the state before the first token a parameter. Only for a recurrent model."""
        values = {str(layer): block.learnable_state() for layer, block in enumerate(self.layers)}
        self.initial = LearnedState(values)

    @abstractmethod
    def build_block(self, layer: int) -> Block:
        """The block of one layer, counted from 0."""

    @abstractmethod
    def build_norm(self) -> nn.Module:
        """The final norm over `C`."""

    def initialise(self) -> None:
        """Give the matrices of embedding, blocks and head their initial values, in place. By
        default they keep those of torch."""

    @abstractmethod
    def param_groups(self) -> list[ParamGroup]:
        """See the contract."""

    @abstractmethod
    def mixer_backends(self) -> dict[str, str]:
        """Kernel of the token mixer by operator; part of `backends`."""

    def backends(self) -> dict[str, str]:
        native = self.can_step and is_possible(self)
        return {**self.mixer_backends(), "step": "cpu" if native else "torch"}

    @property
    def layers(self) -> list[Block]:
        """The blocks, under their own type."""
        return cast(list[Block], list(self.blocks))

    def embed(self, tokens: Tensor, state: State | None) -> Stream:
        """Tokens `[B, T]` to the stream the first block reads."""
        return Stream(self.emb(tokens))

    @interceptable
    def hidden(
        self, tokens: Tensor, state: State | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, State | None]:
        """Normed residual `[B, T, C]` that the head reads, and the state after the last token."""
        if starts is not None:
            return hidden_of_documents(self, tokens, starts, state)
        continues = state is not None
        if self.initial is not None and not continues:
            state = self.init_state(len(tokens))
        stream = self.embed(tokens, state)
        after: State | None = None if state is None else self.advance(state, tokens.shape[1])
        for layer, block in enumerate(self.layers):
            before = None if state is None else state["blocks"][str(layer)]
            if self.gradient_checkpointing and torch.is_grad_enabled():
                stream, new = checkpoint(block, stream, before, use_reentrant=False)
            else:
                stream, new = block(stream, before)
            if after is not None:
                after["blocks"][str(layer)] = new
        return self.ln_out(stream.x), after if continues else None

    def forward(
        self, tokens: Tensor, state: State | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, State | None]:
        if state is not None and starts is None and self.can_step and applies(self, tokens):
            return self.step(tokens, state)
        hidden, state = self.hidden(tokens, state, starts)
        return self.head(hidden), state

    def next_logits(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, after = self.hidden(tokens, state)
        assert after is not None
        return self.head(hidden[:, -1]), after

    @property
    def can_step(self) -> bool:
        """Whether the blocks implement `step`, and no kernel that it lacks was chosen by hand."""
        return False

    @property
    def can_fix(self) -> bool:
        """Whether `fixed_state` is implemented."""
        return self.recurrent

    def fixed_state(self, state: State, past: int) -> tuple[State, int | None]:
        """A copy of the state after `past` tokens in buffers of a size that does not change with
        the next, for `hidden` of one token; and the tokens after which they are full, if ever."""
        return clone_state(state), None

    def tokens_before(self, state: State) -> int:
        """How many tokens came before, where that is asked for."""
        return 0

    def check_length(self, end: int) -> None:
        """Raise `UserError` if the model cannot read `end` tokens."""

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """`forward` of one token `[B, 1]`, as one native call (models/decoding/program.py)."""
        program = program_for(self, len(tokens))
        state = self.reserve_cache(program, state, slice(None))
        return self._run(program, tokens, [state]), state

    def step_apart(self, tokens: Tensor, states: Sequence[State]) -> tuple[Tensor, list[State]]:
        """One native call for tokens `[B, 1]` of B sequences, whose states are of different lengths
        and stay where they are. Only where `can_step_apart`, and as for `step`."""
        program = program_for(self, len(tokens))
        rows = [slice(row, row + 1) for row in range(len(tokens))]
        ready = [self.reserve_cache(program, *each) for each in zip(states, rows, strict=True)]
        return self._run(program, tokens, ready), ready

    @property
    def can_step_apart(self) -> bool:
        """Whether `step_apart` can be called on the model as it is now."""
        return self.can_step and is_possible(self) and program_for(self, 1).has_caches_alone

    def _run(self, program: Program, tokens: Tensor, states: Sequence[State]) -> Tensor:
        """Logits `[B, 1, V]`."""
        logits = torch.empty(len(tokens), 1, self.config.vocab_size, dtype=torch.float32)
        program.run(tokens.contiguous(), states, logits)
        return logits.to(self.emb.weight.dtype)

    def reserve_cache(self, program: Program, state: State, rows: slice) -> State:
        """The state of these rows with its leaves ready to be advanced by one token in place."""
        return state

    def write_step(self, program: Program) -> Program:
        """The whole model for a single token, as instructions."""
        x = program.buffer("x", self.config.n_embd)
        self.embed_step(program, x)
        for layer, block in enumerate(self.layers):
            program.prefix = ("blocks", str(layer))
            block.step(program, x, layer)
        (normed,) = program.norm(x, self.ln_out)
        program.linear(normed, self.head, program.logits)
        return program

    def embed_step(self, program: Program, x: Tensor) -> None:
        """The embedding of the token, into x."""
        program.emit("embed", [x.shape[1]], [program.tokens, self.emb.weight, None, x])

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        state: State | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, State | None]:
        loss, _, state = self.objective(tokens, targets, state, starts=starts)
        return loss, state

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
        hidden, state = self.hidden(tokens, state, starts)
        weight = self.head.weight
        return *linear_cross_entropy(hidden, weight, targets, l2wrap, z_loss, total), state

    def init_state(self, batch: int, capacity: int | None = None) -> State:
        blocks = {
            str(layer): block.init_state(batch, capacity) for layer, block in enumerate(self.layers)
        }
        return {"blocks": blocks if self.initial is None else self.initial.put_into(blocks)}

    def advance(self, state: State, length: int) -> State:
        """The part of the state above the blocks after `length` more tokens."""
        return {"blocks": {}}

    def flops(self, batch: int, length: int, past: int = 0, dense: bool = False) -> int:
        head = linear_flops(self.head, batch * length)
        return head + sum(block.flops(batch, length, past, dense) for block in self.layers)


def linear_flops(layer: nn.Linear, rows: int) -> int:
    """Two operations per weight and row, those of an adapter included."""
    sides = layer.in_features + layer.out_features
    beside = len(layer.lora_A) * sides if isinstance(layer, Adapted) else 0
    return 2 * rows * (layer.in_features * layer.out_features + beside)
