"""Corpora: where the documents come from and how they are split.

A corpus is an ordered list of documents. To add one, write a function `DataConf -> list[Document]`
here, decorate it with `@register("name")`, and give it a YAML in `conf/data/`.

Documents are read whole into memory on every run: their content is what the fingerprint is made of,
so an edited file can never be mistaken for the one that was prepared.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import has_magic
from itertools import product
from pathlib import Path

from conf.schema import DataConf
from core.errors import UserError
from data import file_kinds
from data.sources import Sources
from data.text import END_OF_TEXT


@dataclass(frozen=True)
class Document:
    """One text. `name` is relative, so that a corpus is the same corpus wherever it lies."""

    name: str
    content: bytes
    """UTF-8."""

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the content alone: equal for identical files whatever their names."""
        return hashlib.sha256(self.content).digest()


@dataclass(frozen=True)
class Split:
    """The documents to train on and those held out. No content occurs in both."""

    train: tuple[Document, ...]
    val: tuple[Document, ...]
    fingerprint: str
    """16 hex digits over every name and content, and which side each is on."""


AT_ONCE = 4 << 20
"""Bytes of text that are looked at before any work."""

Reader = Callable[[DataConf], list[Document]]
CORPORA: dict[str, Reader] = {}


def register(name: str) -> Callable[[Reader], Reader]:
    """Make a reader selectable as `data.corpus=name`."""

    def add(reader: Reader) -> Reader:
        CORPORA[name] = reader
        return reader

    return add


def load(conf: DataConf) -> Split:
    """Read and split the corpus named by `conf.corpus`.

    Raises `UserError` if the name is unknown, the files cannot be used, or there is not enough text
    to have both a training and a validation part.
    """
    if conf.corpus not in CORPORA:
        raise UserError(
            f"data.corpus={conf.corpus!r}: no such corpus; choose one of {', '.join(CORPORA)}"
        )
    return split(CORPORA[conf.corpus](conf), conf.val_fraction)


def split(documents: Sequence[Document], val_fraction: float) -> Split:
    """Hold out `val_fraction` of the bytes.

    Empty documents and exact copies of an earlier one are left out first. Several documents are
    split whole, a single one is cut in two: its end validates, as in nanoGPT's character-level
    Tiny Shakespeare (`val_fraction=0.1`).
    """
    if not 0 < val_fraction < 1:
        raise UserError(f"data.val_fraction={val_fraction}: must lie between 0 and 1")
    distinct = {doc.digest: doc for doc in reversed(documents) if doc.content}
    kept = [doc for doc in documents if distinct.get(doc.digest) is doc]
    if not kept:
        raise UserError("the corpus is empty: no file has any text in it")
    if len(kept) == 1:
        # Beginning and end of one document, parted between two characters.
        name, content = kept[0].name, kept[0].content
        cut = int(len(content) * (1 - val_fraction))
        while cut > 0 and content[cut] & 0xC0 == 0x80:  # a UTF-8 continuation byte
            cut -= 1
        if cut == 0:
            raise UserError(f"{name}: {len(content)} bytes are too short to split; add text")
        train: tuple[Document, ...] = (Document(name, content[:cut]),)
        val: tuple[Document, ...] = (Document(name, content[cut:]),)
    else:
        # Whole documents, drawn in an order nobody chose, until the validation share is full.
        room = val_fraction * sum(len(doc.content) for doc in kept)
        held_out: set[bytes] = set()
        for doc in sorted(kept, key=_order_key):
            if len(doc.content) <= room:
                room -= len(doc.content)
                held_out.add(doc.digest)
        if not held_out:
            held_out.add(min(kept, key=lambda doc: (len(doc.content), _order_key(doc))).digest)
        train = tuple(doc for doc in kept if doc.digest not in held_out)
        val = tuple(doc for doc in kept if doc.digest in held_out)
    total = hashlib.sha256()
    for side, of_side in ((b"train", train), (b"val", val)):
        for doc in of_side:
            total.update(side + b"\0" + doc.name.encode() + b"\0" + doc.digest)
    return Split(train, val, total.hexdigest()[:16])


def _order_key(document: Document) -> bytes:
    return hashlib.sha256(document.digest + document.name.encode()).digest()


