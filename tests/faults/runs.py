"""Files of a run's folder that are damaged, foreign or hostile, and what reads them.

Every trial copies a run that was stopped, has finished or is a branch, spoils one of its files in a
way drawn with a seed, and then resumes it, generates from it, converts or loads it. Right are the
same bits as without, a sentence that says what is not as it was, or a refusal that loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

import models
from core.errors import UserError
from core.files import damage, manifest_path, write_manifest
from tests.faults.child import Child, Ended, script
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
from tests.faults.weights import Payload, shared_lists

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

Spoil = Callable[[Path, random.Random], object]


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


# ---- ways of spoiling any file -------------------------------------------------------------------


def clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)


def placed(make: Callable[[Path], object]) -> Spoil:
    def spoil(path: Path, draw: random.Random) -> None:
        clear(path)
        make(path)

    return spoil


def secret(path: Path) -> None:
    """A link to a file of someone else's, which must stay as it is."""
    target = path.parents[1] / "secret"
    target.write_text("secret")
    path.symlink_to(target)


def folder_elsewhere(path: Path) -> None:
    target = path.parents[1] / "elsewhere"
    target.mkdir(exist_ok=True)
    path.symlink_to(target)


PLACES: dict[str, Spoil] = {
    "deleted": placed(lambda path: None),
    "a pipe": placed(os.mkfifo),
    "a folder": placed(Path.mkdir),
    "a folder with a file": placed(lambda path: (path / "a").mkdir(parents=True)),
    "a link to /dev/zero": placed(lambda path: path.symlink_to("/dev/zero")),
    "a link to /proc/kmsg": placed(lambda path: path.symlink_to("/proc/kmsg")),
    "a link to itself": placed(lambda path: path.symlink_to(path)),
    "a link to nowhere": placed(lambda path: path.symlink_to(path.with_name("nowhere"))),
    "a link to a file of others": placed(secret),
    "a link to a folder": placed(folder_elsewhere),
    "a file of text": placed(lambda path: path.write_text("alpha\n")),
}


def written(content: bytes) -> Spoil:
    return placed(lambda path: path.write_bytes(content))


def at_a_place(change: Callable[[bytes, int, random.Random], bytes]) -> Spoil:
    def spoil(path: Path, draw: random.Random) -> None:
        content = path.read_bytes() if path.is_file() else b'{"a": 1}\n'
        clear(path)
        path.write_bytes(change(content, draw.randrange(len(content) or 1), draw))

    return spoil


def enormous(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


BYTES: dict[str, Spoil] = {
    "empty": written(b""),
    "zeros": written(bytes(4096)),
    "a line of 100 MB": written(b"a" * (100 << 20)),
    "a terabyte of zeros": placed(enormous),
    "truncated": at_a_place(lambda content, place, draw: content[:place]),
    "one bit flipped": at_a_place(
        lambda content, place, draw: (
            content[:place]
            + bytes([content[place] ^ (1 << draw.randrange(8))])
            + content[place + 1 :]
            if content
            else b"\1"
        )
    ),
    "with a byte that is not UTF-8": at_a_place(
        lambda content, place, draw: content[:place] + b"\xff" + content[place:]
    ),
    "twice": at_a_place(lambda content, place, draw: content + content),
    "random": at_a_place(lambda content, place, draw: draw.randbytes(len(content))),
}
TEXTS: dict[str, Spoil] = {
    "a number": written(b"7\n"),
    "an enormous number": written(b"1" * 5000),
    "null": written(b"null\n"),
    "a text": written(b'"alpha"\n'),
    "a list": written(b"[1, 2]\n"),
    "an empty object": written(b"{}\n"),
    "very deep": written(b"[" * 100_000),
    "deep": written(b'{"a":' * 200 + b"1" + b"}" * 200 + b"\n"),
    "with a line that is a number": at_a_place(lambda content, place, draw: content + b"7\n"),
    "with a line that is null": at_a_place(lambda content, place, draw: b"null\n" + content),
    "with a line that is a list": at_a_place(lambda content, place, draw: content + b"[1]\n"),
    "in UTF-16": at_a_place(lambda content, place, draw: content.decode().encode("utf-16")),
    "with a mark of its order": at_a_place(lambda content, place, draw: b"\xef\xbb\xbf" + content),
}


def bomb(levels: int) -> bytes:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines).encode()


