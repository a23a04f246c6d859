"""Tokenizers made by others: tried, and used on a corpus, where they cannot do harm.

A `tokenizer.json` is a program: a pattern can take years, a replacement can make gigabytes of a
word, and the library then ends the process. So a file that is not our own is read, and encodes, in
a process of its own (`data.guest`) with limits of time and memory. They grow with the text; a
tokenizer that works is far from them, and gives the same ids as without.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import psutil

from core.errors import UserError
from core.processes import command_of, processors
from data import tokenizer_files
from data.encoding import GROUP, IDS, Encoded, Encodes
from data.guest import HEADER, NUMBER, Passage, packed, send
from data.interruptible import Call
from data.text import TextTokenizer
from data.tokenizers import parse

SECONDS = 5.0  # of processor time that any request may take
SECONDS_PER_MIB = 0.15  # more for a file; 64 MiB with 256 Ki entries take 8 s in all
STARVED = 60.0  # seconds, instead, where another process has the processor
SLOWER = 20  # times the average that some text may take
MEMORY = 1 << 30  # bytes beyond those that grow with file and text
PER_BYTE_OF_FILE, PER_BYTE_OF_TEXT = 40, 256  # bytes of memory
REQUEST = 1 << 20  # bytes of text sent together

PROBES = [  # what catastrophic patterns fail on, beside texts of the corpus
    *(run * 2000 for run in ("a", " ", "\n", "7", "!", "aB", "a ", "é", "漢")),
    "The 3 quick brown foxes' jump: over\n\tthe lazy_dog (again) -- e\u0301 🎉 \u2581x\r\n" * 20,
]

_GLANCE = 0.05  # seconds between looks at the processor time of the other process


class Foreign:
    """A tokenizer's file, opened in another process; a context manager."""

    def __init__(self, path: str | Path) -> None:
        """Raises `UserError` if there is none, or it is too large."""
        self.path = Path(path)
        self.content = tokenizer_files.content(self.path)
        self._process: subprocess.Popen[bytes] | None = None
        self._pids: list[int] = []  # of the process, and of those that it encodes in
        self._single = False  # whether the tokenizer uses one processor alone
        self._loaded, self._bytes = 0.0, 0  # processor time before any text, and bytes since
        self._encoders = 0
        self._lock = Lock()  # of the pipes

    def __enter__(self) -> Foreign:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the other process; what follows needs `try_on` again."""
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with suppress(OSError):  # it is gone, with what was still to be sent
                    pipe.close()
            self._process.kill()
            self._process.wait()
            self._process = None

    def try_on(self, texts: Sequence[str], largest: int = 0) -> bool:
        """Read the file and encode `texts`; whether it is one that needs care in cutting texts.

        The largest text that will follow has `largest` bytes, which decides its memory. Raises
        `UserError` if the file is not sound or exceeds a limit.
        """
        apart = self._start(max(largest, 0, *map(_size, texts)))
        for text in (*PROBES, *texts):
            try:
                for _ in self.encode(0, [(text, True, True, 0)]):
                    pass
            except _Refused:  # it has no token for some of these: the message will name a text
                pass
        return apart

    def tokenizer(self) -> TextTokenizer:
        """This tokenizer in this process, after `try_on`."""
        return parse(self.content.decode(), self.path)

    def encoder(self, whole: bool = False) -> Encodes:
        """Encode a sequence of documents in the other process, after `try_on`.

        `whole` keeps special tokens whole. A tokenizer that uses one processor alone encodes in as
        many processes as there are processors and memory for.
        """
        if self._single:
            self._single = False
            count = min(processors(), psutil.virtual_memory().available // MEMORY)
            if count > 1:
                answer = self._facts(b"W", b"%d" % count, SECONDS, "to be shared")
                self._pids += answer["pids"]
        self._encoders += 1
        return _Encoder(self, self._encoders, whole)

    def _start(self, largest: int) -> bool:
        memory = MEMORY + PER_BYTE_OF_FILE * len(self.content)
        memory += PER_BYTE_OF_TEXT * (largest + REQUEST) + (16 << 20) * processors()
        available = psutil.virtual_memory().available
        self._memory = min(memory, max(MEMORY, available))
        size = min(GROUP, (1 << 16) * max(4, processors()))
        try:
            self._process = subprocess.Popen(
                command_of("data.guest", f"serve({self._memory}, {size})"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this process, which then ends the other
            )
        except OSError as error:  # as where no more processes are allowed
            raise UserError(
                f"{self.path} is read in a process of its own, and none can be started here: "
                f"{sys.executable}: {error.strerror}"
            ) from None
        self._pids = [self._process.pid]
        name = json.dumps(str(self.path)).encode()
        content = name + b"\n" + self.content
        seconds = SECONDS + SECONDS_PER_MIB * len(self.content) / 2**20
        facts = self._facts(b"L", content, seconds, "to be read")
        self._single = facts["single"]
        self._loaded = self._processor_time()
        return bool(facts["apart"])

    def _facts(self, kind: bytes, content: bytes, seconds: float, what: str) -> dict[str, Any]:
        """The answer to a request that is no text."""
        for answer, body in self._ask(kind, content, seconds, what):
            if answer == b"I":
                facts: dict[str, Any] = json.loads(body)
                return facts
        raise self._ended(what)

    def encode(
        self,
        number: int,
        parts: Sequence[Passage],
        held: int = 0,
        whole: bool = False,
        flush: bool = True,
    ) -> Iterator[Encoded]:
        """Send parts of the documents of sequence `number`, before which it holds `held` bytes.

        One request at a time: another thread's waits. Without `flush` some of the ids come with
        later requests.
        """
        with self._lock:
            yield from self._encode(number, parts, held, whole, flush)

    def _encode(
        self, number: int, parts: Sequence[Passage], held: int, whole: bool, flush: bool
    ) -> Iterator[Encoded]:
        sizes = [_size(text) for text, *_ in parts]
        total = held + sum(sizes)
        spent = self._processor_time() - self._loaded
        rate = self._bytes / spent if spent > 0.1 else 1 << 20
        # At once, if it cannot be cut; so much more than usual, and it will not end.
        seconds = SECONDS + SLOWER * min(total, held + max(sizes, default=0) + GROUP) / max(rate, 1)
        such = f" such as {parts[0][0][:20]!r}" if parts else ""
        content = packed(number, whole, flush, parts)
        for kind, answer in self._ask(b"E", content, seconds, f"for {total:,} bytes of text{such}"):
            if kind == b"T":
                ids = array(IDS)
                ids.frombytes(memoryview(answer)[NUMBER.size :])
                size = NUMBER.unpack_from(answer)[0]
                self._bytes += size
                yield ids, size

    def _ask(
        self, kind: bytes, content: bytes, seconds: float, what: str
    ) -> Iterator[tuple[bytes, bytes]]:
        """The answers to a request, each of which may take `seconds` of processor time."""
        assert self._process is not None and self._process.stdin is not None
        try:
            send(self._process.stdin, kind, content)  # type: ignore[arg-type]
        except OSError:
            raise self._ended(what) from None
        while True:
            header = self._read(HEADER.size, seconds, what)
            answer, length = HEADER.unpack(header)
            body = self._read(length, seconds, what)
            if answer == b"X":
                raise _Refused(body.decode())
            if answer == b"P":
                raise UserError(f"{self.path}: this tokenizer fails {what}: {body.decode()}")
            yield answer, body
            if answer in (b"D", b"I"):
                return

    def _read(self, length: int, seconds: float, what: str) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        parts: list[bytes] = []
        begun, spent = time.monotonic(), self._processor_time()
        while length:
            if select.select([pipe], [], [], _GLANCE)[0]:
                part = os.read(pipe, min(length, 1 << 20))
                if not part:
                    raise self._ended(what)
                parts.append(part)
                length -= len(part)
            elif (
                self._processor_time() - spent > seconds
                or time.monotonic() - begun > STARVED + 10 * seconds
            ):
                raise UserError(
                    f"{self.path}: this tokenizer takes more than {seconds:.0f} seconds {what}: "
                    "it has a pattern or a rule that does not end, or almost"
                )
        return b"".join(parts)

    def _processor_time(self) -> float:
        """Seconds, of all processes together."""
        total = 0.0
        for pid in self._pids:
            with suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system
        return total

    def _ended(self, what: str) -> UserError:
        """What to say of a process that has ended by itself."""
        assert self._process is not None
        return UserError(
            f"{self.path}: this tokenizer takes more than {self._memory / 2**30:.1f} GiB of memory "
            f"{what}, or the library crashes on it (status {self._process.wait()})"
        )


class _Encoder:
    """One sequence of documents for the other process; see `data.encoding.Encodes`."""

    def __init__(self, file: Foreign, number: int, whole: bool) -> None:
        self._file, self._number, self._whole = file, number, whole
        self._parts: list[Passage] = []
        self._waiting = 0  # bytes of them
        self._sent = 0  # bytes that the other process may hold
        self._running: Call[list[Encoded]] | None = None

    def push(self, text: str, begins: bool, ends: bool, mark: int = 0) -> Iterator[Encoded]:
        self._parts.append((text, begins, ends, mark))
        self._waiting += _size(text)
        if self._waiting >= REQUEST:
            yield from self._answers()
            self._send(flush=False)

    def flush(self) -> Iterator[Encoded]:
        yield from self._answers()
        if self._parts or self._sent:
            self._send(flush=True)
        yield from self._answers()

    def _send(self, flush: bool) -> None:
        """Let the other process encode what waits, while more text is read here."""
        parts, held = self._parts, self._sent
        self._sent += self._waiting
        self._parts, self._waiting = [], 0
        self._running = Call(
            lambda: [*self._file.encode(self._number, parts, held, self._whole, flush)]
        )

    def _answers(self) -> Iterator[Encoded]:
        call, self._running = self._running, None
        for ids, size in call.result() if call is not None else ():
            self._sent -= size
            yield ids, size


def _size(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


class _Refused(UserError):
    """A plain message about the file or a text."""


def load(path: str | Path, texts: Sequence[str] = ()) -> TextTokenizer:
    """The tokenizer in a file of unknown origin, once it has been tried, on `texts` too.

    Raises `UserError` if it is none, or exceeds the limits of time and memory.
    """
    with Foreign(path) as foreign:
        foreign.try_on([text[: 1 << 12] for text in texts], max(map(_size, texts), default=0))
        for text in texts:
            for _ in foreign.encode(0, [(text, True, True, 0)]):
                pass
        return foreign.tokenizer()
