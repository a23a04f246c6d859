"""Decoding on the CPU: one token through a whole model in one native call.

A single token costs a pass over the weights and little arithmetic, so at sizes a CPU can hold the
hundreds of torch calls it takes would be what one measures. Each model therefore also writes
its block as instructions for `cuda/cpu/decode.cpp` (`Block.step`), both families alike.

`run` is taken by `Trunk.forward` where nobody could see the difference: one token per row, a state,
no gradient, the CPU, one dtype throughout, and no tracer or counter that watches torch's calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_int64, c_void_p
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from models.contract import State
from models.ops import backends
from models.ops.cpu_library import CpuLibrary
from models.ops.intercept import intercepted

CODES = (
    "embed", "copy", "norm", "linear", "low_rank", "swiglu",
    "wkv4", "wkv6", "wkv7", "mix6", "attend",
)  # fmt: skip
ACTIVATIONS = ("none", "tanh", "sigmoid", "squared_relu", "gelu", "gelu_tanh")
SINKS = ("set", "add", "add_gated")
MOST_ROWS = 32
"""Sequences decoded together; above it torch's matrix products are the better choice."""
BYTES_PER_THREAD = 1 << 18
"""Weights below which a second thread costs more than it saves."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

library = CpuLibrary(
    "step",
    ["cpu/decode.cpp"],
    ["cpu/rows.h", "cpu/vec.h", "common/elements.h"],
    {"step": [c_int64, c_void_p, c_void_p, c_int64]},
)


class Leaf:
    """A tensor of the state, by its path in the tree; its address is looked up at every call."""

    def __init__(self, *path: str) -> None:
        self.path = path


class Cache(Leaf):
    """A leaf of which each row has an address, so that rows may be caches of a length each."""


class Program:
    """Instructions for one model and one batch size, and the buffers between them.

    Tensors of the model, buffers and state leaves are operands alike. Buffers `[B, width]` are
    fp32 and shared by all blocks under their name.
    """

    def __init__(self, batch: int, dtype: torch.dtype) -> None:
        self.batch, self.dtype = batch, dtype
        self.prefix: tuple[str, ...] = ()
        self._rows: list[list[int]] = []
        self._operands: list[Tensor | Leaf] = []
        self._places: dict[Any, int] = {}
        self._buffers: dict[tuple[str, int], Tensor] = {}
        self.tokens = Leaf("tokens")
        self.logits = Leaf("logits")
        self.positions = torch.zeros(batch, dtype=torch.int64)
        """Tokens that each row has seen before this one."""
        self.places: dict[int | None, Tensor] = {}
        """By window of the layers that have caches: what each row has seen before this token, and
        the room of its cache, `[B, 2]` in tokens."""

    def buffer(self, name: str, width: int) -> Tensor:
        """The buffer `name` of this width, made at its first use: blocks may differ in theirs."""
        if (name, width) not in self._buffers:
            self._buffers[name, width] = torch.zeros(self.batch, width, dtype=torch.float32)
        return self._buffers[name, width]

    def place(self, window: int | None) -> Tensor:
        """Where the next token stands in the caches of layers with this window; see `places`."""
        if window not in self.places:
            self.places[window] = torch.zeros(self.batch, 2, dtype=torch.int64)
        return self.places[window]

    def leaf(self, *path: str) -> Leaf:
        """A leaf of the current block's state."""
        return Leaf(*self.prefix, *path)

    def cache(self, *path: str) -> Cache:
        """A cache of the current block's state, `[B, ...]`."""
        return Cache(*self.prefix, *path)

    def norm(
        self,
        x: Tensor,
        norm: nn.Module,
        shift: Leaf | None = None,
        mixes: tuple[Tensor, ...] = (),
        of_current: bool = True,
        keep: tuple[Tensor, Tensor] | None = None,
    ) -> list[Tensor]:
        """The norm of x; with `mixes`, its blends with the last token's, which `shift` holds.

        `of_current` says whose share the mixes are. `keep` receives the norm and the last one.
        """
        width, parameters = x.shape[1], dict(norm.named_parameters())
        outs = [self.buffer(f"mix {m}", width) for m in range(max(len(mixes), 1))]
        p = [x, parameters["weight"], parameters.get("bias"), shift, *_padded(mixes, 6)]
        p += [*_padded(outs, 6), *(keep or ())]
        rms = not isinstance(norm, nn.LayerNorm)
        n = [width, len(mixes), of_current, rms]
        self.emit("norm", n, p, float(norm.eps))  # type: ignore[arg-type]
        return outs

    def linear(
        self,
        x: Tensor,
        layer: nn.Linear,
        out: Tensor | Leaf | str,
        activation: str = "none",
        sink: str = "set",
        gate: Tensor | None = None,
        parallel: bool = False,
    ) -> Any:
        """out = activation(W x + bias), or added to it, or added after sigmoid(gate) scaled it."""
        if isinstance(out, str):
            out = self.buffer(out, layer.out_features)
        n = [layer.in_features, layer.out_features]
        n += [ACTIVATIONS.index(activation), SINKS.index(sink)]
        matrix, scales = _matrix(layer)
        self.emit("linear", n, [x, matrix, layer.bias, gate, out, scales], parallel=parallel)
        return out

    def swiglu(self, x: Tensor, layer: nn.Linear, out: str) -> Tensor:
        """out = silu(W_0 x + b_0) * (W_1 x + b_1); the layer has the rows of W_0, then of W_1."""
        result = self.buffer(out, layer.out_features // 2)
        matrix, scales = _matrix(layer)
        n = [layer.in_features, layer.out_features // 2]
        self.emit("swiglu", n, [x, matrix, result, layer.bias, scales])
        return result

    def low_rank(
        self, x: Tensor, matrix: Tensor, out: str, activation: str = "none", parallel: bool = False
    ) -> Tensor:
        """out = activation(x M) for M `[in, out]`."""
        result = self.buffer(out, matrix.shape[1])
        n = [*matrix.shape, ACTIVATIONS.index(activation)]
        self.emit("low_rank", n, [x, matrix, result], parallel=parallel)
        return result

    def emit(
        self,
        code: str,
        n: list[int],
        p: list[Tensor | Leaf | None],
        f: float = 0.0,
        parallel: bool = False,
    ) -> None:
        """Append an instruction; what n, p and f mean is said in `cuda/cpu/decode.cpp`.

        `parallel`: it does not read what the one before it writes, and may run at the same time.
        """
        real = np.array([f, 0.0]).view(np.int64).tolist()
        places = [-1 if x is None else self._place(x) for x in p]
        head = [CODES.index(code), int(parallel), *map(int, n), *[0] * (6 - len(n))]
        self._rows.append([*head, *places, *[-1] * (20 - len(places)), *real])

    def _place(self, operand: Tensor | Leaf) -> int:
        key = operand.path if isinstance(operand, Leaf) else operand.data_ptr()
        if key not in self._places:
            assert isinstance(operand, Leaf) or operand.is_contiguous()
            self._places[key] = len(self._operands)
            self._operands.append(operand)
        return self._places[key]

    def finish(self) -> None:
        """Freeze the instructions, after the last `emit`."""
        self._program = np.array(self._rows, dtype=np.int64)
        self._fixed = [
            (place, x) for place, x in enumerate(self._operands) if isinstance(x, Tensor)
        ]
        leaves = [(place, x) for place, x in enumerate(self._operands) if isinstance(x, Leaf)]
        self._leaves = [(place, x.path) for place, x in leaves if not isinstance(x, Cache)]
        self._caches = [
            (place, x.path, np.zeros(self.batch, dtype=np.int64))
            for place, x in leaves
            if isinstance(x, Cache)
        ]
        self._table = (c_void_p * len(self._operands))()
        self._addresses = [x.data_ptr() for _, x in self._fixed]
        for place, x in self._fixed:
            self._table[place] = x.data_ptr()
        for place, _, addresses in self._caches:
            self._table[place] = addresses.ctypes.data
        weights = sum(x.numel() * x.element_size() for _, x in self._fixed)
        self._threads = max(1, weights // BYTES_PER_THREAD)

    def is_current(self) -> bool:
        """Whether the weights still are where they were."""
        return [x.data_ptr() for _, x in self._fixed] == self._addresses

    @property
    def has_caches_alone(self) -> bool:
        """Whether every leaf of the state is a cache, so that each row may have a state of its
        own."""
        return all(path in (("tokens",), ("logits",)) for _, path in self._leaves)

    def run(self, tokens: Tensor, states: Sequence[State], logits: Tensor) -> None:
        """Tokens `[B]` to fp32 logits `[B, V]`; updates the leaves of the states in place.

        There is one state of all rows, or, where it is all caches, one of each row.
        """
        given = {"tokens": tokens, "logits": logits, **states[0]}
        for place, path in self._leaves:
            self._table[place] = _leaf(given, path).data_ptr()
        for _, path, addresses in self._caches:
            if len(states) == self.batch:  # a single row too, for which this is the faster way
                for row, state in enumerate(states):
                    addresses[row] = _leaf(state, path).data_ptr()
            else:
                leaf = _leaf(states[0], path)
                size = leaf.stride(0) * leaf.element_size()
                addresses[:] = leaf.data_ptr() + size * np.arange(self.batch)
        name = f"step_{str(self.dtype).removeprefix('torch.')}"
        threads = min(torch.get_num_threads(), self._threads)
        function = getattr(library.load(), name)
        function(len(self._program), self._program.ctypes.data, self._table, self.batch, threads)


def _leaf(state: State, path: tuple[str, ...]) -> Tensor:
    leaf: Any = state
    for name in path:
        leaf = leaf[name]
    return leaf


def _matrix(layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """A layer's matrix, and the scales of its rows if these are int8."""
    rows = getattr(layer, "rows", None)
    return (layer.weight, None) if rows is None else (rows, layer.get_buffer("scales"))


def _padded(operands: Any, count: int) -> list[Any]:
    return [*operands, *[None] * (count - len(operands))]


_programs: WeakKeyDictionary[nn.Module, dict[int, Program]] = WeakKeyDictionary()


def is_possible(model: Any) -> bool:
    """Whether single tokens of `model` can be native steps, as it is now."""
    weight = model.emb.weight
    usable = weight.device.type == "cpu" and weight.dtype in _DTYPES
    usable = usable and not model.is_adapted  # instructions read the weights of a layer alone
    return usable and backends.resolve("step", "auto", weight.device) == "cpu"


def applies(model: Any, tokens: Tensor) -> bool:
    """Whether this call, which has a state, may be one native step."""
    return (
        tokens.shape[1] == 1
        and tokens.shape[0] <= MOST_ROWS
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and not intercepted()
        and not torch.is_autocast_enabled("cpu")
        and is_possible(model)
    )


def program_for(model: Any, batch: int) -> Program:
    """The program of a model for a batch, written at its first use and when weights have moved."""
    programs = _programs.setdefault(model, {})
    program = programs.get(batch)
    if program is None or program.dtype != model.emb.weight.dtype or not program.is_current():
        program = programs[batch] = model.write_step(Program(batch, model.emb.weight.dtype))
        program.finish()
    return program


def invalidate(model: nn.Module, *_: Any) -> None:
    """Drop a model's programs: its parameters may have been replaced by others."""
    _programs.pop(model, None)
