"""Compile once, keep on disk: what is left behind when builds fail, stop or race."""

import concurrent.futures
import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.ops import build
from models.ops.build import BuildError

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, build.COMPILERS)), reason="no C++ compiler here"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own: sources in cuda/, kernels in .cache/."""
    monkeypatch.setattr(build, "SOURCES", tmp_path / "cuda")
    (tmp_path / "cuda").mkdir()
    return tmp_path


def test_a_file_is_made_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "crossover.wkv")
    made = []

    def write(path: Path) -> None:
        made.append(path)
        path.write_text("kernel")

    first, second = build.cached("a-1.so", write), build.cached("a-1.so", write)
    assert caplog.messages == ["compiling a, once for this machine and version"]
    assert first == second and first.read_text() == "kernel" and len(made) == 1


def test_what_the_owner_of_a_checkout_has_built_is_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = build.cached("a.so", lambda path: path.touch())
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: access(path, mode) and mode != os.W_OK
    )  # root may write anywhere
    assert build.cached("a.so", pytest.fail) == theirs
    with pytest.raises(BuildError, match="no writable folder for built kernels"):
        build.cached("b.so", lambda path: path.touch())


def test_an_interrupted_build_leaves_nothing(folder: Path) -> None:
    def write(path: Path) -> None:
        path.write_text("half a ker")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.cached("a.so", write)
    assert list(build.cache_dir().iterdir()) == []


def test_several_may_build_at_once(folder: Path) -> None:
    def write(path: Path) -> None:
        path.write_text("kernel")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: build.cached("a.so", write), range(32)))
    assert {path.read_text() for path in paths} == {"kernel"}
    assert [path.name for path in build.cache_dir().iterdir()] == ["a.so"]


BUILDER = """
import sys, time
from pathlib import Path
from models.ops import build
build.SOURCES = Path(sys.argv[1]) / "cuda"
def write(path):
    with open(sys.argv[2], "a") as file:
        file.write("compiled\\n")
    time.sleep(0.5)
    path.write_text("kernel")
print(build.cached("a.so", write).read_text(), end="")
"""


def test_one_process_builds_for_all_of_a_node(folder: Path, tmp_path: Path) -> None:
    record = tmp_path / "record"
    command = [sys.executable, "-c", BUILDER, str(folder), str(record)]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [rank.communicate(timeout=120)[0] for rank in ranks] == ["kernel"] * 3
    assert record.read_text() == "compiled\n"
    assert [path.name for path in build.cache_dir().iterdir()] == ["a.so"]


@needs_compiler
def test_what_killed_builds_left_goes_with_the_next(folder: Path) -> None:
    (folder / "cuda" / "one.cpp").write_text('extern "C" int one() { return 1; }')
    for name in (".building-old", ".building-new"):
        (build.cache_dir() / name).mkdir()
    os.utime(build.cache_dir() / ".building-old", (0, 0))
    build.shared_library("one", ["one.cpp"], [])
    assert {path.name for path in build.cache_dir().glob(".building-*")} == {".building-new"}


@needs_compiler
def test_a_library_follows_its_sources(folder: Path) -> None:
    source, header = folder / "cuda" / "one.cpp", folder / "cuda" / "number.h"
    source.write_text('#include "number.h"\nextern "C" int number() { return NUMBER; }\n')
    libraries = []
    for number in (1, 2):
        header.write_text(f"#define NUMBER {number}\n")
        libraries.append(build.shared_library("one", ["one.cpp"], ["number.h"]))
        assert ctypes.CDLL(str(libraries[-1])).number() == number
    assert libraries[0] != libraries[1]


@needs_compiler
def test_a_failed_build_shows_the_compilers_last_lines(folder: Path) -> None:
    (folder / "cuda" / "bad.cpp").write_text("int f() { return undeclared_name; }\n")
    with pytest.raises(BuildError, match=r"(?s)could not compile cuda/bad.cpp:\n.*undeclared_name"):
        build.shared_library("bad", ["bad.cpp"], [])


def test_no_compiler_is_said_plainly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"no C\+\+ compiler found"):
        build._compiler.__wrapped__()


@needs_compiler
def test_builds_at_once_share_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of one name were written by two processes, and linked without their functions."""
    (folder / "cuda" / "k.cpp").write_text('extern "C" int one() { return 1; }')
    made: list[str] = []
    run = build._run

    def recorded(command: list[str]) -> str:
        made.extend(word for word in command if word.endswith(".o"))
        return run(command)

    monkeypatch.setattr(build, "_run", recorded)
    for flags in ("-DA", "-DB"):
        monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, flags])
        library = ctypes.CDLL(str(build.shared_library("k", ["k.cpp"], [])))
        assert library.one() == 1
    assert len({*made}) == 2
    assert {path.suffix for path in build.cache_dir().iterdir()} == {".so"}