YAMLS: dict[str, Spoil] = {
    "with anchors that multiply": written(bomb(12)),
    "with anchors in a circle": written(b"a: &a [*a]\n"),
    "with a tag that executes": written(b"a: !!python/object/apply:os.system ['touch executed']\n"),
    "with a date": at_a_place(lambda content, place, draw: content + b"a: 2020-01-01\n"),
    "with a number for a name": at_a_place(lambda content, place, draw: content + b"1: 2\n"),
}


# ---- values --------------------------------------------------------------------------------------

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 1.5, 10**30, -(10**30), 10**400, 1 << 63, float("nan"), float("inf"), "x", "",
    [], {}, [1], {"a": 1}, [[[[[[1]]]]]], "\ud800", "a\0b", "../../x", "/etc/passwd", "x" * 100_000,
)  # fmt: skip


def change_text(path: Path, draw: random.Random) -> None:
    """Another value, name or nothing, somewhere in the tree."""
    content = path.read_bytes() if path.is_file() else b'{"resume": "auto", "parent": null}\n'
    clear(path)
    text = content.decode()
    if path.suffix == ".yaml":
        tree = yaml.safe_load(text)
        changed(tree, draw, HOSTILE)
        path.write_text(yaml.safe_dump(tree, sort_keys=False), errors="surrogatepass")
        return
    lines = text.splitlines(keepends=True) if path.suffix == ".jsonl" else [text]
    number = draw.randrange(len(lines))
    tree = json.loads(lines[number])
    changed(tree, draw, HOSTILE)
    lines[number] = json.dumps(tree) + "\n"
    path.write_bytes("".join(lines).encode())


