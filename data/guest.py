"""The process in which a foreign tokenizer runs, and which dies of what it must not do.

A frame is a letter, the length of what follows in 8 bytes, and that. Requests: `L` a tokenizer's
name, a newline and its content; `E` a JSON list of the number of a sequence of documents, whether
special tokens are kept whole in it, and parts of them, each a text, whether it begins and whether
it ends a document. Answers: `I` a JSON object; `T`
8 bytes of how many bytes of text were encoded, and their ids of 32 bits; `D` done; `X` a message
for the user; `P` that of a failure inside the library. After `X` and `P` what was held of documents
is forgotten. See `data.foreign` for the other side.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from core.errors import UserError
from core.processes import die_with_parent
from data.encoding import Encoded, Encoder
from data.text import TextTokenizer
from data.tokenizers import LibraryTokenizer, parse

HEADER = struct.Struct("<cQ")
NUMBER = struct.Struct("<Q")


def serve(memory: int, size: int) -> None:
    """Answer until the input ends, with `memory` bytes at most; `size` characters at a time."""
    die_with_parent()
    limit(memory)
    source = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    tokenizer: TextTokenizer | None = None
    encoders: dict[int, Encoder] = {}
    while len(header := source.read(HEADER.size)) == HEADER.size:
        kind, length = HEADER.unpack(header)
        content = source.read(length)
        try:
            if kind == b"L":
                tokenizer = _load(content)
                apart = isinstance(tokenizer, LibraryTokenizer) and not tokenizer.is_byte_level
                send(answers, b"I", json.dumps({"apart": apart}).encode())
            else:
                assert tokenizer is not None
                number, whole, parts = json.loads(content.decode(errors="surrogatepass"))
                encoder = encoders.setdefault(number, Encoder(tokenizer, size, whole))
                for part in parts:
                    _answer(answers, encoder.push(*part))
                _answer(answers, encoder.flush())
                send(answers, b"D", b"")
        except UserError as error:
            encoders.clear()
            send(answers, b"X", str(error).encode(errors="replace"))
        except MemoryError:
            os.abort()  # as the library itself does
        except BaseException as error:  # a panic of Rust's is no Exception
            encoders.clear()
            send(answers, b"P", " ".join(str(error).split())[:200].encode(errors="replace"))


def _answer(answers: BinaryIO, encoded: Iterable[Encoded]) -> None:
    for ids, count in encoded:
        send(answers, b"T", NUMBER.pack(count) + ids.tobytes())


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
