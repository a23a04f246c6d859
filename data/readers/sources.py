"""The files that somebody names as texts: found and read without ever waiting for one of them.

A file is read in parts, so it may be larger than the memory.

What can be pointed at is not always a file: pipes and devices block, files of the kernel's own file
systems are made up while they are read (some wait, some never end), links go round in circles.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from core.parsing import Unreadable, regular
from data.readers import file_kinds
from data.readers.text_encoding import decoded, is_utf8
from data.text import END_OF_TEXT

HEAD = 1 << 16  # bytes that distinguish text from the rest
SMALL = 16 << 20  # bytes of a file that is judged by all that it holds
PART = 4 << 20  # bytes read at once
LARGEST = 256 << 20  # bytes of a file that is read whole

_MAGIC = re.compile(r"[*?[]")
KERNEL = {  # types of file systems without files of their own
    *("autofs", "bpf", "binfmt_misc", "cgroup", "cgroup2", "configfs", "debugfs", "devpts"),
    *("efivarfs", "fusectl", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs"),
    *("selinuxfs", "sysfs", "tracefs"),
}


class Sources:
    """Files by path and glob. What cannot be used is collected in `problems`."""

    def __init__(self, folders: bool = False, example: str = "*.txt") -> None:
        """With `folders`, the path of one stands for every file in it and below it.

        `example` names files as a message proposes them.
        """
        self.problems: list[str] = []
        self._folders, self._example = folders, example
        mounts = _kernel_mounts()
        self._kernel = {device for device, _ in mounts}
        self._made_up = {place for _, place in mounts}
        self._looked_at: set[str] = set()  # folders that are not the kernel's, by their real paths
        self._in_kernel = False  # whether a glob has led there
        self._closed: dict[str, str] = {}  # folders that cannot be looked into, and why

    def expand(self, pattern: str) -> list[str]:
        """The absolute paths of the files that `pattern` names: a file, or a glob.

        They are plain texts, because there may be hundreds of thousands.
        """
        self._closed.clear()
        try:
            pattern.encode()
            path = Path(pattern).expanduser().absolute()
            paths = self._named(path) if os.path.lexists(path) else self._matches(path)
        except UnicodeEncodeError:
            self.problems.append(f"{shown(pattern)} is not UTF-8: rename it")
        except OSError as error:
            self.problems.append(f"{shown(pattern)} cannot be looked for ({error.strerror})")
        except (ValueError, RuntimeError) as error:  # ** beside other characters, no such ~user
            self.problems.append(f"{shown(pattern)} is not a glob ({error})")
        else:
            # Nothing that was named is left out in silence.
            self.problems += [f"{shown(folder)} {why}" for folder, why in self._closed.items()]
            return [file for file in paths if self._is_usable(file)]
        return []

    def read(self, path: Path) -> bytes:
        """What a small file holds; only its head, and a zero, if it is not text."""
        with self._told(path), regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST:
                self.problems.append(f"{path} has {size:,} bytes, more than is read at once")
                return b""
            head = file.read(HEAD) or b""
            if b"\0" in head or _has_hole(file.fileno(), size):
                return head + b"\0"
            return head + (file.read(size - len(head)) or b"" if size > len(head) else b"")
        return b""

    def parts(self, path: Path, markup: bool, encoding: str = "utf-8") -> Iterator[bytes]:
        """The text in a file, UTF-8, in parts that end between characters.

        It ends early with a problem if that is not plain text, or records and markup without
        `markup`, or in another encoding than this one.
        """
        with self._told(path), regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            problem = _not_text(path, file, size, markup, encoding)
            file.seek(0)
            for part in _utf8(path, file, size, encoding):
                if not problem and not is_text(part):
                    problem = _binary(path, part)
                if problem:
                    self.problems.append(problem)
                    return
                yield part

    @contextmanager
    def _told(self, path: Path) -> Iterator[None]:
        """What cannot be read becomes one of the problems."""
        try:
            yield
        except Unreadable as error:
            reason = error.reason
            if not reason.startswith(("cannot", "is ")):
                reason = f"cannot be read ({reason})"
            self.problems.append(f"{path} {reason}")

    def _named(self, path: Path) -> list[str]:
        """The one path that is there, whatever it is."""
        mode = self._mode(path)
        if mode is not None and stat.S_ISDIR(mode):
            if self._folders:
                return self._inside(path)
            self.problems.append(
                f"{shown(path)} is a folder (name its files, e.g. {path / '**' / self._example}, "
                "or let data=files read whatever is in it)"
            )
        elif mode is not None and not stat.S_ISREG(mode):
            kind = "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
            self.problems.append(f"{shown(path)} is {kind}, not a file")
        elif mode is not None:
            return [str(path.resolve())]
        return []

    def _mode(self, path: Path) -> int | None:
        try:
            return path.stat().st_mode
        except OSError as error:
            why = "a link that leads nowhere" if path.is_symlink() else f"({error.strerror})"
            self.problems.append(f"{shown(path)} cannot be opened: {why}")
            return None

    def _is_usable(self, path: str) -> bool:
        problem = ""
        try:
            path.encode()
            # Of hundreds of thousands in such folders none needs a look of its own.
            looked_at = path[: path.rfind("/")] in self._looked_at and path not in self._made_up
            if not looked_at and os.stat(path).st_dev in self._kernel:  # noqa: PTH116
                problem = "is made up by the kernel while it is read: copy what you need to a file"
        except UnicodeEncodeError:
            problem = "has a name that is not UTF-8: rename it"
        except OSError as error:
            problem = f"cannot be opened ({error.strerror})"
        if problem:
            self.problems.append(f"{shown(path)} {problem}")
        return not problem

    def _matches(self, path: Path) -> list[str]:
        """The files that a glob names. A folder that several ways lead to is entered once."""
        self._in_kernel = False
        parts = path.parts[1:]
        for part in parts:
            if "**" in part and part != "**":
                raise ValueError("'**' must stand alone between slashes")
        *above, last = [*parts, "*"] if parts[-1] == "**" else parts
        level = [Path(path.anchor)]
        for part in above:
            # Each folder once: links can lead to one in exponentially many ways.
            folders: dict[tuple[int, int], Path] = {}
            for folder in self._below(level, part):
                try:
                    status = folder.stat()
                except OSError as error:
                    self._note(folder, error)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    folders.setdefault((status.st_dev, status.st_ino), folder)
            level = [*folders.values()]
        files = [file for folder in level for file in self._files(folder, last)]
        if not files and not self._closed:
            why = "leads to what the kernel makes up while it is read, and"
            self.problems.append(
                f"{shown(path)} {why if self._in_kernel else 'does not exist and'} matches no file"
            )
        return files

    def _inside(self, folder: Path) -> list[str]:
        """The files in a folder and below it, but those that are hidden."""
        files = []
        for each in self._descend(folder, set()):
            if not any(part.startswith(".") for part in each.relative_to(folder).parts):
                files += self._files(each, "[!.]*")
        if not files and not self._closed:
            self.problems.append(f"{shown(folder)} is a folder without files")
        return files

    def _files(self, folder: Path, part: str) -> list[str]:
        """The files in a folder whose names match, without links in their paths."""
        if not _MAGIC.search(part):
            file = folder / part
            try:
                is_file = stat.S_ISREG(file.stat().st_mode)
            except OSError as error:
                self._note(folder, error)
                return []
            return [os.path.realpath(file)] if is_file else []
        real = os.path.realpath(folder)
        matches = re.compile(fnmatch.translate(part)).match
        found = []
        for entry in self._in(folder):
            if matches(entry.name):
                with suppress(OSError):  # of a link that leads to itself
                    if entry.is_file(follow_symlinks=False):
                        found.append(f"{real}/{entry.name}" if real != "/" else f"/{entry.name}")
                    elif entry.is_file():
                        found.append(os.path.realpath(entry.path))
        return found

    def _below(self, folders: list[Path], part: str) -> Iterator[Path]:
        if part == "**":
            seen: set[Path] = set()
            for folder in folders:
                yield from self._descend(folder, seen)
        elif not _MAGIC.search(part):
            yield from (folder / part for folder in folders)
        else:
            matches = re.compile(fnmatch.translate(part)).match
            for folder in folders:
                yield from (
                    folder / entry.name for entry in self._in(folder) if matches(entry.name)
                )

    def _descend(self, folder: Path, seen: set[Path]) -> Iterator[Path]:
        """`folder` and every folder below it that is not in `seen`, but through no link."""
        waiting = [folder]
        while waiting:
            current = waiting.pop()
            if current not in seen:
                seen.add(current)
                yield current
                entries = self._in(current)
                waiting += [current / e.name for e in entries if e.is_dir(follow_symlinks=False)]

    def _in(self, folder: Path) -> list[os.DirEntry[str]]:
        """What is in a folder; nothing in one that cannot be read or is the kernel's."""
        try:
            if folder.stat().st_dev in self._kernel:
                self._in_kernel = True
                return []
            with os.scandir(folder) as entries:
                found = list(entries)
            self._looked_at.add(os.path.realpath(folder))
            return found
        except OSError as error:
            self._note(folder, error)
            return []

    def _note(self, folder: Path, error: OSError) -> None:
        """Remember a folder that is there, and closed to this user."""
        if isinstance(error, PermissionError):
            self._closed[str(folder)] = f"cannot be looked into ({error.strerror})"


