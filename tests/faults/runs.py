"""Files of a run's folder that are damaged, foreign or hostile, and what reads them.

Every trial copies a run that was stopped, has finished or is a branch, spoils one of its files in a
way drawn with a seed, and then resumes it, generates from it, converts or loads it. Right are the
same bits as without, a sentence that says what is not as it was, or a refusal that loses nothing.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import models
from core.errors import UserError
from core.files import damage, manifest_path
from tests.faults.child import Child, Ended, script
from tests.faults.spoiling import (
    BYTES,
    PLACES,
    TEXTS,
    TREES,
    YAMLS,
    Spoil,
    change_text,
    change_tree,
    clear,
)
from tests.faults.trainings import (
    NAME,
    VARIANTS,
    Lab,
    digest_of,
    last_line,
    losses,
    run_folder,
    train,
)
from tests.faults.trial import Trial, fault, run

KEPT = (14, 15, 18)  # steps of the checkpoints in a run that was stopped
LAST = (14, 21, 24)  # in one that has finished
NEWEST, OLDER = (f"checkpoints/step-{step:08d}" for step in (18, 15))
OTHERS: dict[str, tuple[str, ...]] = {
    "seed": ("seed=1",),
    "rate": ("optim.lr=0.002",),
    "final rate": ("optim.final_lr=0.0005",),
    "betas": ("optim.beta1=0.8",),
    "decay": ("optim.weight_decay=0.2",),
    "batch": ("data.batch_size=4",),
    "precision": ("trainer.precision=bf16-mixed",),
    "context": ("data.length=8",),
    "clipping": ("trainer.gradient_clip_val=0.1",),
    "width": ("model.n_embd=128",),
    "longer": ("trainer.max_steps=48",),
}
USUAL = ("continuing from step", "parameters, step", "a branch of", "the learning rate only rises")
"""In the lines of a start at which nothing was wrong."""

FOREIGN = "of another"


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """`count` spoiled files in run folders: what was tried, and what went wrong or None."""
    field = Field(folder, seed)
    for number in range(count):
        yield field.trial(number, random.Random(f"{seed} {number}"))


@dataclass(frozen=True)
class Base:
    """A run to be copied: its folder of runs, how it is started again, and how it should end."""

    runs: Path
    conf: Any
    digest: str
    losses: list[tuple[Any, ...]]


class Field:
    """Trains what the trials need, when they need it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder.resolve()
        self.lab = Lab(self.folder / "lab", seed)
        self._variant = VARIANTS[seed % 3]
        self._bases: dict[str, Base] = {}
        self._undamaged: dict[str, str] = {}

    def base(self, kind: str) -> Base:
        """A run of OTHERS, or `stopped`, `finished` or `branch`."""
        if kind not in self._bases:
            self._bases[kind] = self._made(kind)
        return self._bases[kind]

    def undamaged(self, action: str, base: Base) -> str:
        """What generating from the run as it was, loading or converting it ends in."""
        folder = base.runs / NAME
        key = f"{action} {base.runs.name}"
        if key not in self._undamaged:
            console = self.folder / f"{key}.console"
            target = self.folder / f"{key}.safetensors"
            calls: dict[str, tuple[Any, ...]] = {
                "generate": (script, "generate", generating(folder)),
                "convert": (script, "convert", converting(folder, target)),
                "load": (load, folder),
            }
            text = run(console, *calls[action]).text
            self._undamaged[key] = digest(target) if action == "convert" else text
        return self._undamaged[key]

    def _made(self, kind: str) -> Base:
        conf = self.lab.conf((*self._variant, *OTHERS.get(kind, ())))
        if kind == "branch":
            parent = self._trained("whole", conf) / NAME / "checkpoints" / "step-00000012.ckpt"
            conf = self.lab.conf((*self._variant, "optim.lr=0.003"))
            conf = replace(conf, resume=str(parent))
        plain = kind in ("stopped", "finished")
        whole = self._trained("whole" if plain else f"whole {kind}", conf)
        runs = self.folder / f"base {kind}"
        shutil.copytree(whole, runs)
        kept = LAST if kind == "finished" else KEPT
        for path in (runs / NAME / "checkpoints").glob("step-*"):
            if int(path.stem.removeprefix("step-")) not in kept:
                path.unlink()
        if kind != "finished":
            (runs / NAME / "summary.json").unlink()
        return Base(runs, conf, digest_of(run_folder(whole)), losses(run_folder(whole)))

    def _trained(self, name: str, conf: Any) -> Path:
        """A finished run with all of its checkpoints."""
        runs = self.folder / name
        if not runs.exists():
            conf = replace(conf, runs_dir=str(runs))
            done = Child(self.folder / f"{name}.console", keep_all, conf).wait()
            if done.status:
                raise UserError(f"the training to be spoiled fails by itself:\n{done.text}")
        return runs

    def trial(self, number: int, draw: random.Random) -> Trial:
        """One file spoiled and read."""
        place = self.folder / f"trial-{number:04d}"
        kind, file, way, spoil = drawn(self, draw)
        marker = place / "executed"
        base = self.base(kind)
        shutil.copytree(base.runs, place / "runs")
        run_path = place / "runs" / NAME
        spoil(run_path / file, draw)
        action = draw.choice(ACTIONS.get(file.partition(".")[0], ("resume",)))
        if way.startswith(FOREIGN):  # whoever else reads them is told no run that they should be of
            action = "resume"
        before = {path.name: damage(path) is None for path in checkpoints_of(run_path)}
        ended, problem = getattr(self, f"_{action}")(base, place, run_path)
        problem = fault(ended, marker) or problem
        if not problem and ended.status == 2:
            problem = lost(run_path, before)
        if problem is None:
            shutil.rmtree(place)
        return f"{kind}: {file} {way}: {action}", problem

    def _resume(self, base: Base, place: Path, folder: Path) -> tuple[Ended, str | None]:
        conf = replace(base.conf, runs_dir=str(place / "runs"))
        ended = run(place / "console", train, conf, None)
        if ended.status or said(ended):
            return ended, None
        runs = run_folder(place / "runs")
        if digest_of(runs) != base.digest:
            return ended, f"another digest without a word: {last_line(ended.text)}"
        if losses(runs) != base.losses:
            return ended, f"other losses without a word: {last_line(ended.text)}"
        if "is finished" in ended.text or "from step" in ended.text:
            return ended, None
        return ended, f"started over without a word: {last_line(ended.text)}"

    def _generate(self, base: Base, place: Path, folder: Path) -> tuple[Ended, str | None]:
        ended = run(place / "console", script, "generate", generating(folder))
        told = ended.status or str(folder) in ended.text
        same = told or ended.text == self.undamaged("generate", base)
        return ended, None if same else "another text without a word"

    def _convert(self, base: Base, place: Path, folder: Path) -> tuple[Ended, str | None]:
        target = place / "target.safetensors"
        ended = run(place / "console", script, "convert", converting(folder, target))
        if ended.status:
            return ended, "a target after a refusal" if target.exists() else None
        same = "is damaged" in ended.text or digest(target) == self.undamaged("convert", base)
        return ended, None if same else "other weights without a word"

    def _load(self, base: Base, place: Path, folder: Path) -> tuple[Ended, str | None]:
        ended = run(place / "console", load, folder)
        told = ended.status or "is damaged" in ended.text
        same = told or ended.text == self.undamaged("load", base)
        return ended, None if same else "other weights without a word"


