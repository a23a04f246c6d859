"""One token for every row from buffers that stay where they are, so that a GPU can replay it.

A token is hundreds of launches and little work for each, so that a GPU waits for Python. A CUDA
graph launches all of them at once, but always on the same addresses: the tokens, the state and the
logits therefore have buffers, what the model makes of the state is written back into them, and how
many tokens came before is a number that the device reads. Attention reads its cache up to where the
buffer ends, with what is not written yet masked; when it is full, a larger one is captured.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor

from models.contract import State, clone_state, named_tensors
from models.ops.intercept import intercepted

GRAPH, TORCH = "graph", "torch"
LEAST = 16
"""Tokens from which a capture pays, which takes as long as some of them."""
AHEAD = 256
"""Tokens for which a buffer that grows has room at least."""
WARMUP = 2
_log = logging.getLogger("crossover")


def room_for(needed: int) -> int:
    """Tokens that a buffer holds which must hold `needed`: at most an eighth more, or `AHEAD`."""
    step = max(AHEAD, 1 << max(0, needed.bit_length() - 4))
    return -(-needed // step) * step


class OneToken:
    """A model's forward pass of one token per row, as a function of fixed buffers.

    On a GPU a call replays a captured graph, elsewhere it calls the model. The model is a trunk
    whose `fixed_state` is not None.
    """

    def __init__(self, model: Any, state: State) -> None:
        """Begin after `state`, which is copied. On a GPU that captures, and may raise
        `RuntimeError` where something in the model cannot be."""
        self._model = model
        self.tokens = self.logits = torch.empty(0)
        self.state: State = {}
        self.captures = 0
        """How often the graph was captured, or would have been."""
        self._past = 0
        self._most: int | None = None
        self._graph: Any = None
        self.load(state)

    @property
    def rows(self) -> int:
        """Sequences, each with its own part of the state."""
        return len(self.tokens)

    @torch.no_grad()
    def load(self, state: State) -> None:
        """Go on after `state`, which is copied. Another number of rows is captured anew."""
        rows = max(len(leaf) for _, leaf in named_tensors(state) if leaf.dim())
        if len(self.tokens) != rows:
            weight = self._model.emb.weight
            self.tokens = torch.zeros(rows, 1, dtype=torch.int64, device=weight.device)
            self.logits = weight.new_empty(rows, 1, self._model.config.vocab_size).detach()
        self._past = self._model.tokens_before(state)
        self._place(state)

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, 1]` to the logits `[B, 1, V]`, which the next call overwrites."""
        if self._most is not None and self._past >= self._most:
            self._place(self.state)
        self._model.check_length(self._past + 1)
        self.tokens.copy_(tokens)
        self._graph.replay() if self._graph is not None else self._step()
        self._past += 1
        return self.logits

    def _place(self, state: State) -> None:
        """Copy a state into the buffers; into larger ones, captured anew, where it does not fit."""
        fixed, self._most = self._model.fixed_state(state, self._past)
        old, new = dict(named_tensors(self.state)), dict(named_tensors(fixed))
        if {name: leaf.shape for name, leaf in old.items()} == {
            name: leaf.shape for name, leaf in new.items()
        }:
            for name, leaf in new.items():
                old[name].copy_(leaf)
            return
        self.state, self._graph = fixed, None
        self._capture()

    def _step(self) -> None:
        hidden, after = self._model.hidden(self.tokens, self.state)
        self.logits.copy_(self._model.head(hidden))
        self._put(after)

    def _put(self, after: State) -> None:
        """Write a state into the buffers, but for what is there already."""
        leaves = dict(named_tensors(after))
        for name, buffer in named_tensors(self.state):
            if leaves[name].data_ptr() != buffer.data_ptr():
                buffer.copy_(leaves[name])

    def _capture(self) -> None:
        self.captures += 1
        if self.tokens.device.type != "cuda":
            return
        kept = clone_state(self.state)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # loads kernels, compiles blocks, fills caches
            for _ in range(WARMUP):
                self._step()
                self._put(kept)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        self._graph = graph


class Decoder:
    """Reads tokens one by one after a state, in the fastest way that there is."""

    def __init__(self, model: Any, state: State, expected: int = LEAST) -> None:
        """Begin after `state`, which is consumed; so many tokens are to come."""
        self._model = model
        self._one: OneToken | None = None
        self._state = state
        if expected >= LEAST and can_capture(model):
            try:
                self._one = OneToken(model, state)
                self._state = {}
            except RuntimeError as error:
                _notice(str(error).splitlines()[0])

    @property
    def how(self) -> str:
        """`graph`, or what the model says of its own calls."""
        return GRAPH if self._one else self._model.backends().get("step", TORCH)

    @property
    def state(self) -> State:
        """After what has been read."""
        return self._one.state if self._one else self._state

    def forget(self) -> None:
        """Let go of a state that is not in buffers, until `load`."""
        self._state = {}

    def load(self, state: State) -> None:
        """Go on after `state`, of as many rows; it stays as it is."""
        if self._one is not None:
            self._one.load(state)
        else:
            self._state = clone_state(state)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, 1]` to logits `[B, 1, V]`, which the next call may overwrite."""
        if self._one is not None:
            return self._one(tokens)
        logits, self._state = self._model(tokens, self._state)
        return logits


def can_capture(model: Any) -> bool:
    """Whether single tokens of `model`, as it is now, can be a graph on its GPU."""
    weight = next(iter(model.parameters()), None)
    return (
        weight is not None
        and weight.is_cuda
        and getattr(model, "can_fix", False)
        and not intercepted()
        and not torch.is_autocast_enabled("cuda")
        and not torch.cuda.is_current_stream_capturing()
    )


@functools.cache
def _notice(reason: str) -> None:
    """Say once that tokens are decoded call by call."""
    _log.warning("decoding without a CUDA graph, which is slower (%s)", reason)