_NOT_LIBRARY = {  # installed packages, byte code, and folders of tests and demonstrations
    *("site-packages", "dist-packages", "__pycache__"),
    *("test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo"),
}


@register("stdlib")
def stdlib(conf: DataConf) -> list[Document]:
    """The running Python's own standard library source: real text present on every machine.

    About 580 files and 11 MB. It differs a little between Python versions: compare fingerprints.
    """
    root = sysconfig.get_path("stdlib")
    paths = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _NOT_LIBRARY]
        paths += [Path(folder, name) for name in names if name.endswith(".py")]
    sources, documents = Sources(), []
    for path in sorted(paths):
        content = sources.read(path)
        if _is_text(content):
            documents.append(Document(path.relative_to(root).as_posix(), content))
    _refuse("data.corpus=stdlib", sources.problems)
    if not documents:
        raise UserError(f"data.corpus=stdlib: this Python has no .py files under {root}; use text")
    return documents


@register("text")
def text(conf: DataConf) -> list[Document]:
    """The UTF-8 files named by `data.paths`, each a file or a glob (`**` descends)."""
    if not conf.paths:
        raise UserError("data.corpus=text needs data.paths, e.g. 'data.paths=[book.txt]'")
    sources = Sources()
    paths = sorted({path for pattern in conf.paths for path in sources.expand(pattern)})
    contents = {path: _read(path, sources, conf.markup) for path in paths}
    _refuse_paths(conf, sources)
    base = os.path.commonpath([path.parent for path in paths])
    return [Document(path.relative_to(base).as_posix(), contents[path]) for path in paths]


def early_problems(conf: DataConf) -> list[str]:
    """What `text` would refuse, judged from small files that are named without a glob."""
    sources, room = Sources(), AT_ONCE
    named = [pattern for pattern in conf.paths if not has_magic(pattern)]
    try:
        for path in sorted({path for pattern in named for path in sources.expand(pattern)}):
            if (size := path.stat().st_size) <= room:
                room -= size
                _read(path, sources, conf.markup)
        _refuse_paths(conf, sources)
    except UserError as error:
        return [str(error)]
    except OSError:  # it vanished: reported where the texts are read
        pass
    return []


def _refuse_paths(conf: DataConf, sources: Sources) -> None:
    """One message for all that is wrong with `data.paths`. Raises `UserError`."""
    if sources.problems and (whole := _divided(conf.paths)):
        quoted = whole.replace("'", "\\'")
        sources.problems.insert(0, f"a comma ends a path: write data.paths=['{quoted}']")
    _refuse("data.paths", sources.problems)


def _divided(paths: Sequence[str]) -> str:
    """The file whose name has commas and became several `paths`; empty if there is none."""
    for first, parts in product(range(len(paths)), range(2, 5)):
        for comma in (", ", ","):
            whole = comma.join(paths[first : first + parts])
            if os.path.isfile(os.path.expanduser(whole)):  # noqa: PTH111, PTH113
                return whole
    return ""


def _refuse(key: str, problems: list[str]) -> None:
    """One message for all that is wrong. Raises `UserError`."""
    if problems:
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise UserError(f"{key}: " + "; ".join(problems[:5] + more))


def _read(path: Path, sources: Sources, markup: bool) -> bytes:
    before = len(sources.problems)
    content = sources.read(path)
    if len(sources.problems) > before:
        return content
    if not _is_text(content):
        sources.problems.append(f"{path} is not UTF-8 text ({file_kinds.binary(content)})")
    elif not markup:
        text = content.decode()
        if kind := file_kinds.markup(path.name, text):
            sources.problems.append(
                f"{path} is {kind} and not plain text: take its texts out, one file per document "
                "(data.markup=true trains on the markup too)"
            )
        elif file_kinds.separated(text):
            sources.problems.append(
                f"{path} has {END_OF_TEXT} between its documents: give one file per document "
                "(data.markup=true trains on it as the text it is)"
            )
    return content


def _is_text(content: bytes) -> bool:
    """Valid UTF-8 without a NUL byte, which no text has and most binary formats do."""
    if b"\0" in content:
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
