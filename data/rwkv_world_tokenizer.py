"""RWKV World's tokenizer: the longest token that matches, again and again, over UTF-8 bytes.

The vocabulary (`rwkv_vocab_v20230424.txt`, part of the PyPI package `rwkv`) has one token per line:
id, Python literal of a str or of bytes, number of bytes. Ids count from 1; 0 ends a document. Every
single byte is a token, so that any text can be encoded and nothing is lost.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

from ahocorasick_rs import BytesAhoCorasick, Implementation, MatchKind

from core.errors import UserError
from data.text import END_OF_TEXT

KIND = "RWKV World"  # what our own file says it is
VOCABULARY = "rwkv_vocab_v20230424.txt"  # the name by which others find the official one
WINDOW = 1 << 16  # bytes matched at once: bounds the memory of the list of matches
LONGEST_LINE = 1 << 12  # characters; the longest of the official one has 140
MOST_LINES = 1 << 20
ROUND = 64  # to a multiple of which the official models round up their 65,530 ids


class WorldTokenizer:
    """Greedy longest match; see `data.text.TextTokenizer` for the methods."""

    end_of_text: int | None = 0

    def __init__(self, tokens: Sequence[bytes]) -> None:
        """`tokens[i]` has id i + 1; all are different, and every single byte is among them."""
        self.special_tokens = {END_OF_TEXT: 0}
        self.tokens = tokens
        self._longest = max(map(len, tokens))
        self._window = max(WINDOW, 2 * self._longest)
        self._matcher = BytesAhoCorasick(
            tokens,
            matchkind=MatchKind.LeftmostLongest,
            implementation=Implementation.ContiguousNFA,
        )
        self.vocab_size = -(-(len(tokens) + 1) // ROUND) * ROUND

    def save(self, path: str | Path) -> None:
        text = json.dumps({"type": KIND, "tokens": [t.decode("latin-1") for t in self.tokens]})
        Path(path).write_text(text, encoding="utf-8")

    def vocabulary(self) -> str:
        """The vocabulary in RWKV's text format."""
        return "".join(
            f"{i} {_literal(token)} {len(token)}\n" for i, token in enumerate(self.tokens, start=1)
        )

    @property
    def fingerprint(self) -> str:
        lines = b"".join(b"%d %b\n" % (len(token), token) for token in self.tokens)
        return hashlib.sha256(lines).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        try:
            return self.encode_bytes(text.encode())
        except UnicodeEncodeError:  # a str may hold lone surrogates, which no UTF-8 text has
            raise UserError("the text to encode is not valid Unicode") from None

    def encode_many(
        self, texts: Sequence[str], whole: bool = False, begins: Sequence[bool] | None = None
    ) -> list[list[int]]:
        if not whole:
            return [self.encode(text) for text in texts]
        parted = ([self.encode(part) for part in text.split(END_OF_TEXT)] for text in texts)
        return [reduce(lambda left, right: [*left, 0, *right], parts) for parts in parted]

    def encode_bytes(self, data: bytes) -> list[int]:
        """Token ids of any bytes, UTF-8 or not."""
        ids: list[int] = []
        start = 0
        while start < len(data):
            window = data[start : start + self._window]
            matches: list[Any] = self._matcher.find_matches_as_indexes(window)
            if start + len(window) < len(data):  # a match near the end might have been longer
                certain = len(window) - self._longest
                while matches[-1][1] > certain:
                    matches.pop()
            ids += [index + 1 for index, _, _ in matches]
            start += matches[-1][2]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self._bytes_of(i) for i in ids).decode(errors="replace")

    def cut(self, text: str, size: int = 1 << 16) -> Iterator[str]:
        start = 0
        while len(text) - start > size:
            ends = (i for i in range(start + size, len(text)) if self._apart(text[i - 1 : i + 1]))
            end = next(ends, len(text))
            yield text[start:end]
            start = end
        if start < len(text):
            yield text[start:]

    def _bytes_of(self, token: int) -> bytes:
        if token == self.end_of_text:
            return END_OF_TEXT.encode()
        return self.tokens[token - 1] if token <= len(self.tokens) else b"\xff"

    def _apart(self, two: str) -> bool:
        """Whether no token contains this pair of characters, so that one must end between them."""
        first, second = two[0].encode(), two[1].encode()
        return (first[-1], second[0]) not in self._neighbours

    @cached_property
    def _neighbours(self) -> set[tuple[int, int]]:
        """Every pair of bytes that are neighbours in some token."""
        return {pair for token in self.tokens for pair in pairwise(token)}


def _literal(token: bytes) -> str:
    """The Python literal of a token: of a str where it is UTF-8."""
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)


def read_vocabulary(path: Path, text: str) -> WorldTokenizer:
    """The tokenizer of a vocabulary in RWKV's text format.

    Raises `UserError` naming the first line that is not as it should be.
    """
    tokens: list[bytes] = []
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        line = line.removesuffix("\n")
        if len(line) > LONGEST_LINE:
            raise UserError(f"{path}, line {number}: {len(line):,} characters are no token")
        if number > MOST_LINES:
            raise UserError(f"{path}: more than {MOST_LINES:,} lines")
        if line or number == 1:
            tokens.append(_token(f"{path}, line {number}", line, expected_id=len(tokens) + 1))
    return _checked(path, tokens)


def read_saved(path: Path, content: dict[str, Any]) -> WorldTokenizer:
    """The tokenizer that `WorldTokenizer.save` wrote. Raises `UserError` if it is not sound."""
    try:
        tokens = [token.encode("latin-1") for token in content["tokens"]]
    except (KeyError, TypeError, AttributeError, UnicodeEncodeError) as error:
        raise UserError(f"{path}: damaged ({error!r})") from None
    return _checked(path, tokens)


def _token(where: str, line: str, expected_id: int) -> bytes:
    number, _, rest = line.partition(" ")
    literal, _, length = rest.rpartition(" ")
    try:
        token = ast.literal_eval(literal)
        token = token.encode() if isinstance(token, str) else token
        token_id, size = int(number), int(length)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        token, token_id, size = None, 0, 0
    if not isinstance(token, bytes) or not token:
        raise UserError(
            f"{where}: expected an id, a Python literal of text and its number of bytes, as in a "
            f"vocabulary of RWKV World (a tokenizer.json would begin with a brace): {line[:40]!r}"
        )
    if token_id != expected_id:
        raise UserError(f"{where}: id {token_id}; expected {expected_id}, ids count from 1")
    if size != len(token):
        raise UserError(f"{where}: says {size} bytes, and {token[:40]!r} has {len(token)}")
    return token


def _checked(path: Path, tokens: list[bytes]) -> WorldTokenizer:
    counts = Counter(tokens)
    absent = [byte for byte in range(256) if bytes([byte]) not in counts]
    if absent:
        raise UserError(
            f"{path}: no token for byte {absent[0]:#04x}, so some texts could not be encoded"
        )
    token, times = counts.most_common(1)[0]
    if times > 1:
        raise UserError(f"{path}: {token!r} is there twice")
    return WorldTokenizer(tokens)
