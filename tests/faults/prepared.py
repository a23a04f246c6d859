"""A prepared corpus that somebody or something has changed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf.schema import DataConf
from core.errors import UserError
from core.parsing import read_object
from data import manifest
from data.batches import Batches
from data.manifest import MANIFEST, TOKENS
from data.store import Corpus, prepare
from tests.faults.hostile import HOSTILE, NO_FILES, Told, replaced, tell
from tests.faults.trial import Trial

FILES = (*TOKENS, "train.blocks", "val.blocks", "tokenizer.json", "meta.json", MANIFEST)
TEXTS = (MANIFEST, "meta.json", "tokenizer.json")
Harm = Callable[[Path, random.Random], object]


class Prepared:
    """One sound corpus, copies of which are harmed."""

    def __init__(self, folder: Path) -> None:
        texts = folder / "texts"
        texts.mkdir(parents=True)
        for i in range(6):
            line = f"{i} green bottles hanging on the wall, {i * i}\n"
            (texts / f"{i}.txt").write_text(line * (300 + 40 * i))
        self.conf = DataConf(
            corpus="text",
            paths=[str(texts / "*.txt")],
            tokenizer="bytes",
            length=32,
            val_fraction=0.3,
            cache_dir=str(folder / "cache"),
        )
        other = DataConf(**{**vars(self.conf), "val_fraction": 0.5})
        with contextlib.redirect_stderr(io.StringIO()):
            self.corpus, self.other = prepare(self.conf), prepare(other)
        self.sound = contents(self.corpus.folder)
        self.batches = self._batches(self.corpus)

    def _batches(self, corpus: Corpus) -> list[bytes]:
        """What a training would read."""
        batches = Batches(corpus, self.conf, seed=0)
        return [batches[step].numpy().tobytes() for step in range(40)] + [corpus.val[:].tobytes()]

    def trial(self, place: Path, draw: random.Random) -> Trial:
        """Harm a copy, then the same command."""
        conf = DataConf(**{**vars(self.conf), "cache_dir": str(place / "cache")})
        folder = place / "cache" / self.corpus.folder.name
        shutil.copytree(self.corpus.folder, folder)
        name, (told_of, harm) = draw.choice([*HARMS.items()])
        target = draw.choice(told_of) if told_of else ""
        if draw.random() < 0.5:
            restamp(folder)  # so that sizes and times fit, and only samples are looked at
        before = manifest_of(folder)
        if target:
            harm(folder / target, draw)
        else:
            STORES[name](self, folder, draw)
        what = f"{target or 'the prepared folder'}: {name}"
        left = contents(folder) if folder.is_dir() else {}
        changed = left != self.sound or manifest_of(folder) != before
        told = tell(lambda: self._batches(prepare(conf)))
        return what, told.problem or self._verdict(conf, folder, changed, told)

    def _verdict(self, conf: DataConf, folder: Path, changed: bool, told: Told) -> str | None:
        if told.message:  # while it was read: the same command must mend it
            if "are not those prepared" not in told.message:
                return f"refused: {told.message}"
            told = tell(lambda: self._batches(prepare(conf)))
            if told.problem or told.message:
                return f"not mended by the same command: {told.problem or told.message}"
        if told.value != self.batches:
            return "other bits are trained on"
        if contents(folder) != self.sound:
            return "what is left there differs from what was prepared"
        if changed and told.printed.count("damaged (") != 1:
            return f"made again without one sentence: {told.printed[:200]!r}"
        return None


def contents(folder: Path) -> dict[str, bytes]:
    """Of every file but the manifest, which holds times."""
    found = {}
    for path in folder.iterdir():
        if path.name != MANIFEST:
            found[path.name] = b"no such file of ours"
            if stat.S_ISREG((found_as := path.lstat()).st_mode) and found_as.st_size < 1 << 24:
                found[path.name] = path.read_bytes()
    return found


def manifest_of(folder: Path) -> object:
    """What the manifest says, if it can be read."""
    try:
        return read_object(folder / MANIFEST)
    except UserError:
        return None


def restamp(folder: Path) -> None:
    """Let the manifest hold the present times of the files of tokens, as if nobody had written."""
    content = json.loads((folder / MANIFEST).read_text())
    for name in TOKENS:
        content["files"][name] = manifest._stamp(folder / name)
    manifest._write(folder, content["fingerprint"], content["files"])


# Harm to one file.

HARMS: dict[str, tuple[tuple[str, ...], Harm]] = {}


def harm(name: str, files: tuple[str, ...] = FILES) -> Callable[[Harm], Harm]:
    def add(function: Harm) -> Harm:
        HARMS[name] = files, function
        return function

    return add


@harm("one bit flipped")
def flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


@harm("one byte changed, its times set back")
def _(path: Path, draw: random.Random) -> None:
    found = path.stat()
    flip(path, draw)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@harm("one bit flipped, as by a damaged disk", TOKENS)
def _(path: Path, draw: random.Random) -> None:
    flip(path, draw)
    restamp(path.parent)


@harm("one digit changed", TEXTS)
def _(path: Path, draw: random.Random) -> None:
    text = path.read_text()
    place = draw.choice([i for i, character in enumerate(text) if character.isdigit()])
    digit = draw.choice([d for d in "0123456789" if d != text[place]])
    path.write_text(f"{text[:place]}{digit}{text[place + 1 :]}")


@harm("one value replaced", TEXTS)
def replace_value(path: Path, draw: random.Random) -> None:
    path.write_text(json.dumps(replaced(json.loads(path.read_text()), draw)))


@harm("one value replaced, and the manifest made to fit", ("meta.json", "tokenizer.json"))
def _(path: Path, draw: random.Random) -> None:
    """Of what documents and files decide; the figures of compressors nobody could check."""
    content = json.loads(path.read_text())
    if path.name == "meta.json":
        decided = ("format", "fingerprint", "vocab_size", "dtype", "train_documents", "val_bytes")
        key = draw.choice((*decided, "val_documents", "train_bytes", "train_tokens", "val_tokens"))
        other = [value for value in HOSTILE if value != content[key]]
        content[key] = draw.choice(other)
    else:
        content["model"]["vocab"] = draw.choice(HOSTILE)
    path.write_text(json.dumps(content))
    fingerprint = path.parent.name
    manifest.seal(path.parent, fingerprint)


@harm("truncated")
def _(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


@harm("longer")
def _(path: Path, draw: random.Random) -> None:
    with path.open("ab") as file:
        file.write(draw.randbytes(draw.randrange(1, 5000)))


@harm("garbage of equal size")
def _(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.randbytes(path.stat().st_size))


@harm("zeros of equal size")
def _(path: Path, draw: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@harm("empty")
def _(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


@harm("deleted")
def _(path: Path, draw: random.Random) -> None:
    path.unlink()


@harm("another file of the folder")
def _(path: Path, draw: random.Random) -> None:
    other = draw.choice([name for name in FILES if name != path.name])
    shutil.copyfile(path.with_name(other), path)


@harm("a sparse file of 2 TiB")
def _(path: Path, draw: random.Random) -> None:
    os.truncate(path, 1 << 41)


@harm("nested 100,000 deep", TEXTS)
def _(path: Path, draw: random.Random) -> None:
    path.write_text(draw.choice('[{"')[0] * 100_000)


@harm("no file")
def _(path: Path, draw: random.Random) -> None:
    path.unlink()
    draw.choice([*NO_FILES.values()])(path)


# Harm to the folder.

STORES: dict[str, Callable[[Prepared, Path, random.Random], object]] = {}


def store(name: str) -> Callable[..., Any]:
    def add(function: Callable[[Prepared, Path, random.Random], object]) -> Any:
        STORES[name] = function
        HARMS[name] = (), lambda path, draw: None
        return function

    return add


@store("no folder")
def _(lab: Prepared, folder: Path, draw: random.Random) -> None:
    shutil.rmtree(folder)
    kinds = [kind for name, kind in NO_FILES.items() if name != "a folder"]
    draw.choice([*kinds, lambda path: path.write_text("text")])(folder)


@store("that of another corpus")
def _(lab: Prepared, folder: Path, draw: random.Random) -> None:
    shutil.rmtree(folder)
    shutil.copytree(lab.other.folder, folder)
    if draw.random() < 0.5:
        manifest.seal(folder, folder.name)


@store("a file of another corpus")
def _(lab: Prepared, folder: Path, draw: random.Random) -> None:
    name = draw.choice([name for name in FILES if name != "tokenizer.json"])
    shutil.copyfile(lab.other.folder / name, folder / name)


@store("all of it a link to a sound one")
def _(lab: Prepared, folder: Path, draw: random.Random) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")
