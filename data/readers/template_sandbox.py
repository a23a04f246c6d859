"""Where a tokenizer's own chat template runs: in jinja2's sandbox, with limits of time and memory.

It is somebody's program, and could take all time and memory there is. A few words are tried in a
process of its own before it runs here; a server, whose conversations come from anywhere, has every
one of them written there.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from core.errors import UserError
from core.processes import command_of, die_with_parent
from data.readers.shapes import BadRecord

SECONDS, MEMORY = 5, 1 << 30
"""Processor time, and bytes, that a few words or one conversation may take."""
STARVED = 120.0  # seconds, where other processes have the processor
MOST_WRITTEN = 64 << 20  # characters of a conversation
TRIALS = (
    (("user", "Hello."), ("assistant", "Hi.")),
    (("system", "Be brief."), *(("user", "More?"), ("assistant", "No.")) * 2),
)
Message = dict[str, str]
"""What somebody says, as templates are given it: `role` and `content`."""


def environment() -> Any:
    """Jinja as `transformers` sets it up, but without a clock: a text must not depend on it."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`, which encloses what an assistant says: read as what it encloses."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def fail(message: str) -> NoReturn:
        raise TemplateError(message)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    made.filters["tojson"] = lambda value, indent=None, **options: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    made.globals["raise_exception"] = fail
    return made


def written(
    path: Path, template: Any, messages: Sequence[Message], asks: bool, words: dict[str, str]
) -> str:
    """What a template of jinja2, from the file `path`, writes. Raises `BadRecord`."""
    try:
        text: str = template.render(messages=messages, add_generation_prompt=asks, **words)
        return text
    except MemoryError:
        raise BadRecord(f"the chat template of {path} needs more memory than it may have") from None
    except Exception as error:  # whatever a template may raise: it is somebody's program
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadRecord(f"the chat template of {path} fails: {reason}") from None


def try_on(path: Path, text: str, words: dict[str, str]) -> None:
    """Run a template on a few words in a process of its own. Raises `UserError` if it goes wild."""
    try:
        done = subprocess.run(
            command_of("data.readers.template_sandbox", "trial()"),
            input=json.dumps([text, words]).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=STARVED,
            start_new_session=True,  # Ctrl-C is for this process, which then ends the other
            check=False,
        )
        ended = done.returncode == 0
    except subprocess.TimeoutExpired:
        ended = False
    if not ended:
        raise UserError(
            f"{path}: its chat template takes more than {SECONDS} s, or {MEMORY >> 30} GiB, for a "
            "few words: use data.chat=chatml or rwkv"
        )


def trial() -> None:
    """What `try_on` starts: render the template that standard input holds, within limits.

    An error is none here: it is told with the record in which it occurs.
    """
    die_with_parent()
    text, words = json.load(sys.stdin)
    _limit_memory()
    _limit_time(SECONDS)
    for turns in TRIALS:
        messages = [{"role": role, "content": content} for role, content in turns]
        for asks in (True, False):
            with suppress(Exception):
                try:
                    template = environment().from_string(text)
                    template.render(messages=messages, add_generation_prompt=asks, **words)
                except MemoryError:
                    os.abort()


class TemplateProcess:
    """A process that writes conversations with one template, each within the limits.

    One that goes beyond them ends the process, and the next conversation has another. It ends with
    the object, or with this process. For several threads: they take turns.
    """

    def __init__(
        self, path: Path, text: str, words: dict[str, str], seconds: int = SECONDS
    ) -> None:
        """The template `text` comes from the file `path`; `words` are those it may use."""
        self._path, self._seconds = path, seconds
        self._start = json.dumps([str(path), text, words, seconds]).encode() + b"\n"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the process; another conversation starts one again."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(OSError):  # what had not been read is lost
                    pipe.close()

    def write(self, messages: Sequence[Message], asks: bool) -> str:
        """The conversation as the template writes it; with `asks` up to where an answer begins.

        Raises `BadRecord` if the template fails, or takes too much.
        """
        asked = json.dumps([messages, asks]).encode() + b"\n"
        with self._lock:
            try:
                answer = self._answer(asked)
            except (OSError, ValueError) as error:  # it ended, within a line or before
                reason = f" ({error.strerror})" if isinstance(error, OSError) else ""
                self.close()
                raise BadRecord(
                    f"the chat template of {self._path} takes more than {self._seconds} s, or "
                    f"{MEMORY >> 30} GiB, for these messages{reason}"
                ) from None
        if "error" in answer:
            raise BadRecord(answer["error"])
        return str(answer["text"])

    def _answer(self, asked: bytes) -> dict[str, str]:
        """What the process says. Raises `OSError` or `ValueError` if it has ended."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                command_of("data.readers.template_sandbox", "serve()"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this process
            )
            asked = self._start + asked
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        overdue = threading.Timer(STARVED, process.kill)
        overdue.daemon = True
        overdue.start()
        try:
            process.stdin.write(asked)
            process.stdin.flush()
            answer: dict[str, str] = json.loads(process.stdout.readline())
            return answer
        finally:
            overdue.cancel()


def serve() -> None:
    """What `TemplateProcess` starts: a line for each conversation, until standard input ends."""
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed is no answer
    path, template_text, words, seconds = json.loads(source.readline())
    _limit_memory()
    template = None
    for line in source:
        messages, asks = json.loads(line)
        _limit_time(seconds)
        try:
            # To translate it computes what is constant in it.
            template = template or environment().from_string(template_text)
            text = written(path, template, messages, asks, words)
            said = {"text": text}
            if len(text) > MOST_WRITTEN:
                said = {"error": f"the chat template of {path} writes {len(text):,} characters"}
        except BadRecord as error:
            said = {"error": str(error)}
        except Exception as error:  # it could not be translated
            said = {"error": f"{path}: its chat template is not valid ({str(error)[:200]})"}
        answer = json.dumps(said).encode()
        answers.write(answer + b"\n")
        answers.flush()


def _limit_memory() -> None:
    from data.guest import limit

    limit(MEMORY)


def _limit_time(seconds: int) -> None:
    """Limit the processor time from now on; a process that exceeds it is ended by the kernel."""
    spent = int(time.process_time()) + 1 + seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    most = spent if hard == resource.RLIM_INFINITY else min(spent, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (most, hard))
