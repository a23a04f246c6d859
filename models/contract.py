"""What every model promises, whatever its architecture (shape letters: docs/shapes.md).

The training loop and the probes see a model only through this contract, and one test module
(`tests/models/test_contract.py`) checks every law below for every model in `conf/model/`.

A model may read rows of source, separator and target alone, and then says so (`separator_of`).
A model may make whole rows at once and read none, and then says so (`makes_rows`): it has `make`
and of what is below `config`, `objective`, `loss`, `flops`, `param_groups` and `backends`.

Laws
----
* causal: changing token t leaves the logits before t unchanged; batch rows are independent;
* any split of T gives the same logits, down to single tokens;
* documents packed into one row do not see each other: their logits are those of each alone;
* `forward(x, init_state(B))` equals `forward(x)`;
* `next_logits` equals the last position of `forward`;
* `loss` equals `forward` followed by cross entropy, yet never holds `[B, T, V]` logits;
* `flops` agrees with a measured count, and its second difference in length is 0 for a recurrent
  model and for attention beyond its window, and a positive constant for full attention;
* `config` rebuilds the model.

A model that chooses by an argmax keeps them in real numbers: where scores tie but for rounding, a
pass of another shape may choose otherwise. Its laws are checked in fp64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

# A tree of named tensors: nested dicts whose leaves are tensors. Nothing else, so that any state
# can be detached, moved, saved and counted without knowing the model it came from.
State = dict[str, Any]

TRAINING_FACTOR = 3
"""Operations of a training pass, as a multiple of `Model.flops`: the backward pass costs two
forward passes, one product for the inputs and one for the weights."""


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a learning-rate multiplier and a weight-decay switch."""

    names: tuple[str, ...]
    lr_scale: float = 1.0
    decay: bool = False


@runtime_checkable
class Model(Protocol):
    """The members the bench uses. `models.layers.trunk.Trunk` provides most of them."""

    config: Any
    """Frozen dataclass; `type(model)(config)` builds an equal model."""

    recurrent: bool
    """Whether the state has one size whatever the context, and carries gradients."""

    title: str
    """Its name inside a sentence, article included: `RWKV-7`, `the Transformer`."""

    options: tuple[str, ...]
    """Config fields that change how it computes, at the same size and name."""

    length_field: str
    """The config field that holds the longest context it can read; empty: there is none."""

    def __call__(
        self, tokens: Tensor, state: State | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, State | None]:
        """See `forward`."""
        ...

    def forward(
        self, tokens: Tensor, state: State | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, State | None]:
        """Parallel pass over `tokens[B, T]`, continuing from `state`.

        Returns logits `[B, T, V]` and the state after the last token. `None` in means `None` out:
        training pays for no cache. A state passed in is consumed (caches may be written in
        place): `clone_state` it first to continue from one point twice.

        `starts[B, T]`, bool, is true where another document begins, which then is read as if it
        were alone; a row's first token begins one unless a state is given. Only a recurrent model
        takes both.
        """
        ...

    def next_logits(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits `[B, V]` of the token after the prompt `tokens[B, T]`, and the state.

        What generation needs of `forward`, without the logits of every earlier position.
        """
        ...

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        state: State | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, State | None]:
        """Mean cross entropy of `targets[B, T]`, nats per token, fp32 scalar; and the state."""
        ...

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
        """What to minimise, the loss to report (without gradient), and the state.

        They differ by `l2wrap` / 2 times the mean of (largest logit)^2 over positions, and by
        `z_loss` times that of (log Z)^2, Z the normaliser of the softmax.

        With `total`, negative targets are not learned, and what would be means are the sums over
        the others divided by `total`.
        """
        ...

    def init_state(self, batch: int, capacity: int | None = None) -> State:
        """The state before the first token. `capacity` is a hint in tokens for growing caches."""
        ...

    def flops(self, batch: int, length: int, past: int = 0, dense: bool = False) -> int:
        """Forward operations of the reference algorithm for `length` tokens after `past` tokens.

        A total, not per token; two per multiply-add. Causal work is counted exactly; `dense`
        counts every query against every key instead (the convention of most published MFU), or
        against a whole window of keys where attention has one.
        """
        ...

    def param_groups(self) -> list[ParamGroup]:
        """Every parameter name exactly once, with its learning-rate scale and decay."""
        ...

    def backends(self) -> dict[str, str]:
        """Kernels in use by operator, `{"wkv": "cpu", "step": "cpu"}` or `{"attention": "flash",
        "step": "torch"}`; `step` decodes single tokens."""
        ...


def most_tokens(model: Model) -> int | None:
    """The longest context that the model can read, as its `length_field` says; None: any."""
    return getattr(model.config, model.length_field) if model.length_field else None


def separator_of(model: Model) -> int | None:
    """The token that must end the source of each row before the model writes a target; None: it
    reads any row. See `models.layers.trunk.Trunk.separator`, which a model may lack."""
    ask = getattr(type(model), "separator", None)
    return None if ask is None else ask(vars(model.config))


def makes_rows(model: Model | type) -> bool:
    """Whether it makes whole rows, `model.make(count, length, generator)`, instead of reading them
    token by token: it then has no logits, no state and nothing to say about a text."""
    return bool(getattr(model, "makes_rows", False))


def named_tensors(state: State, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every leaf of a state tree as `(dotted name, tensor)`, in insertion order."""
    for name, value in state.items():
        path = f"{prefix}{name}"
        if isinstance(value, Tensor):
            yield path, value
        else:
            yield from named_tensors(value, f"{path}.")


def state_bytes(state: State) -> int:
    """Bytes of all leaves of a state tree."""
    return sum(leaf.nbytes for _, leaf in named_tensors(state))


def map_state(state: State, change: Any) -> State:
    """A new tree of the same shape with `change(tensor)` at every leaf."""
    return {
        name: change(value) if isinstance(value, Tensor) else map_state(value, change)
        for name, value in state.items()
    }


def combine_states(states: Sequence[State], combine: Any) -> State:
    """A tree of the same shape as all of `states`: `combine([tensor, ...])` at every leaf."""
    return {
        name: combine([state[name] for state in states])
        if isinstance(value, Tensor)
        else combine_states([state[name] for state in states], combine)
        for name, value in states[0].items()
    }


def clone_state(state: State) -> State:
    """An independent copy, to continue from one point more than once."""
    return map_state(state, torch.clone)


def detach_state(state: State) -> State:
    """Cut a state out of the autograd graph (truncated back-propagation, generation)."""
    return map_state(state, torch.Tensor.detach)
