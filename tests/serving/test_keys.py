"""What is a key, and what is none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from serving.keys import ONLY, OPEN, Budget, Keys, read_key, read_keys

KEYS: dict[str, Any] = {
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "the kernel's log": lambda path: path.symlink_to("/proc/kmsg"),
    "folder": lambda path: path.mkdir(),
    "nothing": lambda path: None,
    "holes": lambda path: path.touch() or os.truncate(path, 8 << 30),
    "two lines": lambda path: path.write_text("a\nb\n"),
    "a bell": lambda path: path.write_text("a\x07"),
    "not ASCII": lambda path: path.write_text("schl\xfcssel"),
    "not UTF-8": lambda path: path.write_bytes(b"\xff"),
    "empty": lambda path: path.write_text(" \n"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_what_holds_no_key_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key"
    KEYS[kind](path)
    with pytest.raises(UserError, match=r"^key_file="):
        read_key(path)
    with pytest.raises(UserError, match=r"^keys_file="):
        read_keys(path)


def test_a_key_is_the_line_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("of mine\n")
    keys = read_key(tmp_path / "key")
    assert keys.name_of("of mine") == ONLY and keys.budgets == {}
    assert keys.name_of("of min") is None and keys.name_of("") is None
    assert keys.name_of("schl\xfcssel") is None
    assert Keys().name_of("anything") == OPEN


def test_several_keys_have_names_and_budgets(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({
        "ann": {"key": "k1", "tokens": 1000}, "bob": {"key": "k2", "cost": 2.5}, "c": {"key": "k3"},
    }))  # fmt: skip
    keys = read_keys(path)
    assert [keys.name_of(key) for key in ("k1", "k2", "k3", "k4")] == ["ann", "bob", "c", None]
    assert keys.budgets == {"ann": Budget(1000), "bob": Budget(cost=2.5), "c": Budget()}


BAD: dict[str, tuple[Any, str]] = {
    "none": ({}, "holds no key"),
    "no object": ({"ann": "k"}, "ann: expected an object with key"),
    "no key": ({"ann": {"tokens": 3}}, "ann: expected an object with key"),
    "another field": ({"ann": {"key": "k", "token": 3}}, "ann: expected an object"),
    "no text": ({"ann": {"key": 7}}, "its key is no text"),
    "an empty key": ({"ann": {"key": ""}}, "its key is no text"),
    "space around": ({"ann": {"key": " k"}}, "its key is no text"),
    "one key twice": ({"ann": {"key": "k"}, "bob": {"key": "k"}}, "bob: another name has the same"),
    "half a token": ({"ann": {"key": "k", "tokens": 0.5}}, "tokens is a whole number"),
    "true": ({"ann": {"key": "k", "tokens": True}}, "tokens is a whole number"),
    "a debt": ({"ann": {"key": "k", "cost": -1}}, "cost is a number of at least 0"),
    "no name": ({"": {"key": "k"}}, "a name has 1 to 64 printable characters"),
    "a long name": ({"x" * 65: {"key": "k"}}, "a name has 1 to 64 printable characters"),
    "a bell": ({"a\x07": {"key": "k"}}, r"a\\x07: a name has"),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_are_none_are_one_message(tmp_path: Path, case: str) -> None:
    content, message = BAD[case]
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"^keys_file=.*{message}"):
        read_keys(path)
