"""Places where nothing can be written, or read, given to every script that a user can name one to.

Each trial is a folder in some state (read-only, below a file or a link that leads nowhere, of
somebody else, full, without room for one more name) and a script that is told to work there, as
root or as an ordinary user. One message, and the place as it was; nothing half written.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import random
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from conf import schema
from data.tokenizers import byte_tokenizer
from models.formats.save import save
from models.formats.weights import Weights
from models.registry import build
from probes.rows import append_rows
from scripts.cli.check import problems_of
from scripts.cli.model_spec import model_spec
from tests.faults import report_groups
from tests.faults.child import Ended, script
from tests.faults.place_states import STATES, State, small_files
from tests.faults.trainings import COMMON
from tests.faults.trial import Trial, fault, run
from tests.probes.specs import training_row

NOBODY = 65534
CLONE_NEWNS = 0x00020000
TINY = {"name": "rwkv4", "target": "models.rwkv4.RWKV4", "size": "tiny",
        "sizes": {"tiny": {"n_layer": 1, "n_embd": 32}}}  # fmt: skip
SWEEP = (
    "model=rwkv4", "model.size=tiny", "lengths=[16]", "probes=[train]", "sweeps=[batch_1]",
    "processes=1", "repeats=1", "repeat_seconds=0", "remeasure=0", "accelerator=cpu", "threads=1",
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    """One script that is told to write, or read, at a place."""

    script: str
    key: str
    suffix: str
    """Of what it is told, below the place."""
    words: tuple[str, ...]
    """`{here}` is the folder of what all trials share."""
    reads: bool = False


WRITERS = (
    Way("report", "out", "", ("runs=[{here}/group]", "wandb.mode=disabled")),
    Way("convert", "target", "a.pth", ("source={here}/a.safetensors", "format=official")),
    Way("convert", "target", "hf", ("source={here}/a.safetensors", "format=hf")),
    Way("plan", "out", "", ("model=rwkv4", "model.size=tiny", "data.length=64", "machine=a100")),
    Way("train", "runs_dir", "", (*COMMON, "model=rwkv4", "data.paths=[{here}/text.txt]",
        "data.cache_dir={here}/cache", "trainer.max_steps=1", "model.n_embd=32")),
    Way("train", "data.cache_dir", "", (*COMMON, "model=rwkv4", "data.paths=[{here}/text.txt]",
        "runs_dir=runs", "trainer.max_steps=1", "model.n_embd=32")),
    Way("probe", "runs_dir", "", (*SWEEP, "group=group", "wandb.mode=disabled")),
    Way("busy", "runs_dir", "", (*SWEEP, "group=group", "beside=[0]", "times=1")),
    Way("demo", "runs_dir", "", ("group=group",)),
)  # fmt: skip
READERS = (
    Way("report", "runs", "group", ("wandb.mode=disabled", "out=out"), reads=True),
    Way("plan", "runs", "planned", ("model=rwkv4", "model.size=tiny", "data.length=64",
        "precision=bf16-mixed", "machine=a100", "lengths=[64]", "out=out"), reads=True),
    Way("convert", "source", "a.safetensors", ("target=b.pth", "format=official"), reads=True),
    Way("generate", "run", "a.safetensors", ("tokenizer={here}/tokenizer.json", "tokens=2",
        "accelerator=cpu"), reads=True),
    Way("generate", "tokenizer", "tokenizer.json", ("run={here}/a.safetensors", "tokens=2",
        "accelerator=cpu"), reads=True),
)  # fmt: skip


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """`count` scripts and places, drawn with `seed`; see `tests.faults.trial`.

    Without root, those that need another user or a disk of their own are left out, and that is
    said.
    """
    draw = random.Random(seed)
    here = folder.resolve() / "here"
    _prepare(here)
    for path in (folder.resolve(), *folder.resolve().parents):  # an ordinary user has to get there
        with contextlib.suppress(OSError):
            if path != Path(path.root) and path.stat().st_mode & 0o711 != 0o711:
                path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o711)
    able = os.geteuid() == 0
    if not able:
        print("places: other users and full disks are left out, as only root can make them",
              file=sys.stderr)  # fmt: skip
    kinds = [one for one in _kinds() if able or not (one[1].mounts or one[2])]
    draw.shuffle(kinds)
    for number in range(count):
        way, state, as_nobody = kinds[number % len(kinds)]
        place = folder.resolve() / f"{number:04d}"
        place.mkdir()
        user = "nobody" if as_nobody else "root" if able else "oneself"
        told = f"{way.script} {way.key}, {state.told}, as {user}"
        yield told, _try(way, state, as_nobody, place, here, draw.randrange(1 << 30))
        for one in place.rglob("*"):
            if one.is_dir() and not one.is_symlink():
                one.chmod(0o700)
        shutil.rmtree(place, ignore_errors=True)


def _kinds() -> list[tuple[Way, State, bool]]:
    """Every script, state and user that make sense together; whether it is an ordinary user."""
    found = []
    for way in (*WRITERS, *READERS):
        for state in STATES:
            if way.reads and (state.mounts or state.make is small_files):
                continue
            if way.script in ("busy", "demo") and not state.hard:
                continue  # where it goes on, it measures for minutes
            found += [(way, state, user) for user in (False, True) if user or state.root]
    return found


def _prepare(here: Path) -> None:
    """What the scripts read: a group of rows, weights, a tokenizer, a text."""
    group = report_groups.sound(here / "group", random.Random(0))
    group.write()
    append_rows(here / "planned" / "probes.jsonl", [training_row(64, 65536)])
    torch.manual_seed(0)
    spec = model_spec(TINY, 256)
    model: Any = build(spec)
    save(Weights(spec, model.state_dict()), here / "a.safetensors", "safetensors")
    (here / "text.txt").write_text("alpha beta gamma " * 200)
    byte_tokenizer().save(here / "tokenizer.json")
    for path in (here, *here.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o644)


def _try(way: Way, state: State, as_nobody: bool, place: Path, here: Path, seed: int) -> str | None:
    verdict = place / "verdict.json"
    ended = run(place / "console", inside, way, STATES.index(state), as_nobody, place, here, seed)
    refused = (not state.readable if way.reads else True) if state.hard else None
    if problem := fault(ended, place / "executed", refused=refused):
        return problem
    if ended.status == 2 and (problem := not_one_message(ended)):
        return problem
    found: str | None = json.loads(verdict.read_text()) if verdict.exists() else "no verdict"
    return found


def not_one_message(ended: Ended) -> str | None:
    messages = [line for line in ended.text.splitlines() if line.startswith("error: ")]
    if len(messages) != 1:
        return f"{len(messages)} messages: {ended.text[-600:]!r}"
    return f"an endless message: {messages[0][:100]}" if len(messages[0]) > 6000 else None


def inside(way: Way, number: int, as_nobody: bool, place: Path, here: Path, seed: int) -> None:
    """Make the place as it is to be, unseen by others; be who one is to be; work there."""
    state = STATES[number]
    draw = random.Random(seed)
    if state.mounts:
        _own_mounts()
    work = place / "work"
    work.mkdir()
    os.chdir(work)
    (place / "aside").mkdir()
    result = os.open(place / "verdict.json", os.O_WRONLY | os.O_CREAT, 0o600)
    named = state.make(place / "place", draw)
    if way.reads:  # what can be read is the place itself, not something new below it
        named = _put(way, place / "place" if state.readable else named, here)
    for path in (place, place / "aside", work):
        path.chmod(0o777)
        if as_nobody:
            os.chown(path, NOBODY, NOBODY)
    if (
        as_nobody
        and state.told != "of another user"
        and (place / "place").is_dir()
        and not state.mounts
    ):
        os.chown(place / "place", NOBODY, NOBODY)
    if as_nobody:  # Python's own modules may lie where only root reads
        schema.register(way.script)
        file = schema.script_path(way.script)
        importlib.import_module(file.removesuffix(".py").replace("/", "."))
        for method in ("fork", "forkserver", "spawn_posix"):
            importlib.import_module(f"multiprocessing.popen_{method}")
        for name in ("ascii", "idna", "latin_1", "unicode_escape", "utf_8"):  # jinja's, and others'
            importlib.import_module(f"encodings.{name}")
        problems_of("plan", ["model=gpt", "data.length=64"])
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.environ["HOME"] = str(work)
    before = _seen(place)
    target = named / way.suffix if way.suffix and not way.reads else named
    told = f"[{target}]" if way.key == "runs" else str(target)
    words = [
        word.replace("{here}", str(here))
        for word in way.words
        if not word.startswith(f"{way.key}=")
    ]
    status: object = 0
    try:
        script(way.script, [*words, f"{way.key}={told}"])
    except SystemExit as end:
        status = end.code
    problem = None
    if status == 2:
        new = sorted(set(_seen(place)) - set(before) - {"work/.cache", "work/.cache/multirun"})
        gone = [name for name, known in before.items() if _seen(place).get(name) != known]
        odd = [name for name in new if not _may_stay(way, name)]
        if odd or gone:
            problem = f"leaves {odd}, changes {gone}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
    with contextlib.suppress(OSError):  # where no file may grow
        os.write(result, json.dumps(problem).encode())
    if problem:
        print(f"Traceback (most recent call last)\n{problem}")  # seen where no file may grow
    sys.exit(status)  # type: ignore[arg-type]


def _may_stay(way: Way, name: str) -> bool:
    """A prepared corpus, and of a run that began whatever is whole."""
    if name.endswith(".tmp") or "/." in name.replace("work/.cache", ""):
        return False
    return way.script in ("train", "probe", "busy") and not name.endswith("verdict.json")


def _put(way: Way, named: Path, here: Path) -> Path:
    """What is to be read, in a place that can hold it; returns the path to name."""
    source = here / way.suffix
    if not named.is_dir():
        return named
    for path in source.iterdir() if source.is_dir() else [source]:
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, named / path.name)
    return named if source.is_dir() else named / source.name


def _own_mounts() -> None:
    """From here on, what this process mounts is seen by nobody else, and goes with it."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "no name space of its own")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def _seen(place: Path) -> dict[str, object]:
    """Names below a trial's folder, and of files their size."""
    found: dict[str, object] = {}
    for folder, names, files in os.walk(place):
        for name in (*names, *files):
            path, size = Path(folder, name), None
            with contextlib.suppress(PermissionError):
                known = path.lstat()
                if stat.S_ISREG(known.st_mode) and name not in ("console", "verdict.json"):
                    size = known.st_size
            found[str(path.relative_to(place))] = size
    return found
