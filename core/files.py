"""Writing files so that a crash leaves the old one or the new one, and knowing a damaged one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import UserError, shown
from core.parsing import Missing, Unreadable, read_object, regular

ASIDE = re.compile(r"\..+\.\d+\.tmp|\.[0-9a-f]{16}(\.\w+)?")  # what is written to at first
MANIFEST = 1 << 10  # bytes that one may have
FILES = "files.json"  # in a folder with a manifest: what each other file there must contain


@contextmanager
def atomic(path: Path, manifest: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary sibling of `path` for writing; rename it to `path` if the body succeeds.

    With `manifest`, a file that says what `path` must contain is put beside it first.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with making(path.parent):
        try:
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if manifest:  # first, because a file without one counts as damaged
                write_manifest(path, aside)
            aside.replace(path)
            with suppress(PermissionError):  # some systems do not let folders be opened
                sync(path.parent)
        except OSError as error:
            if error.errno and error.filename is None:  # `write` does not say where
                raise OSError(error.errno, error.strerror, str(path)) from None
            raise
        finally:
            aside.unlink(missing_ok=True)


def appending(path: Path) -> BinaryIO:
    """Open a regular file to write at its end, made if need be. Raises `OSError`, never waits."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EEXIST, "not a file", str(path))
    return os.fdopen(descriptor, "ab")


def sweep(folder: Path, older: float = 0) -> None:
    """Delete the files that killed processes left of `atomic` and `replacing`.

    None may be writing there now, but those younger than `older` seconds, if given, are left.
    """
    for path in folder.glob(".*"):
        if not ASIDE.fullmatch(path.name):
            continue
        with suppress(OSError):  # a folder, which is none of ours
            if not older or path.stat().st_mtime < time.time() - older:
                path.unlink()


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Make `folder` and those above it; if the body fails, new ones that are empty go again."""
    new = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):
            for path in new:
                if path.exists():
                    path.rmdir()
        raise


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A sibling of `target` for the body to make, file or folder; `target` once it succeeds."""
    aside = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")  # no longer than it must be
    old = target.with_name(f".{secrets.token_hex(8)}.old")
    with making(target.parent):
        try:
            yield aside
            for path in (*(aside.iterdir() if aside.is_dir() else ()), aside):
                sync(path)
            if target.is_dir():  # a folder cannot be renamed onto another
                target.rename(old)
            aside.replace(target)
            sync(target.parent)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise
        finally:
            for path in (aside, old):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def filling(folder: Path, last: str, former: Iterable[str] = ()) -> Iterator[Path]:
    """An empty folder for the body to write files in; once it succeeds they replace those of their
    names in `folder`, and the one called `last` comes last. Then those of the `former` names that
    have not been written again go. Other files there are left alone."""
    with making(folder.parent):
        # In the folder, if it is there: above it may be another file system, or somebody else's.
        above = folder if folder.is_dir() else folder.parent
        aside = Path(tempfile.mkdtemp(prefix=".new-", dir=above))
        try:
            yield aside
            for path in aside.iterdir():
                sync(path)
            with making(folder):
                written = sorted(aside.iterdir(), key=lambda path: path.name == last)
                for path in written:
                    path.replace(folder / path.name)
                for name in {*former} - {path.name for path in written}:
                    if (folder / name).is_file():
                        (folder / name).unlink()
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file atomically."""
    with atomic(path) as file:
        file.write(text.encode())


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file's contents."""
    total = hashlib.sha256()
    with regular(path) as file:
        while part := file.read(1 << 20):
            total.update(part)
    return total.hexdigest()


