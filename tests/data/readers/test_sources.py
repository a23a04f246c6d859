"""What somebody points at: found without waiting, read without ending the process."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.schema import DataConf
from core.errors import UserError
from data import corpora
from data.readers import file_kinds
from data.readers import sources as sources_module
from data.readers.sources import Sources, kernel_devices, shown


def refusal(*paths: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        corpora.load(DataConf(corpus="text", paths=[str(path) for path in paths]))
    return str(caught.value)


def listener(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.close()


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 42)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "is a pipe, not a file"),
    "socket": (listener, "is a device or socket, not a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device or socket, not a file"),
    "folder": (Path.mkdir, "is a folder"),
    "loop": (lambda path: path.symlink_to(path), "cannot be opened: a link that leads nowhere"),
    "dangling": (lambda path: path.symlink_to("gone"), "cannot be opened: a link that leads nowhe"),
    "sparse": (sparse, "is not UTF-8 text"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_named(tmp_path: Path, kind: str) -> None:
    make, message = KINDS[kind]
    make(tmp_path / "it")
    assert message in refusal(tmp_path / "it")
    (tmp_path / "text").write_text("some text " * 99)
    paths = Sources().expand(str(tmp_path / "*"))
    assert sorted(Path(path).name for path in paths) == (
        ["it", "text"] if kind == "sparse" else ["text"]
    )


@pytest.mark.skipif(not kernel_devices(), reason="no /proc/self/mountinfo")
@pytest.mark.parametrize("pattern", ["/proc/kmsg", "/proc/self/mem", "/proc/cpuinfo"])
def test_what_the_kernel_makes_up_is_not_read(tmp_path: Path, pattern: str) -> None:
    assert "is made up by the kernel while it is read" in refusal(pattern)
    (tmp_path / "link").symlink_to(pattern)
    assert "is made up by the kernel while it is read" in refusal(tmp_path / "link")
    assert "is made up by the kernel while it is read" in refusal(tmp_path / "*")
    for glob in ("/proc/*", "/proc/**/*", "/proc/*/mem", "/sys/**/x*"):
        assert "leads to what the kernel makes up while it is read, and matches" in refusal(glob)


@pytest.mark.parametrize("kind", ["named", "glob", "deep", "below"])
def test_a_folder_that_is_closed_to_the_user_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    closed = tmp_path / "closed"
    (closed / "in").mkdir(parents=True)
    for place in (tmp_path, closed, closed / "in"):
        (place / "a.txt").write_text("text")
    found = Sources(folders=True)
    scandir, status = os.scandir, Path.stat

    def refused(path: Path) -> None:
        if closed in (path, path.parent) and (path != closed or kind != "deep"):
            raise PermissionError(13, "Permission denied", str(path))

    def listing(path: Path) -> object:
        refused(path)
        return scandir(path)

    def looked_at(path: Path, **words: bool) -> os.stat_result:
        if path.parent == closed:
            refused(path)
        return status(path, **words)

    monkeypatch.setattr(os, "scandir", listing)
    monkeypatch.setattr(Path, "stat", looked_at)
    paths = {
        "named": closed, "glob": closed / "*", "deep": closed / "in" / "*",
        "below": tmp_path / "**" / "*.txt",
    }  # fmt: skip
    assert len(found.expand(str(paths[kind]))) == (kind == "below")
    place = closed / "in" if kind == "deep" else closed
    assert found.problems == [f"{str(place)!r} cannot be looked into (Permission denied)"]


def test_of_many_files_none_is_looked_at_but_what_the_kernel_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        (tmp_path / f"{number}.txt").write_text("text")
    mounted, looks = str(tmp_path.resolve() / "7.txt"), list[str]()
    stat = os.stat

    def looked(path: str | Path, **words: bool) -> os.stat_result:
        found = stat(path, **words)
        if str(path).endswith(".txt"):
            looks.append(str(path))
        if str(path) == mounted:
            return os.stat_result([found[0], found[1], 7777, *found[3:10]])
        return found

    monkeypatch.setattr(sources_module, "_kernel_mounts", lambda: {(7777, mounted)})
    monkeypatch.setattr(os, "stat", looked)
    found = Sources()
    assert len(found.expand(str(tmp_path / "*.txt"))) == 49
    assert found.problems == [
        f"{mounted!r} is made up by the kernel while it is read: copy what you need to a file"
    ]
    assert looks == [mounted]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 4000, "cannot be looked for (File name too long)|does not exist"),
        ("x/" * 4000, "cannot be looked for (File name too long)|does not exist"),
        ("*/" * 4000, "does not exist and matches no file"),
        ("**/" * 400, "does not exist and matches no file"),
        ("caf\udce9.txt", "is not UTF-8"),
        ("a\0b", "null|does not exist"),
        ("~nobody-has-this-name/a.txt", "is not a glob"),
        ("[", "does not exist"),
        ("", "is a folder"),
    ],
)
def test_any_name_ends_in_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = refusal(name)
    assert any(part in refused for part in message.split("|")), refused
    assert len(refused) < 1000


def test_files_with_a_name_that_is_not_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.txt").write_text("text " * 99)
    message = refusal(tmp_path / "*.txt")
    assert r"caf\udce9.txt' has a name that is not UTF-8" in message
    message.encode()


def test_links_in_circles_cost_no_more_than_their_folders(tmp_path: Path) -> None:
    for i in range(9):
        (tmp_path / f"link{i}").symlink_to(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    pattern = str(tmp_path / "/".join(["*"] * 40 + ["**", "**", "*.txt"]))  # 9^40 ways
    assert Sources().expand(pattern) == [str((tmp_path / "a.txt").resolve())]


def test_globs_find_what_pathlib_finds(tmp_path: Path) -> None:
    for name in (
        "a.txt",
        ".hidden.txt",
        "b/c.txt",
        "b/d/e.txt",
        "b/d/f.md",
        "b/[x].txt",
        "q/a.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "to_b").symlink_to("b")
    for glob in (
        "*.txt",
        "**/*.txt",
        "b/**/*",
        "*/*.txt",
        "?/d/e.*",
        "**/d/*",
        "*/[[]x].txt",
        "q/*",
    ):
        files = {str(path.resolve()) for path in tmp_path.glob(glob) if path.is_file()}
        assert set(Sources().expand(str(tmp_path / glob))) == files and files, glob


def test_a_file_with_a_hole_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        file.write(b"some text\n" * 9000)
        file.truncate(1 << 31)
    assert list(Sources().parts(tmp_path / "a.txt", markup=False)) == []
    assert "a.txt is not UTF-8 text" in refusal(tmp_path / "a.txt")


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    sources = Sources()
    path = Path(*sources.expand(str(tmp_path / "a.txt")))
    path.unlink()
    os.mkfifo(path)
    assert sources.read(path) == b"" and list(sources.parts(path, markup=False)) == []
    assert sources.problems == [f"{path} cannot be read (a pipe, not a file)"] * 2


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 1000])
def test_parts_end_between_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    text = "aé漢🎉 b\n" * 40
    (tmp_path / "a.txt").write_text(text)
    monkeypatch.setattr(sources_module, "PART", size)
    for part in (parts := list(Sources().parts(tmp_path / "a.txt", markup=False))):
        part.decode()
    assert b"".join(parts).decode() == text
    (tmp_path / "a.txt").write_bytes(text.encode() + "漢".encode()[:2])
    sources = Sources()
    list(sources.parts(tmp_path / "a.txt", markup=False))
    assert "is not UTF-8 text" in sources.problems[0]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"a": "%s"}' % ("x " * 90_000), "JSON"),
        ('{"a": 1}\n' * 30_000, "JSON lines"),
        ("<html>" + "x " * 90_000, "HTML"),
        ("<a>" + "x " * 90_000 + "</a>", "XML"),
        ("a,b\n" + "1,2\n" * 90_000, "CSV"),
        ("[1] is no JSON. " * 9_000, None),
        ("Prose, of which there is much. " * 9_000, None),
    ],
)
def test_a_large_file_is_judged_by_its_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, kind: str | None
) -> None:
    monkeypatch.setattr(sources_module, "SMALL", 1 << 17)
    (tmp_path / "large").write_text(text)
    sources = Sources()
    content = b"".join(sources.parts(tmp_path / "large", markup=False))
    assert (content.decode() == text) == (kind is None)
    assert (f"large is {kind} and not plain text" in "".join(sources.problems)) == bool(kind)


def test_names_are_shown_as_they_can_be_printed() -> None:
    assert shown("caf\udce9") == r"'caf\udce9'"
    assert len(shown("x" * 9000)) < 200


@pytest.mark.parametrize(
    "text", ["<!---->" * 2000 + "x", "<!--" * 9000, "<a" * 20_000, "[" * 60_000]
)
def test_no_text_takes_long_to_be_told_from_markup(text: str) -> None:
    assert file_kinds.markup("a.txt", text) is None