ACTIONS = {
    NEWEST: ("resume", "resume", "resume", "generate", "convert", "load"),
    "checkpoints": ("resume", "resume", "generate", "convert", "load"),
    "tokenizer": ("resume", "generate", "convert"),
}
"""What reads a file, by its name up to the first dot; `resume` where it is not listed."""


def drawn(field: Field, draw: random.Random) -> tuple[str, str, str, Spoil]:
    """Kind of run, file in it, way of spoiling, and what does it."""
    kind, file = draw.choice(SUBJECTS)
    ways: dict[str, Spoil] = {**PLACES}
    if file == "checkpoints":
        ways |= {f"{FOREIGN} {name}": other_checkpoints(field, name) for name in OTHERS} | {
            f"{FOREIGN} kind, a branch": other_checkpoints(field, "branch")
        }
    else:
        ways |= BYTES
        ways[f"{FOREIGN} run"] = other_file(field, draw.choice(["seed", "width"]), file)
    if file.endswith((".json", ".yaml", ".jsonl")):
        ways |= TEXTS
        # As often as all the others together.
        ways |= {f"with a changed value ({n})": change_text for n in range(len(ways))}
    if file.endswith(".yaml"):
        ways |= YAMLS
    if file.endswith(".ckpt"):
        ways = {**ways, **{f"{way} (sound manifest)": spoil for way, spoil in TREES.items()}}
        ways |= {f"with a changed value ({n}) (sound manifest)": change_tree for n in range(60)}
    way = draw.choice(sorted(ways))
    return kind, file, way, ways[way]


