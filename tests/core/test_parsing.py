"""Whatever lies where a file of ours is expected is named in one line, and never waited for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import parsing
from core.errors import UserError, escaped
from core.parsing import (
    LONGEST_LINE,
    MOST_JSON,
    MOST_YAML,
    Missing,
    Unreadable,
    read_bytes,
    read_json,
    read_lines,
    read_object,
    read_text,
    read_yaml,
)


def bomb(levels: int) -> str:
    """Each anchor is nine of the one before: 9^levels values."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


JSON = {
    "": r"not JSON \(Expecting value at character 1\)",
    '{"a": 1,\n "b": }': "line 2: not JSON",
    "[" * 100_000: "nested more than 50 deep",
    "[" * 60 + "]" * 60: "nested more than 50 deep",
    '{"a":' * 60 + "1" + "}" * 60: "nested more than 50 deep",
    "1" * 5000: "a number of 5,000 digits",
    "-" + "9" * 305: "a number of 306 digits",
    "[1e999]": "the number 1e999 is too large",
    '"\\ud800"': "a text that is not Unicode",
    '{"\\udfff": 1}': "a text that is not Unicode",
    "\ufeff{}": "not JSON",
}
YAML = {
    "a: [1\nb: }": "line 2: not YAML",
    bomb(12): "line 1: not YAML .an anchor or alias",
    "a: &a [*a]": "an anchor or alias",
    "a: !!python/object/apply:os.system ['false']": "line 1: not YAML",
    "[" * 5000: "nest",
    "[" * MOST_YAML: "nest",
    "{a: " * 60 + "1" + "}" * 60: "nested more than 50 deep",
    "a: 2020-01-01": "a value of the type date",
    "a: 2020-99-01": "not a configuration",
    "a: !!binary aGk=": "a value of the type bytes",
    "1: 2": "a name that is not text",
    "? [1, 2]\n: 3": "not YAML",
    "- 1": "holds a list, not an object",
    "5": "holds a number, not an object",
    "": "holds nothing, not an object",
    "a: =": "not YAML",
    "b: 1\na: 1" + "0" * 9000: "line 2: a number of 9,001 digits",
    "\x00\x01": "not a configuration",
    "a: b\n" * MOST_YAML: "larger than 262,144 bytes",
}


def test_what_a_terminal_obeys_or_turns_around_is_written_out() -> None:
    assert escaped("a\x1b[2J\u202eb\u2066\u2028é") == "a\\x1b[2J\\u202eb\\u2066\\u2028é"


@pytest.mark.parametrize("text", JSON, ids=range(len(JSON)))
def test_json_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Unreadable, match=JSON[text]) as refused:
        read_json(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 400


@pytest.mark.parametrize("text", YAML, ids=range(len(YAML)))
def test_yaml_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(Unreadable, match=YAML[text]) as refused:
        read_yaml(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 400


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def enormous(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))  # a name may not be long


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "a pipe, not a file"),
    "a folder": (Path.mkdir, "a folder, not a file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a device or socket, not a file"),
    "a terminal": (lambda path: path.symlink_to("/dev/tty"), "not a file|cannot be opened"),
    "a socket": (socket_at, "a device or socket, not a file"),
    "a circle": (lambda path: path.symlink_to(path), "cannot be opened"),
    "a broken link": (dangling, "a link that leads nowhere"),
    "a file for a folder": (lambda path: None, "no such file"),
    "more than memory": (enormous, "larger than"),
    "not UTF-8": (lambda path: path.write_bytes(b"{\n\xff}"), "line 2: not UTF-8"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_what_is_no_file_is_not_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, said = PLACES[kind]
    path = tmp_path / "it"
    make(path)
    if kind == "a file for a folder":
        path.write_text("{}")
        path = path / "it"
    with pytest.raises(Unreadable, match=said):
        read_json(path)


def test_nothing_there_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="no such file"):
        read_object(tmp_path / "a")
    assert issubclass(Missing, Unreadable) and issubclass(Unreadable, UserError)


def test_plain_values_come_through(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text('{"a": [1, -2.5e-3, null, true, "\\u00e9"], "b": 1000000000000000000000000}')
    assert read_object(path) == {"a": [1, -2.5e-3, None, True, "\u00e9"], "b": 10**24}
    path.write_text("a: {b: [1, 2.5, null, true, c]}\nd: -.inf\n")
    assert read_yaml(path) == {"a": {"b": [1, 2.5, None, True, "c"]}, "d": float("-inf")}
    path.write_bytes(b"a" * MOST_JSON)
    assert len(read_text(path)) == MOST_JSON
    with pytest.raises(Unreadable, match="holds a list, not an object"):
        path.write_text("[]")
        read_object(path)


def test_each_line_is_a_row_or_says_why_not(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    long = b"[" * (3 * LONGEST_LINE)
    lines = [b'{"a": 1}', b"3", b"null", b"[1]", b"\xff", b"", long, b"[" * 9999, b'{"a": 2}']
    path.write_bytes(b"\n".join(lines) + b'\n{"a": 3')
    rows = list(read_lines(path))
    assert [line.number for line in rows] == list(range(1, 11))
    assert [line.value for line in rows if line.value] == [{"a": 1}, {"a": 2}]
    assert [line.problem.split(" (")[0] for line in rows] == [
        "", "a number, not an object", "nothing, not an object", "a list, not an object",
        "not UTF-8", "not JSON", "longer than 1,048,576 bytes", "nested more than 50 deep", "",
        "not JSON",
    ]  # fmt: skip
    assert [line.ended for line in rows] == [True] * 9 + [False]


def test_a_line_without_an_end_is_given_up(tmp_path: Path) -> None:
    """A sparse file of a terabyte holds nothing, and takes hours to read."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n')
    os.truncate(path, 1 << 40)
    sound, endless = read_lines(path)
    assert sound.value == {"a": 1}
    assert endless.problem == "has no end within 536,870,912 bytes; nothing after it is read"
    assert endless.ended  # it is damaged, not cut short


def test_a_file_that_waits_for_its_content_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel's log does, once it has been read: opened without waiting, it gives None."""

    class Waiting:
        def __init__(self, descriptor: int) -> None:
            self._descriptor = descriptor

        def fileno(self) -> int:
            return self._descriptor

        def read(self, size: int) -> None:
            return None

    @contextmanager
    def regular(path: Path) -> Iterator[Waiting]:
        with (tmp_path / "kmsg").open("wb") as file:
            yield Waiting(file.fileno())

    monkeypatch.setattr(parsing, "regular", regular)
    with pytest.raises(Unreadable, match="waits for somebody to write"):
        read_bytes(tmp_path / "kmsg")


def test_a_high_bound_allocates_no_more_than_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "little"
    path.write_bytes(b"abc")
    assert read_bytes(path, 1 << 60) == b"abc"
    with pytest.raises(Unreadable, match="larger than 2 bytes"):
        read_bytes(path, 2)


def test_a_file_that_says_that_it_is_empty_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "_BLOCK", 16)
    path = Path("/proc/self/status")
    if not path.is_file():
        pytest.skip("the kernel makes no files here")
    assert b"VmRSS" in read_bytes(path)
