"""What the pickles in a file of `torch.save` would do and make, found without executing them.

The unpickler runs no foreign code, but makes whatever containers it is told to: a name of a hundred
bytes can stand for 2^60 values, whose hash alone would take for ever.
"""

from __future__ import annotations

import gc
import io
import pickletools
import zipfile
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

HEAD = 1 << 26  # bytes of a pickle that are read, more than any real one of names needs
OPCODES = 1 << 21  # of a pickle, likewise; some seconds
VALUES = 10_000_000  # that a pickle may stand for, each counted wherever it is held
DEEPEST = 100  # containers in each other
PICKLES = 5  # at the start of a file in torch's older format; tensors follow

_DATA = ("torch", "torch._utils", "torch.storage", "torch.nn.parameter", "collections")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_FILLS = {"APPEND": 1, "SETITEM": 2, "BUILD": 1, "APPENDS": 0, "SETITEMS": 0, "ADDITEMS": 0}
"""Opcodes that put values into what lies below them: how many, or 0 for those above the mark."""
_PLAIN = {
    item.name for item in pickletools.opcodes if item.stack_after and not item.stack_before
} - {
    *_GETS,
    "EMPTY_LIST",
    "EMPTY_DICT",
    "EMPTY_SET",
    "MARK",
}
"""Opcodes that put a value which holds no others on the stack."""
_MARK: Any = object()

Node = list[Any]
"""A container: how many plain values it holds, and the containers that it holds."""


class Unbounded(Exception):
    """How what a pickle would make exceeds everything that a file of weights holds."""


def is_archive(path: Path) -> bool:
    """Whether torch would read the file as an archive. Raises `ValueError` if one is broken."""
    with path.open("rb") as file:
        begins = file.read(4) == b"PK\x03\x04"
    if begins and not zipfile.is_zipfile(path):
        raise ValueError("an archive without its end")
    return begins


def check_bounded(path: Path) -> None:
    """Raise `Unbounded` unless what unpickling makes is a tree that ends, of bearable size.

    What cannot be parsed is left to the unpickler, which gets no further in it.
    """
    if not is_archive(path):
        with path.open("rb") as file:
            head = file.read(HEAD)
        _check(head, len(head) == HEAD)
        return
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.lower().endswith(".pkl"):
                with archive.open(entry) as file:
                    _check(file.read(HEAD), entry.file_size > HEAD)


def code_in(path: Path) -> Iterator[str]:
    """Names of the functions and classes, other than torch's tensors, that a pickle would call."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".pkl"):
                        with archive.open(name) as file:
                            yield from _globals(file.read(HEAD))
        else:
            with path.open("rb") as file:
                yield from _globals(file.read(HEAD))
    except Exception:  # damaged in whatever way: what was found before counts
        return


def _globals(data: bytes) -> Iterator[str]:
    """Find them in the pickles at the start of `data`; `genops` parses and never executes."""
    stream = io.BytesIO(data)
    pickles = iter(lambda: stream.tell() < len(data), False)
    opcodes = chain.from_iterable(pickletools.genops(stream) for _ in pickles)
    texts: list[str] = []  # the operands of STACK_GLOBAL are the last two
    for opcode, argument, _ in islice(opcodes, OPCODES):
        if isinstance(argument, str):
            texts = [*texts[-1:], argument]
        name = {"GLOBAL": argument, "INST": argument, "STACK_GLOBAL": " ".join(texts)}
        if global_name := name.get(opcode.name):
            module, _, attribute = global_name.partition(" ")
            if module not in _DATA:
                yield f"{module}.{attribute}"


def _check(data: bytes, is_cut: bool) -> None:
    stream, nodes = io.BytesIO(data), list[Node]()
    opcodes = chain.from_iterable(pickletools.genops(stream) for _ in range(PICKLES))
    collects = gc.isenabled()
    gc.disable()  # it would look at all containers again and again
    try:
        try:
            _walk(islice(opcodes, OPCODES), nodes)
            if next(opcodes, None) is not None:
                raise Unbounded(f"a pickle of more than {OPCODES:,} steps")
        except (ValueError, LookupError, TypeError):  # the unpickler fails there too
            if is_cut and stream.tell() == len(data):
                raise Unbounded(f"a pickle of more than {HEAD:,} bytes") from None
        _measure(nodes)
    finally:
        if collects:
            gc.enable()


def _walk(opcodes: Iterator[tuple[Any, Any, Any]], nodes: list[Node]) -> None:
    """Do with `Node`s, which it adds to `nodes`, what an unpickler does with containers.

    None stands for a plain value. Raises `LookupError` and others where an unpickler would fail.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def above_mark() -> list[Any]:
        place = len(stack) - 1
        while stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise LookupError
        items = stack[place + 1 :]
        del stack[place:]
        return items

    def top(count: int) -> list[Any]:
        items = stack[len(stack) - count :] if count else []
        if len(items) < count or _MARK in items:
            raise LookupError
        del stack[len(stack) - count :]
        return items

    for opcode, argument, _ in opcodes:
        name = opcode.name
        if name in _PLAIN:
            stack.append(None)
        elif name in _PUTS:
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in _GETS:
            stack.append(memo[argument])
        elif name in _FILLS:
            items = top(_FILLS[name]) if _FILLS[name] else above_mark()
            _fill(stack[-1], items)
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            above_mark()
        elif name == "STOP":
            stack.clear()
            memo.clear()
        elif opcode.stack_after:
            before = opcode.stack_before
            items = above_mark() if pickletools.markobject in before else top(len(before))
            node: Node = [0]
            _fill(node, items)
            nodes.append(node)
            stack.append(node)


def _fill(node: Node, items: list[Any]) -> None:
    inside = [item for item in items if item is not None]
    node += inside  # a plain value there is no list, and fails
    node[0] += len(items) - len(inside)


def _measure(nodes: list[Node]) -> None:
    """Raise `Unbounded` if one of `nodes` holds itself, or too much, or is nested too deeply."""
    done: dict[int, tuple[int, int]] = {}  # values and depth, by identity
    opened: set[int] = set()
    for root in nodes:
        if id(root) in done:
            continue
        path = [(root, iter(root[1:]))]
        opened.add(id(root))
        while path:
            node, inside = path[-1]
            child = next((item for item in inside if id(item) not in done), None)
            if child is not None:
                if id(child) in opened:
                    raise Unbounded("a value that holds itself")
                if len(path) >= DEEPEST:
                    raise Unbounded(f"values nested more than {DEEPEST} deep")
                opened.add(id(child))
                path.append((child, iter(child[1:])))
                continue
            held = [done[id(item)] for item in node[1:]]
            size = 1 + node[0] + sum(item for item, _ in held)
            depth = 1 + max((item for _, item in held), default=0)
            if size > VALUES:
                raise Unbounded(f"a pickle that stands for more than {VALUES:,} values")
            if depth > DEEPEST:
                raise Unbounded(f"values nested more than {DEEPEST} deep")
            done[id(node)] = size, depth
            opened.discard(id(node))
            path.pop()
