"""Ways of spoiling a file of a run's folder: another thing there, other bytes, other values."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from core.files import write_manifest
from tests.faults.weights import Payload, shared_lists

Spoil = Callable[[Path, random.Random], object]
"""Spoils the file at a path; draws how."""

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
