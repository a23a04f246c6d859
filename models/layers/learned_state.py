"""A state before the first token that is learned: what state tuning trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.contract import State


class LearnedState(nn.Module):
    """A tree of parameters with the names of a state's leaves, each for all rows of a batch."""

    def __init__(self, values: dict[str, Any]) -> None:
        """`values` are leaves without the dimension of the batch, which the parameters begin as. Of
        a pair only the first is learned; the second, on the CPU, is the rest of the leaf's rows."""
        super().__init__()
        self._rest: dict[str, Tensor] = {}
        for name, value in values.items():
            if isinstance(value, dict):
                self.add_module(name, LearnedState(value))
                continue
            if isinstance(value, tuple):
                value, self._rest[name] = value
            self.register_parameter(name, nn.Parameter(value.detach().clone()))

    def put_into(self, state: State) -> State:
        """`state` with what is learned in the place of its leaves `[B, ...]`, in tensors of their
        own through which gradients reach the parameters."""
        result = dict(state)
        for name, value in self.named_parameters(recurse=False):
            leaf = state[name]
            whole = value.to(leaf.dtype)
            if name in self._rest:
                whole = torch.cat((whole, self._rest[name].to(leaf)))
            result[name] = whole.expand(leaf.shape).clone()
        for name, part in self.named_children():
            assert isinstance(part, LearnedState)
            result[name] = part.put_into(state[name])
        return result
