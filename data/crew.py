"""Processes that encode side by side with one tokenizer, for one that uses a single processor.

They are forked from the process that holds the tokenizer, whose vocabulary they share, and end with
it: the kernel kills them (Linux), and what they read from ends. The ids do not depend on how many
there are.
"""

from __future__ import annotations

import os
from array import array
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import NoReturn

from core.errors import UserError
from core.processes import die_with_parent
from data.encoding import IDS, Encoded, Group, encode_group
from data.text import TextTokenizer

_MOST_FILES = 4096  # open ones of the process that holds the tokenizer


class Crew:
    """Processes that encode groups of pieces, each one group at a time."""

    def __init__(self, tokenizer: TextTokenizer, count: int) -> None:
        """Call it before the process has any other thread. Raises `OSError`."""
        self.pids: list[int] = []
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        for _ in range(count):
            ours, theirs = Pipe()
            pid = os.fork()
            if not pid:
                _work(tokenizer, theirs)
            theirs.close()
            self.pids.append(pid)
            self._idle.put(ours)

    def encode(self, whole: bool, group: Group) -> Encoded:
        """`encode_group` in the next process that has nothing to do; from any thread.

        If that dies, as of its limits, so does this one.
        """
        process = self._idle.get()
        try:
            process.send((whole, group))
            answer = process.recv()
        except (EOFError, OSError):
            os.abort()
        self._idle.put(process)
        if isinstance(answer, str):
            raise UserError(answer)
        content, size = answer
        ids = array(IDS)
        ids.frombytes(content)
        return ids, size


def _work(tokenizer: TextTokenizer, requests: Connection) -> NoReturn:
    """Encode what is asked for until that ends, in a process that was just forked."""
    try:
        die_with_parent()
        # None of the pipes of the other processes may stay open here, or they never end.
        kept = requests.fileno()
        os.close(0)
        os.closerange(3, kept)
        os.closerange(kept + 1, _MOST_FILES)
        with suppress(EOFError, OSError):
            while True:
                whole, group = requests.recv()
                answer: tuple[bytes, int] | str
                try:
                    ids, size = encode_group(tokenizer, whole, group)
                    answer = ids.tobytes(), size
                except UserError as error:
                    answer = str(error)
                requests.send(answer)
    finally:
        os._exit(0)