def kernel_devices() -> set[int]:
    """The device numbers of mounted file systems that have no files of their own."""
    return {device for device, _ in _kernel_mounts()}


def _kernel_mounts() -> set[tuple[int, str]]:
    """Where they are mounted, after their device numbers; that may be a file."""
    found = set()
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:  # another system than Linux
        return set()
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) > 4 and after.split(" ")[0] in KERNEL:
            major, _, minor = fields[2].partition(":")
            place = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
            found.add((os.makedev(int(major), int(minor)), place))
    return found


def shown(name: str | Path) -> str:
    """A name as it can be printed: in quotes, not too long, other bytes than UTF-8 escaped."""
    text = repr(str(name))
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"


def is_text(content: bytes) -> bool:
    """Valid UTF-8 without a NUL byte, which no text has and most binary formats do."""
    if b"\0" in content:
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _not_text(path: Path, file: BinaryIO, size: int, markup: bool, encoding: str) -> str:
    """Why a file is no plain text, judged by all of a small one and the ends of a large one."""
    whole = size <= SMALL
    head = file.read(SMALL if whole else HEAD) or b""
    if not is_utf8(encoding):
        head = head.decode(encoding, errors="ignore").encode(errors="ignore")
    if b"\0" in head or _has_hole(file.fileno(), size):
        return _binary(path, head)
    if markup:
        return ""
    tail = b""
    if not whole and is_utf8(encoding):
        file.seek(size - HEAD)
        tail = file.read(HEAD) or b""
    text = (head + tail).decode(errors="ignore")
    if kind := file_kinds.markup(path.name, text, whole):
        reader = file_kinds.READERS.get(kind)
        way = f"data={reader} reads it" if reader else "take its texts out, one file per document"
        return (
            f"{path} is {kind} and not plain text: {way} "
            "(data.markup=true trains on the markup too)"
        )
    if file_kinds.separated(text):
        return (
            f"{path} has {END_OF_TEXT} between its documents: give one file per document "
            "(data.markup=true trains on it as the text it is)"
        )
    return ""


