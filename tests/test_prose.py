"""What can be forbidden in docstrings, help texts and shapes is forbidden here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from conf import schema
from tests.test_house import FILES, ROOT

RIDDLES = re.compile(r"(Of|As|The same)\b")
"""First words of a docstring that has no subject or no verb."""
SHAPE = re.compile(r"\[((?:[A-Za-z0-9.*/+() -]+, )*[A-Za-z0-9.*/+() -]+)\]")
LETTER = re.compile(r"(?<![A-Za-z])[A-Zn](?![A-Za-z])")
LETTERS = set(re.findall(r"^\| `(\w)` \|", (ROOT / "docs" / "shapes.md").read_text(), re.MULTILINE))


def docstrings(path: Path) -> Iterator[str]:
    """Every docstring of a file, those below attributes included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for child in node.body:
                value = child.value if isinstance(child, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_say_what_they_are_about(path: Path) -> None:
    assert [text.splitlines()[0] for text in docstrings(path) if RIDDLES.match(text)] == []


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.relative_to(ROOT).parts[0] == "models"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_letters_of_shapes_are_explained(path: Path) -> None:
    found = {
        letter
        for text in docstrings(path)
        for shape in re.findall(r"`(\[[^`\]]*\])`", text)
        for letter in LETTER.findall(shape)
    }
    assert found <= LETTERS, f"not in docs/shapes.md: {sorted(found - LETTERS)}"


def helps(conf: type) -> Iterator[tuple[str, str]]:
    """Every key of a configuration and of those in it, with its description."""
    for item in fields(conf):
        if text := item.metadata.get("doc"):
            yield item.name, text
        kind: Any = item.default_factory if callable(item.default_factory) else None
        if isinstance(kind, type) and is_dataclass(kind):
            yield from helps(kind)


@pytest.mark.parametrize("script", schema.SCRIPTS)
def test_help_says_what_a_key_is(script: str) -> None:
    texts = dict(helps(schema.SCRIPTS[script]))
    assert texts
    assert [name for name, text in texts.items() if re.match(r"(of|as|the same|how)\b", text)] == []


def test_what_is_forbidden_would_be_found() -> None:
    assert RIDDLES.match("Of the corpus.") and not RIDDLES.match("Offsets of documents.")
    assert LETTER.findall("[B, T, H*N, K]") == ["B", "T", "H", "N", "K"]
