"""Ways in which the newest checkpoint can be damaged, each of which a run must see."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from core.files import manifest_path
from tests.faults.child import Ended
from tests.faults.trainings import Lab, Reference, last_line, run_folder, sound, verdict

Way = Callable[[Path, Path, random.Random], object]


def flip(newest: Path, older: Path, draw: random.Random) -> None:
    """One bit, anywhere."""
    place = draw.randrange(newest.stat().st_size)
    with newest.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ (1 << draw.randrange(8))]))


def swap(newest: Path, older: Path, draw: random.Random) -> None:
    """The two checkpoints, but not their manifests."""
    aside = newest.with_suffix(".aside")
    newest.rename(aside)
    older.rename(newest)
    aside.rename(older)


def torn(newest: Path, older: Path, draw: random.Random) -> None:
    """What a power cut leaves of a file system without the flush: half of it, under both names."""
    content = newest.read_bytes()
    newest.with_name(f".{newest.name}.123.tmp").write_bytes(content[: len(content) // 2])
    newest.unlink()
    manifest_path(newest).unlink()


WAYS: dict[str, Way] = {
    "truncated": lambda new, old, draw: os.truncate(new, draw.randrange(1, new.stat().st_size)),
    "one bit flipped": flip,
    "deleted": lambda new, old, draw: new.unlink(),
    "swapped with the one before": swap,
    "zeroed": lambda new, old, draw: new.write_bytes(bytes(new.stat().st_size)),
    "empty": lambda new, old, draw: new.write_bytes(b""),
    "garbage": lambda new, old, draw: new.write_bytes(draw.randbytes(new.stat().st_size)),
    "without its manifest": lambda new, old, draw: manifest_path(new).unlink(),
    "the manifest of another": lambda new, old, draw: shutil.copyfile(
        manifest_path(old), manifest_path(new)
    ),
    "half written": torn,
}


def corrupt(lab: Lab, reference: Reference, stopped: Path, way: str) -> str | None:
    """Damage the newest checkpoint, then the same command; what is lost, or None.

    It must fall back to a sound checkpoint and end in the same bits, or refuse in plain words.
    """
    runs = lab.trial()
    shutil.copytree(stopped, runs)
    folder = run_folder(runs)
    (_, older), (_, newest) = sound(folder)[-2:]
    WAYS[way](newest, older, lab.draw)
    ended = lab.start(reference.conf, runs).wait()
    problem = verdict(reference, runs, ended)
    if problem and refused(ended):
        problem = None
    if problem is None:
        shutil.rmtree(runs)
    return problem and f"{way}: {problem}"


def refused(ended: Ended) -> bool:
    """Whether it ended with a message for people."""
    return ended.status == 2 and not ended.traceback and last_line(ended.text).startswith('"error:')