def _binary(path: Path, content: bytes) -> str:
    return f"{path} is not UTF-8 text ({file_kinds.binary(path, content)})"


def _utf8(path: Path, file: BinaryIO, size: int, encoding: str) -> Iterator[bytes]:
    if is_utf8(encoding):
        return _whole_characters(file, size)
    blocks = iter(lambda: file.read(PART) or b"", b"")
    return (text.encode() for text in decoded(path, blocks, encoding) if text)


def _whole_characters(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The first `size` bytes of a file in parts, none of which ends within a character."""
    rest = b""
    while size > 0 and (block := file.read(min(PART, size))):
        size -= len(block)
        block = rest + block
        end = len(block)
        for back in range(1, min(4, end) + 1):
            byte = block[-back]
            if byte & 0xC0 != 0x80:  # the first byte of a character of so many bytes:
                needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
                end -= back if needed > back else 0
                break
        rest = block[end:]
        if end:
            yield block[:end]
    if rest:
        yield rest


def _has_hole(descriptor: int, size: int) -> bool:
    """Whether parts of an open file were never written, and so are zeros."""
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        return os.lseek(descriptor, 0, os.SEEK_HOLE) < size
    except (OSError, AttributeError):  # not every system knows
        return False
    finally:
        os.lseek(descriptor, place, os.SEEK_SET)