def changed(tree: Any, draw: random.Random, values: tuple[Any, ...]) -> None:
    """One place of nested dicts and lists changed: near the top as often as deep below."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = draw.choice(keys)
        inside = tree[key]
        if isinstance(inside, (dict, list)) and inside and draw.random() < 0.7:
            tree = inside
            continue
        break
    way = draw.choice(("replace", "replace", "replace", "delete", "rename"))
    if way == "replace":
        tree[key] = draw.choice(values)
    else:
        value = tree.pop(key)
        if way == "rename" and isinstance(tree, dict):
            tree[f"{key}x"] = value


# ---- checkpoints ---------------------------------------------------------------------------------


def tree_of(change: Callable[[dict[str, Any], random.Random, Path], object]) -> Spoil:
    """Change what is in a checkpoint, and write a manifest that is right."""

    def spoil(path: Path, draw: random.Random) -> None:
        content = torch.load(path, weights_only=True)
        change(content, draw, path)
        torch.save(content, path)
        write_manifest(path)

    return spoil


def without(*keys: str) -> Spoil:
    def change(content: dict[str, Any], draw: random.Random, path: Path) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return tree_of(change)


def with_value(value: Any, *keys: Any) -> Spoil:
    def change(content: dict[str, Any], draw: random.Random, path: Path) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return tree_of(change)


def a_tensor(change: Callable[[torch.Tensor], Any]) -> Spoil:
    def spoil(content: dict[str, Any], draw: random.Random, path: Path) -> None:
        tensors = content["state_dict"]
        name = draw.choice(sorted(tensors))
        tensors[name] = change(tensors[name])
        if tensors[name] is None:
            del tensors[name]

    return tree_of(spoil)


def moments(content: dict[str, Any], draw: random.Random, path: Path) -> None:
    state = content["optimizer_states"][0]["state"]
    del state[draw.choice(sorted(state))]


def code(content: dict[str, Any], draw: random.Random, path: Path) -> None:
    content["callbacks"] = Payload(path.parents[3] / "executed")


def halve(content: dict[str, Any], draw: random.Random, path: Path) -> None:
    first = content["optimizer_states"][0]["state"][0]
    first["exp_avg"] = first["exp_avg"].half()


MODEL = ("crossover", "identity", "model")
FIRST: tuple[Any, ...] = ("optimizer_states", 0, "state", 0)
TREES: dict[str, Spoil] = {
    "without an optimizer": without("optimizer_states"),
    "without its moments": with_value({}, "optimizer_states", 0, "state"),
    "without the moments of one tensor": tree_of(moments),
    "without a schedule": without("lr_schedulers"),
    "without loops": without("loops"),
    "without the loops of a fit": with_value({}, "loops", "fit_loop"),
    "without random state": without("crossover", "random"),
    "without a configuration": without("crossover", "run"),
    "with no random state": with_value([], "crossover", "random"),
    "without weights": without("state_dict"),
    "without our part": without("crossover"),
    "without a ledger": without("crossover", "ledger"),
    "of another format": with_value(2, "crossover", "format"),
    "of a format that is none": with_value("1", "crossover", "format"),
    "of another version of Lightning": with_value("9.9.9", "pytorch-lightning_version"),
    "with a step that is a text": with_value("x", "global_step"),
    "with another step": with_value(3, "global_step"),
    "with a missing tensor": a_tensor(lambda tensor: None),
    "with a misshapen tensor": a_tensor(lambda tensor: torch.zeros(3, 3)),
    "with a transposed tensor": a_tensor(lambda tensor: tensor.reshape(-1, 1)),
    "with a tensor of halves": a_tensor(lambda tensor: tensor.half()),
    "with a tensor of integers": a_tensor(lambda tensor: tensor.long()),
    "with a sparse tensor": a_tensor(lambda tensor: tensor.to_sparse()),
    "with an expanded tensor": a_tensor(lambda tensor: torch.zeros(1).expand(1 << 20, 1 << 12)),
    "with a list for a tensor": a_tensor(lambda tensor: tensor.tolist()),
    "with a tensor in its configuration": with_value(
        torch.zeros(3), "crossover", "run", "optim.lr"
    ),
    "with a number for a name": with_value(1, "crossover", "run", 5),
    "with a name that clears the screen": with_value(
        1, "crossover", "run", "x\x1b[2J" + "y" * 5000
    ),
    "with a tensor in its model": with_value(torch.zeros(3), *MODEL, "config", "n_layer"),
    "with a tensor in its machine": with_value(torch.zeros(3), "crossover", "machine", "threads"),
    "with a tensor of moments": with_value(torch.zeros(3), "crossover", "moments"),
    "with a ledger of none": with_value(None, "crossover", "ledger"),
    "with a complex step": with_value(torch.tensor(1j), *FIRST, "step"),
    "with a moment of halves": tree_of(halve),
    "that stands for 50^15 values": with_value(shared_lists(), "crossover", "x"),
    "of a width that stands for 50^15 values": with_value(
        shared_lists(), *MODEL, "config", "n_embd"
    ),
    "with code": tree_of(code),
    "that is a list": lambda path, draw: rewritten(path, [1, 2]),
    "that is a number": lambda path, draw: rewritten(path, 7),
}


def rewritten(path: Path, content: Any) -> None:
    torch.save(content, path)
    write_manifest(path)


def change_tree(path: Path, draw: random.Random) -> None:
    """Another value, name or nothing, somewhere in a checkpoint."""
    tensors = (torch.zeros(0), torch.zeros(3), torch.zeros(2, dtype=torch.int64), torch.tensor(1.0))
    values = tuple(value for value in HOSTILE if value != "\ud800")
    tree_of(lambda content, draw, path: changed(content, draw, (*values, *tensors)))(path, draw)


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