SUBJECTS = (
    ("stopped", "config.yaml"),
    ("stopped", "metrics.jsonl"),
    ("stopped", "tokenizer.json"),
    ("stopped", "checkpoints/best.json"),
    ("stopped", f"{NEWEST}.json"),
    *[("stopped", f"{NEWEST}.ckpt")] * 4,
    *[("stopped", "checkpoints")] * 2,
    ("stopped", "lock"),
    ("stopped", "start.json"),
    ("stopped", "summary.json"),
    ("stopped", "wandb"),
    ("finished", "summary.json"),
    ("finished", "config.yaml"),
    ("branch", "start.json"),
    ("branch", "checkpoints"),
    ("branch", f"{NEWEST}.ckpt"),
)


# ---- what belongs to others ----------------------------------------------------------------------


def other_checkpoints(field: Field, name: str) -> Spoil:
    def spoil(path: Path, draw: random.Random) -> None:
        clear(path)
        shutil.copytree(field.base(name).runs / NAME / "checkpoints", path)

    return spoil


def other_file(field: Field, name: str, file: str) -> Spoil:
    def spoil(path: Path, draw: random.Random) -> None:
        clear(path)
        source = field.folder / f"whole {name}" / NAME / file
        field.base(name)
        if source.is_file():
            shutil.copyfile(source, path)
            if path.suffix == ".ckpt":
                shutil.copyfile(manifest_path(source), manifest_path(path))

    return spoil


# ---- what the children do, and how it is judged --------------------------------------------------


def keep_all(conf: Any) -> None:
    """Train, and keep every checkpoint."""
    conf.checkpoint.keep = "last:99"
    train(conf, None)


def load(path: Path) -> None:
    """`models.load`, ending as a script would; prints what the weights are."""
    try:
        tensors = models.load(path).state_dict()  # type: ignore[attr-defined]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(name.encode() + tensor.numpy().tobytes())
    print(total.hexdigest())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def generating(folder: Path) -> list[str]:
    return [f"run={folder}", "prompt=alpha", "tokens=8", "accelerator=cpu"]


def converting(source: Path, target: Path) -> list[str]:
    return [f"source={source}", f"target={target}", "format=safetensors"]


def said(ended: Ended) -> bool:
    """Whether a start told anything that an undisturbed one does not."""
    lines = [line for line in ended.text.splitlines() if line.strip()]
    return any(not any(usual in line for usual in (*USUAL, "is finished")) for line in lines)


def checkpoints_of(folder: Path) -> list[Path]:
    found = folder / "checkpoints"
    try:
        return [path for path in found.iterdir() if path.suffix == ".ckpt"]
    except OSError:
        return []


def lost(folder: Path, before: dict[str, bool]) -> str | None:
    """Which sound checkpoint a refusal has taken away, or None."""
    now = {path.name: damage(path) is None for path in checkpoints_of(folder)}
    gone = [name for name, sound in before.items() if sound and not now.get(name)]
    if gone:
        return f"lost {gone[0]}"
    for path in folder.rglob("secret"):
        if path.read_text() != "secret":
            return "wrote into a file of others"
    return None