def own_digest(content: dict[str, Any]) -> str:
    """SHA-256 over all of an object but its entry `sha256`, which is the one to hold it."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def manifest_path(path: Path) -> Path:
    """The small JSON file beside a file that says what it must contain."""
    return path.with_suffix(".json")


def write_manifest(path: Path, source: Path | None = None) -> None:
    """Record beside `path` its size and SHA-256, or those of `source`, which is to become it."""
    source = source or path
    write_text(manifest_path(path), json.dumps(described(source)) + "\n")


def described(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file, as manifests say them."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def is_sealed(folder: Path) -> bool:
    """Whether this is a folder that says what it must contain."""
    try:
        return (folder / FILES).is_file()
    except OSError:  # it may not be looked into
        return False


def seal(folder: Path, aside: Path, files: dict[str, dict[str, Any]]) -> None:
    """Make `aside`, with these files as `described`, into `folder`, which has a manifest.

    The manifest is of the list of files; whatever stood in the folder's place goes. All files must
    be on the disk already.
    """
    write_text(aside / FILES, json.dumps(files, indent=2) + "\n")
    write_manifest(folder, aside / FILES)
    if os.path.lexists(folder):
        discard(folder, keep_manifest=True)
    aside.rename(folder)
    sync(folder.parent)


def discard(folder: Path, keep_manifest: bool = False) -> None:
    """Delete a folder that has a manifest: at once for whoever looks, under another name."""
    going = folder.with_name(f".{folder.name}.old")
    remove(going)
    folder.rename(going)
    if not keep_manifest:
        manifest_path(folder).unlink(missing_ok=True)
    remove(going)


def remove(path: Path) -> None:
    """Delete a folder with all that is in it, a file, or a link and not what that leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def recorded_digest(path: Path) -> str | None:
    """SHA-256 of a file, or of the list of files in a folder, as its manifest says, or None."""
    try:
        return str(read_object(manifest_path(path), most=MANIFEST).get("sha256"))
    except Unreadable:
        return None


def damage(path: Path) -> str | None:
    """Why a file, or a folder of files, with a manifest cannot be trusted, or None."""
    manifest = manifest_path(path)
    try:
        if not is_sealed(path):
            with regular(path):  # what is no file has no manifest either
                pass
        try:
            recorded = read_object(manifest, most=MANIFEST)
        except Missing:
            return f"its manifest {manifest.name} is missing"
        except Unreadable as error:
            return f"its manifest {manifest.name} is unreadable: {error.reason}"
        if not {"bytes", "sha256"} <= recorded.keys():
            return f"its manifest {manifest.name} is unreadable: it names no bytes and no sha256"
        if not is_sealed(path):
            return _difference(path, recorded)
        if problem := _difference(path / FILES, recorded):
            return f"{FILES}: {problem}"
        return _damage_inside(path)
    except Unreadable as error:
        return error.reason


def _difference(path: Path, recorded: dict[str, Any]) -> str | None:
    """What a manifest says otherwise of a file. Raises `Unreadable`."""
    with regular(path) as file:
        size = os.fstat(file.fileno()).st_size
    if size != recorded["bytes"]:
        return f"{size} bytes instead of {recorded['bytes']!s:.40}"
    if sha256(path) != recorded["sha256"]:
        return "its SHA-256 differs from its manifest"
    return None


def _damage_inside(folder: Path) -> str | None:
    """What of a folder's files is not as its list of them says. Raises `Unreadable`."""
    files = read_object(folder / FILES)
    try:
        odd = {path.name for path in folder.iterdir()} ^ {*files, FILES}
    except OSError as error:
        raise Unreadable(folder, f"cannot be read ({error.strerror})") from None
    if odd:
        name = min(odd)
        return f"{name[:80]} is missing" if name in files else f"{name[:80]!r} is none of its files"
    for name, recorded in files.items():
        if not isinstance(recorded, dict) or not {"bytes", "sha256"} <= recorded.keys():
            return f"{FILES} names no bytes and no sha256"
        if problem := _difference(folder / name, recorded):
            return f"{name}: {problem}"
    return None


def inside(path: Path) -> Path:
    """`path`, unless it is a link that leads out of its folder: nobody asked for what is there.

    In Hugging Face's cache, `snapshots/REVISION/NAME` links into `blobs/` of the same repository.
    Raises `UserError`.
    """
    home = path.parent.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    try:
        target = path.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, a NUL in the name
        raise UserError(f"{shown(path, 400)} is a link that leads nowhere, or no name") from None
    if not any(target.is_relative_to(folder) for folder in homes):
        raise UserError(f"{path} is a link out of its folder, to {target}: refused, not opened")
    return path


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
