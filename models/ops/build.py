"""Compile once, keep on disk: where built kernels live and how they get there."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from core.atomic_folders import alone
from core.files import replacing
from core.processor import instruction_sets

SOURCES = Path(__file__).parents[2] / "cuda"
TAIL_LINES = 12
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC")
_log = logging.getLogger("crossover.wkv")


class BuildError(Exception):
    """A kernel could not be built or loaded; the message ends with the compiler's last lines."""


def _folders() -> list[Path]:
    """Where built kernels may lie: in the checkout, in the home folder."""
    bases = (SOURCES.parent / ".cache", Path.home() / ".cache" / "crossover")
    return [base / "kernels" for base in bases]


def cache_dir() -> Path:
    """A folder for built kernels: in the checkout, or the home folder if that is read-only."""
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise BuildError(f"no writable folder for built kernels, neither {folder} nor in the checkout")


def fingerprint(files: list[Path], *facts: object) -> str:
    """Name of a build: changes with any source byte and with any of `facts`."""
    digest = hashlib.sha256(repr(facts).encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:20]


def cached(name: str, write: Callable[[Path], None]) -> Path:
    """The file `name` of the cache, made by `write(path)` if it is not there yet.

    One process builds it while the others that share the folder wait; where the file system has no
    locks, several may. Built under another name and renamed, so that an interrupted build leaves
    nothing that could be taken for a finished one. What the owner of a checkout that is read-only
    has built there is used too.
    """
    for folder in _folders():
        if os.access(folder / name, os.R_OK):
            return folder / name
    target = cache_dir() / name

    def waiting() -> None:
        _log.info("waiting for another process that compiles %s", name)

    with alone(target.with_name(f"{name}.lock"), waiting):
        if not target.exists():
            stem = name.rpartition("-")[0] or name
            _log.info("compiling %s, once for this machine and version", stem)
            with replacing(target) as aside:
                write(aside)
    return target


def shared_library(name: str, sources: list[str], headers: list[str]) -> Path:
    """`sources` of `cuda/` as one shared library for this very CPU. Raises `BuildError`."""
    files = [SOURCES / file for file in sources]
    compiler, version = _compiler()
    key = fingerprint(
        [*files, *(SOURCES / h for h in headers)], compiler, version, FLAGS, instruction_sets()
    )

    def compile_to(path: Path) -> None:
        if _compile(compiler, files, path, ["-fopenmp"]) is None:
            with suppress(OSError):
                ctypes.CDLL(str(path))
                return
        # Where the compiler has no OpenMP, or not its library, the kernels run on one thread.
        if output := _compile(compiler, files, path, []):
            tail = "\n".join(output.splitlines()[-TAIL_LINES:])
            raise BuildError(
                f"{compiler} could not compile cuda/{', cuda/'.join(sources)}:\n{tail}"
            )

    return cached(f"{name}-{key}.so", compile_to)


def _compile(compiler: str, files: list[Path], target: Path, flags: list[str]) -> str | None:
    """Compile `files`, all at once, and link them; the message of what fails, or None."""
    _remove_abandoned(target.parent)
    # A folder of its own: other processes may be building the same.
    with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as folder:
        objects = [Path(folder, f"{file.stem}.o") for file in files]
        commands = [
            [compiler, *FLAGS, *flags, f"-I{SOURCES}", "-c", str(file), "-o", str(made)]
            for file, made in zip(files, objects, strict=True)
        ]
        with ThreadPoolExecutor(max(1, len(files))) as pool:
            outputs = list(pool.map(_run, commands))
        linked = [compiler, *FLAGS, *flags, "-shared", *map(str, objects), "-o", str(target)]
        return next((text for text in outputs if text), None) or _run(linked)


def _remove_abandoned(folder: Path) -> None:
    """Delete what builds that were killed have left; none takes an hour."""
    for path in folder.glob(".building-*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > 3600:
                shutil.rmtree(path)


@functools.cache
def _compiler() -> tuple[str, str]:
    """Path and version of the machine's C++ compiler. Raises `BuildError` if there is none."""
    for name in COMPILERS:
        if path := shutil.which(name):
            out = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            return path, out.stdout
    raise BuildError(f"no C++ compiler found (looked for {', '.join(COMPILERS)})")


def _run(command: list[str]) -> str | None:
    """What a failing command printed; None if it succeeded."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return None if result.returncode == 0 else result.stdout + result.stderr or "no message"
