"""What trials in this process share: how a call ends, values nobody expects, what is no file."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from tests.faults.trial import BUSY, LIMIT


@dataclass
class Told:
    """How a call ended: what it gave, or its message; what it printed, or what went wrong."""

    value: Any = None
    message: str = ""
    printed: str = ""
    problem: str | None = None


def tell(function: Callable[[], Any]) -> Told:
    """Call `function`, with an alarm against whatever waits for ever."""
    told, console = Told(), io.StringIO()
    spent = sum(os.times()[:4])
    with contextlib.redirect_stderr(console), _alarm(BUSY):
        try:
            told.value = function()
        except UserError as error:
            told.message = str(error)
        except TimeoutError:
            told.problem = "hangs"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            lines = traceback.format_exc().strip().splitlines()
            told.problem = f"a traceback: {lines[-1][:200]} ({lines[-3].strip()[:120]})"
    told.printed = console.getvalue()
    if told.problem is None and sum(os.times()[:4]) - spent > 2 * LIMIT:
        told.problem = f"takes {sum(os.times()[:4]) - spent:.0f} seconds of processor time"
    if told.problem is None and "Traceback" in told.printed:
        told.problem = f"a traceback is printed: {told.printed.strip().splitlines()[-1]}"
    if told.message and (len(told.message) > 2000 or "\n" in told.message):
        told.problem = f"not one short message: {told.message[:200]!r}"
    return told


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def listener(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may not be long
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


NO_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": listener,
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path),
    "a dangling link": lambda path: path.symlink_to("nothing"),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to /dev/tty": lambda path: path.symlink_to("/dev/tty"),
    "a link to the kernel's log": lambda path: path.symlink_to("/proc/kmsg"),
    "a link to a process's memory": lambda path: path.symlink_to("/proc/self/mem"),
}


HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 31, 1 << 63, 10**400, 1.5, -0.0, float("nan"), float("inf"), "",
    "x", "\ud800", "a" * 100_000, [], {}, [[]], {"type": "x"}, [0] * 1000, {"": {"": {"": ""}}},
)  # fmt: skip


def replaced(content: Any, draw: random.Random) -> Any:
    """`content` with a hostile value in place of another, or without one."""
    places: list[tuple[Any, Any]] = []

    def walk(tree: Any) -> None:
        inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in inner:
            places.append((tree, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(content)
    few = [place for place in places if len(place[0]) < 50]
    tree, key = draw.choice(few if draw.random() < 0.7 else places)
    if draw.random() < 0.2:
        del tree[key]
    else:
        tree[key] = draw.choice([value for value in HOSTILE if value != tree[key]])
    return content
