"""The process in which a foreign tokenizer runs, and which dies of what it must not do.

A frame is a letter, the length of what follows in 8 bytes, and that. Requests: `L` a tokenizer's
name, a newline and its content; `W` how many processes to encode in, in JSON; `E` parts of a
sequence of documents, see `packed`. Answers: `I` a JSON object; `T` 8 bytes of how many bytes of
text were encoded, and their ids of 32 bits; `D` done; `X` a message for the user; `P` that of a
failure inside the library. After `X` and `P` what was held of documents is forgotten. What `E`
sends need not be encoded before its `D`, unless all that can be is asked for. See `data.foreign`
for the other side.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from core.errors import UserError
from core.processes import die_with_parent, keep_little_free_memory
from data.crew import Crew
from data.encoding import Encoded, Encoder
from data.rwkv_world_tokenizer import WorldTokenizer
from data.text import TextTokenizer
from data.tokenizers import LibraryTokenizer, parse

HEADER = struct.Struct("<cQ")
NUMBER = struct.Struct("<Q")
_REQUEST, _PART = struct.Struct("<Q??Q"), struct.Struct("<??BQ")
CREW_GROUP = 1 << 18  # characters that each of several processes encodes in one call
Passage = tuple[str, bool, bool, int]
"""A part of a document, whether it begins it, whether its last word ends with it, and its mark."""


def serve(memory: int, size: int) -> None:
    """Answer until the input ends, with `memory` bytes at most; `size` characters at a time."""
    die_with_parent()
    keep_little_free_memory()
    limit(memory)
    source = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    tokenizer: TextTokenizer | None = None
    crew: Crew | None = None
    encoders: dict[int, Encoder] = {}
    while len(header := source.read(HEADER.size)) == HEADER.size:
        kind, length = HEADER.unpack(header)
        content = source.read(length)
        try:
            if kind == b"L":
                tokenizer = _load(content)
                # Are texts to be cut with care; does it encode on one processor alone?
                apart = isinstance(tokenizer, LibraryTokenizer) and not tokenizer.is_byte_level
                facts = {"apart": apart, "single": isinstance(tokenizer, WorldTokenizer)}
                send(answers, b"I", json.dumps(facts).encode())
                continue
            assert tokenizer is not None
            if kind == b"W":
                with suppress(OSError):  # no more processes are allowed: it works without
                    crew = Crew(tokenizer, json.loads(content))
                send(answers, b"I", json.dumps({"pids": crew.pids if crew else []}).encode())
                continue
            number, whole, flush, parts = unpacked(content)
            if number not in encoders:
                encoders[number] = _encoder(tokenizer, size, whole, crew)
            for part in parts:
                _answer(answers, encoders[number].push(*part))
            if flush:
                _answer(answers, encoders[number].flush())
            send(answers, b"D", b"")
        except UserError as error:
            encoders.clear()
            send(answers, b"X", str(error).encode(errors="replace"))
        except MemoryError:
            os.abort()  # as the library itself does
        except BaseException as error:  # a panic of Rust's is no Exception
            encoders.clear()
            send(answers, b"P", " ".join(str(error).split())[:200].encode(errors="replace"))


def _encoder(tokenizer: TextTokenizer, size: int, whole: bool, crew: Crew | None) -> Encoder:
    if crew is None:
        return Encoder(tokenizer, size, whole)
    # One group more than there are processes waits for the first that is idle.
    return Encoder(tokenizer, min(size, CREW_GROUP), whole, len(crew.pids) + 1, crew.encode)


def _answer(answers: BinaryIO, encoded: Iterable[Encoded]) -> None:
    for ids, count in encoded:
        send(answers, b"T", NUMBER.pack(count) + ids.tobytes())


def packed(number: int, whole: bool, flush: bool, parts: Sequence[Passage]) -> bytes:
    """A request for parts of the documents of sequence `number`.

    `whole` keeps special tokens whole in all of the sequence; `flush` asks for all ids that can be.
    """
    pieces = [_REQUEST.pack(number, whole, flush, len(parts))]
    for text, begins, ends, mark in parts:
        content = text.encode(errors="surrogatepass")
        pieces += (_PART.pack(begins, ends, mark, len(content)), content)
    return b"".join(pieces)


def unpacked(content: bytes) -> tuple[int, bool, bool, Iterator[Passage]]:
    """What `packed` was given."""
    number, whole, flush, count = _REQUEST.unpack_from(content)

    def parts() -> Iterator[Passage]:
        place = _REQUEST.size
        for _ in range(count):
            begins, ends, mark, size = _PART.unpack_from(content, place)
            place += _PART.size + size
            yield content[place - size : place].decode(errors="surrogatepass"), begins, ends, mark

    return number, whole, flush, parts()


def send(target: BinaryIO, kind: bytes, content: bytes) -> None:
    """Write one frame."""
    target.write(HEADER.pack(kind, len(content)))
    target.write(content)
    target.flush()


def limit(memory: int) -> None:
    """Refuse this process any more than `memory` bytes of data."""
    with suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        wanted = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _load(content: bytes) -> TextTokenizer:
    name, _, text = content.partition(b"\n")
    path = Path(json.loads(name))
    try:
        return parse(text.decode(), path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not readable as text ({error})") from None
