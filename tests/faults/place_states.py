"""Places where nothing, or not everything, can be written or read, and how each is made."""

from __future__ import annotations

import os
import random
import resource
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class State:
    """How a place is made to be such; `make` returns the path to name."""

    told: str
    make: Callable[[Path, random.Random], Path]
    root: bool = True
    """Whether it stops root, too."""
    hard: bool = True
    """Whether nothing at all can be written there."""
    mounts: bool = False
    readable: bool = False
    """Whether what lies there can be read nevertheless."""


def _below(path: Path) -> Path:
    return path / "below" / "it"


def _file(path: Path, draw: random.Random) -> Path:
    path.write_text("mine")
    return draw.choice([path, _below(path)])


def _nowhere(path: Path, draw: random.Random) -> Path:
    path.symlink_to(path.with_name("nowhere"))
    return draw.choice([path, _below(path)])


def _loop(path: Path, draw: random.Random) -> Path:
    path.symlink_to(path)
    return draw.choice([path, _below(path)])


def _device(path: Path, draw: random.Random) -> Path:
    return Path(draw.choice(["/dev/null", "/dev/null/x"]))


def _kernel(path: Path, draw: random.Random) -> Path:
    return Path("/proc/new")


def _mode(mode: int) -> Callable[[Path, random.Random], Path]:
    def make(path: Path, draw: random.Random) -> Path:
        path.mkdir()
        path.chmod(mode)
        return draw.choice([path, path / "new"])

    return make


def _read_only(path: Path, draw: random.Random) -> Path:
    path.mkdir()
    _mount(path)
    (path / "old").mkdir(mode=0o777)
    subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)
    return draw.choice([path / "old", path / "new"])


def _full(path: Path, draw: random.Random) -> Path:
    """Not a byte left."""
    path.mkdir()
    _mount(path, "size=64k")
    _fill(path, 0)
    return draw.choice([path, path / "new"])


def _nearly_full(path: Path, draw: random.Random) -> Path:
    path.mkdir()
    _mount(path, "size=4m")
    _fill(path, draw.choice([4, 8, 16, 40, 100, 300]) << 10)
    return path / "new"


def _no_names(path: Path, draw: random.Random) -> Path:
    """Not one more file can be."""
    path.mkdir()
    _mount(path, "nr_inodes=1")
    return draw.choice([path, path / "new"])


def _few_names(path: Path, draw: random.Random) -> Path:
    path.mkdir()
    _mount(path, f"nr_inodes={draw.randrange(2, 9)}")
    return path / "new"


def small_files(path: Path, draw: random.Random) -> Path:
    """Files may not grow: what a quota or `ulimit -f` does."""
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    size = draw.choice([1 << 12, 1 << 14, 1 << 16])  # the console is a file, too
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return path / "new"


def _long(path: Path, draw: random.Random) -> Path:
    names = draw.choice([["n" * 300], ["n" * 250] * 20, ["n" * 300, "x"]])
    return path.joinpath(*names)


def _long_but_possible(path: Path, draw: random.Random) -> Path:
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    return path / ("n" * draw.randrange(230, 256))


def _not_utf8(path: Path, draw: random.Random) -> Path:
    path.mkdir(mode=0o777)
    path.chmod(0o777)
    return path / os.fsdecode(b"\xff\xfe")


STATES = (
    State("a file, or below one", _file),
    State("a link to nowhere, or below one", _nowhere),
    State("a link to itself, or below one", _loop),
    State("a device, or below one", _device),
    State("a kernel's folder", _kernel),
    State("a name too long", _long),
    State("a name almost too long", _long_but_possible, hard=False),
    State("a name that is not UTF-8", _not_utf8, hard=False),
    State("of mode 555", _mode(0o555), root=False, readable=True),
    State("of another user", _mode(0o755), root=False, readable=True),
    State("not to be entered", _mode(0o600), root=False),
    State("not to be listed", _mode(0o333), root=False, hard=False),
    State("on a read-only disk", _read_only, mounts=True),
    State("on a full disk", _full, mounts=True),
    State("on a disk that is nearly full", _nearly_full, mounts=True, hard=False),
    State("on a disk without room for a name", _no_names, mounts=True),
    State("on a disk with room for few names", _few_names, mounts=True, hard=False),
    State("where files may not grow", small_files, hard=False),
)  # fmt: skip


def _mount(path: Path, options: str = "size=1m") -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"{options},mode=777", "none", str(path)]
    subprocess.run(command, check=True)


def _fill(path: Path, left: int) -> None:
    disk = os.statvfs(path)
    room = disk.f_bavail * disk.f_frsize - left
    with (path / "filling").open("wb") as file:
        file.write(bytes(max(0, room)))
