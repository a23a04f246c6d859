"""The files that tokenizers are kept in, brought together as one content that `parse` reads.

    tokenizer.json           of the library `tokenizers`, or our own: as it is
    RWKV World's vocabulary  as it is
    *.tiktoken               ranks of bytes; the name says which pattern separates words
    *.model                  of SentencePiece, a protocol buffer
    vocab.json, merges.txt   a byte-level BPE in two files
    a folder                 with one of these, and `tokenizer_config.json` for the special tokens

What is not kept in one file of text becomes a JSON object with a `type`. Nothing is interpreted
here: that is done where it can do no harm, see `data.foreign`.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.parsing import Missing, Unreadable, read_bytes, read_json, regular
from data.rwkv_world_tokenizer import VOCABULARY

LARGEST = 64 << 20  # bytes of a tokenizer's file; the largest in use have 33 MB
SENTENCEPIECE, TIKTOKEN, PAIR, WITH_END = "SentencePiece", "tiktoken", "vocab and merges", "library"
"""Types of contents that are not the file itself."""

_CONFIG = "tokenizer_config.json"
_DECISIVE = ("tokenizer_class", "add_prefix_space", "added_tokens_decoder")
PIECES = "sentencepiece.model"
"""A model of SentencePiece, where a `tokenizer.json` beside it was made from it."""
_IN_FOLDERS = (VOCABULARY, PIECES, "tokenizer.json", "tokenizer.model", "vocab.json")
"""In the order in which they are looked for: the one that says most comes first."""
_OF_SUFFIX = {".model": "a model of SentencePiece", ".tiktoken": "ranks of tiktoken"}
_RANK = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]{1,7}\r?\n")


def find(folder: Path) -> Path | None:
    """The file in a folder that holds its tokenizer, if there is one.

    Raises `Unreadable` for one with several, none of which has a usual name.
    """
    named = [path for name in _IN_FOLDERS if (path := folder / name).is_file()]
    others = [
        path
        for suffix in _OF_SUFFIX
        for path in sorted(folder.glob(f"*{suffix}"))
        if path.is_file() and (suffix != ".model" or is_sentencepiece(_head(path)))
    ]
    if not named and len(others) > 1:
        names = ", ".join(path.name for path in others[:5])
        raise Unreadable(folder, f"a folder with {len(others)} tokenizers ({names}): name one")
    return next(iter([*named, *others]), None)


def _head(path: Path) -> bytes:
    """Its first bytes; none of a file that cannot be read."""
    try:
        with regular(path) as file:
            return file.read(256) or b""
    except Unreadable:
        return b""


def content(path: str | Path) -> bytes:
    """What `data.tokenizers.parse` reads of the file or folder at `path`.

    Raises `Missing` or another `UserError` if there is none, or it is too large.
    """
    path = Path(path)
    if not path.is_dir():
        return _of_file(path, config={})
    file = find(path)
    if file is None:
        names = ", ".join([*_IN_FOLDERS, "*.model", "*.tiktoken"])
        raise Unreadable(path, f"a folder without a tokenizer ({names})")
    beside = path / _CONFIG
    config = read_json(beside) if beside.is_file() else {}
    return _of_file(file, config if isinstance(config, dict) else {})


def _of_file(path: Path, config: dict[str, Any]) -> bytes:
    if path.name == "merges.txt":
        path = path.with_name("vocab.json")
    found = read_bytes(path, LARGEST)
    if not found.strip():
        raise Unreadable(path, "holds no tokenizer: it is empty")
    if path.name == "vocab.json":
        merges = path.with_name("merges.txt")
        try:
            second = read_bytes(merges, LARGEST)
        except Missing:
            raise UserError(f"{path} needs merges.txt beside it, which holds its merges") from None
        texts = {"vocab": _text(path, found), "merges": _text(merges, second)}
        # The rest of a `tokenizer_config.json` may change without changing a token.
        decisive = {key: config[key] for key in _DECISIVE if key in config}
        return _object(PAIR, **texts, config=decisive | _end(config))
    if _RANK.match(found):
        # The name is part of the content, because the ranks do not say how words are separated.
        return _object(TIKTOKEN, name=path.stem, ranks=found.decode(errors="replace"))
    if is_sentencepiece(found):
        return _object(SENTENCEPIECE, model=base64.b64encode(found).decode(), **_end(config))
    if path.suffix in _OF_SUFFIX:
        raise Unreadable(path, f"does not begin as {_OF_SUFFIX[path.suffix]}")
    if path.name == "tokenizer.json" and _end(config):
        return _object(WITH_END, tokenizer=_text(path, found), **_end(config))
    return found


def is_sentencepiece(found: bytes) -> bool:
    """Whether a file begins as a model of SentencePiece: with pieces, each a text and its score."""
    return re.match(rb"\n[\x01-\x7f]\n[\x01-\x7f]", found) is not None and b"\x15" in found[:256]


def _text(path: Path, found: bytes) -> str:
    try:
        return found.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not readable as text ({error})") from None


def _object(kind: str, **parts: Any) -> bytes:
    return json.dumps({"type": kind, **parts}).encode()


def _end(config: dict[str, Any]) -> dict[str, str]:
    """The name of the token that ends a text, if the configuration has one."""
    token = config.get("eos_token")
    name = token.get("content") if isinstance(token, dict) else token
    return {"end_of_text": name} if isinstance(name, str) and name else {}
