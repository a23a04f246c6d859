"""Filling a prepared corpus in a process of its own, which takes the memory of that work with it.

What a large preparation has freed would otherwise stay, in the arenas of threads that have ended,
with a process that may go on to train for weeks: 170 MB, which no call gives back.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from conf.schema import DataConf
from core.errors import UserError
from core.processes import command_of, die_with_parent, keep_little_free_memory
from data import corpora, notices, recipes
from data.documents import Split
from data.preparation import fill, remove_if_useless

LARGE = 64 << 20  # bytes of text from which on a process of its own is worth its start


def fill_apart(
    folder: Path, fingerprint: str, conf: DataConf, split: Split, recipe: str, title: str
) -> None:
    """`data.preparation.fill` in another process, which ends with this one.

    `recipe` names the tokenizer, `title` the corpus. Raises what `fill` does, and `UserError` if
    that process dies.
    """
    asked = (folder, fingerprint, conf, replace(split, documents=()), recipe, title, notices.once)
    request = pickle.dumps(asked)
    try:
        with subprocess.Popen(
            command_of("data.separate_process", f"serve({len(request)})"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            try:
                answer = _answer(process, request)
                if process.returncode or not answer:
                    raise UserError(
                        "the process that prepares the corpus has ended with status "
                        f"{process.returncode}, as it does where memory runs out: the same command "
                        "goes on where it stopped"
                    )
                if (error := pickle.loads(answer)) is not None:
                    raise error
            finally:
                process.kill()  # or leaving would wait for it
    except BaseException:
        remove_if_useless(folder)
        raise


def _answer(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    """All that the process has to say, once it has ended."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(request)
        process.stdin.flush()  # and it stays open, as its end ends the process
    except BrokenPipeError:  # it has ended already
        pass
    answer = process.stdout.read()
    process.wait()
    return answer


def serve(size: int) -> NoReturn:
    """Fill what a request of `size` bytes on the input asks for, and write what that raised."""
    die_with_parent()
    keep_little_free_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other process
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    request = sys.stdin.buffer.read(size)
    threading.Thread(target=_leave_at_the_end_of_input, daemon=True).start()
    error: Exception | None = None
    try:
        _fill(*pickle.loads(request))
    except OSError as raised:
        error = OSError(raised.errno, raised.strerror, raised.filename)
    except UserError as raised:
        error = UserError(str(raised))
    except Exception as raised:
        traceback.print_exc()
        error = RuntimeError(f"{type(raised).__name__}: {raised}")
    answers.write(pickle.dumps(error))
    answers.flush()
    os._exit(0)  # whatever still runs in a thread


def _leave_at_the_end_of_input() -> None:
    """The process that asked has ended, where no kernel tells of it."""
    os.read(0, 1)
    os._exit(1)


def _fill(
    folder: Path,
    fingerprint: str,
    conf: DataConf,
    split: Split,
    recipe: str,
    title: str,
    said: set[str],
) -> None:
    notices.once |= said
    split = replace(split, documents=corpora.documents(conf))
    file = recipes.foreign(conf)
    if file is None:
        fill(folder, fingerprint, conf, split, None, title)
        return
    with file:
        if recipes.chosen(conf, file, split) != recipe:
            raise UserError(f"{file.path} changed while the corpus was being prepared")
        fill(folder, fingerprint, conf, split, file, title)
