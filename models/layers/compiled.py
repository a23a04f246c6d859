"""Blocks compiled by PyTorch: each is one graph without a break, whatever surrounds it.

The forward function of a block is compiled, not the call of the module: the hooks by which FSDP and
ZeRO gather its weights, and activation checkpointing, stay outside and run as ever. Blocks of one
kind share what was compiled, since their weights are inputs of the graph.
"""

from __future__ import annotations

import functools
import importlib
import logging
import shutil
import sys
from types import MethodType
from typing import Any

import torch

from core.errors import UserError
from models.layers.trunk import Block

NONE, AUTO = "none", "auto"
RECOMPILE_LIMIT = 64
"""Variants of one kind of block: the first layer or another, with a state or without, learning or
not, and a few kinds of shapes."""
_log = logging.getLogger("crossover")


def chosen(asked: str, on_gpu: bool) -> str:
    """The compiler's back end that `asked` means; `auto`: inductor on a GPU where it works.

    On a CPU the native kernels are faster than what inductor makes (docs/benchmarks). Raises
    `UserError` if inductor was asked for by name and cannot work.
    """
    if asked == AUTO and not on_gpu:
        return NONE
    backend = "inductor" if asked == AUTO else asked
    if backend == "inductor" and (problem := _problem(on_gpu)):
        if asked != AUTO:
            raise UserError(f"compile={asked} cannot work here: {problem}")
        _notice(problem)
        return NONE
    return backend


def compile_blocks(model: Any, backend: str) -> None:
    """Let every block of `model` run what `backend` makes of it.

    With "none" and for a model that is no trunk nothing is done. Blocks that cannot be one graph
    stay as they are, which is said. A copy of the model has compiled blocks of its own.
    """
    if backend == NONE or not hasattr(model, "layers"):
        return
    # Of an LSTM the weights are read, which torch's compiler would refuse, and its operator keeps a
    # buffer whose size only the library knows.
    config = importlib.import_module("torch._dynamo").config
    config.allow_rnn = config.capture_dynamic_output_shape_ops = True
    for block in model.layers:
        if problem := block.compile_problem:
            _left(type(block).__name__, problem)
        else:
            block.forward = MethodType(_compiled(type(block), backend), block)


def in_use(model: Any) -> dict[str, str]:
    """The back end of the compiler, as an entry of back ends; with how many of the blocks it has
    where not all, and how often it has left a graph to run something else in between, which blocks
    of ours never make it do."""
    blocks = getattr(model, "layers", [])
    functions = [getattr(vars(block).get("forward"), "__func__", None) for block in blocks]
    made = {function: name for (_, name), function in _made.items()}
    names = [made[function] for function in functions if function in made]
    if not names:
        return {"compile": NONE}
    breaks = sum(_counters("graph_break").values())
    share = f", {len(names)} of {len(blocks)} blocks" if len(names) < len(blocks) else ""
    return {"compile": names[0] + share + (f", {breaks} breaks" if breaks else "")}


def graphs() -> int:
    """How many graphs this process has compiled so far."""
    return int(_counters("stats").get("unique_graphs", 0))


def _counters(kind: str) -> Any:
    """Counts of torch's compiler; none before it is used."""
    utils = sys.modules.get("torch._dynamo.utils")
    return {} if utils is None else utils.counters[kind]


_made: dict[tuple[type[Block], str], Any] = {}


def _compiled(kind: type[Block], backend: str) -> Any:
    """The forward function of a kind of block, compiled when it is first called."""
    if (kind, backend) not in _made:
        function: Any = kind.forward
        make: Any = torch.compile  # its overloads do not know the limit
        compiled = make(function, backend=backend, recompile_limit=RECOMPILE_LIMIT)

        def forward(block: Any, stream: Any, state: Any) -> Any:
            return (compiled if block.is_graph(state) else function)(block, stream, state)

        # What decides stays outside of the graph, and is not asked where it is always the same.
        _made[kind, backend] = compiled if kind.is_graph is Block.is_graph else forward
    return _made[kind, backend]


@functools.cache
def _problem(on_gpu: bool) -> str | None:
    """What inductor lacks on this machine, or None."""
    if not any(map(shutil.which, ("cc", "gcc", "clang", "g++", "clang++"))):
        return "there is no C compiler, which it needs"
    if on_gpu and not importlib.import_module("torch.utils._triton").has_triton():
        return "Triton does not work with this GPU"
    return None


@functools.cache
def _left(kind: str, problem: str) -> None:
    """Say once which blocks are not compiled."""
    _log.warning("compile: a %s is not compiled: %s", kind, problem)


@functools.cache
def _notice(problem: str) -> None:
    """Say once that nothing is compiled."""
    _log.warning("compile=auto: blocks are not compiled, which is slower (%s)", problem)
