"""Corpora: where the documents come from.

A corpus is an ordered list of documents. To add one, write a function that takes a `DataConf` and
returns something that yields its `Document`s whenever it is iterated, decorate it with
`@register("name")`, and give it a YAML in `conf/data/`.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from glob import has_magic
from itertools import product
from pathlib import Path

from conf.schema import DataConf
from core.errors import UserError
from data.documents import Document, Split, split
from data.sources import Sources, is_text

AT_ONCE = 4 << 20
"""Bytes of text that are looked at before any work."""

Reader = Callable[[DataConf], Iterable[Document]]
CORPORA: dict[str, Reader] = {}


def register(name: str) -> Callable[[Reader], Reader]:
    """Make a reader selectable as `data.corpus=name`."""

    def add(reader: Reader) -> Reader:
        CORPORA[name] = reader
        return reader

    return add


def documents(conf: DataConf) -> Iterable[Document]:
    """The documents of the corpus named by `conf.corpus`, not read yet.

    Raises `UserError` if the name is unknown, or nothing is named.
    """
    if conf.corpus not in CORPORA:
        raise UserError(
            f"data.corpus={conf.corpus!r}: no such corpus; choose one of {', '.join(CORPORA)}"
        )
    return CORPORA[conf.corpus](conf)


def load(conf: DataConf) -> Split:
    """Read and split the corpus named by `conf.corpus`.

    Raises `UserError` if the name is unknown, the files cannot be used, or there is not enough text
    to have both a training and a validation part.
    """
    return split(documents(conf), conf.val_fraction)


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
        if is_text(content):
            documents.append(Document.of(path.relative_to(root).as_posix(), content))
    _refuse("data.corpus=stdlib", sources.problems)
    if not documents:
        raise UserError(f"data.corpus=stdlib: this Python has no .py files under {root}; use text")
    return documents


@register("text")
def text(conf: DataConf) -> Iterable[Document]:
    """The UTF-8 files named by `data.paths`, each a file or a glob (`**` descends)."""
    return TextFiles(conf)


class TextFiles:
    """One document for each file. What is wrong with any of them is told after the last one."""

    def __init__(self, conf: DataConf) -> None:
        if not conf.paths:
            raise UserError("data.corpus=text needs data.paths, e.g. 'data.paths=[book.txt]'")
        self._conf, self._sources = conf, Sources()
        expanded = {path for pattern in conf.paths for path in self._sources.expand(pattern)}
        self._paths = sorted(expanded)

    @property
    def files(self) -> list[Path]:
        """The file of each document; none if something is wrong with the paths."""
        return [] if self._sources.problems else self._paths

    def __iter__(self) -> Iterator[Document]:
        if self._paths:
            base = os.path.commonpath([path.parent for path in self._paths])
            for path in self._paths:
                parts = partial(self._sources.parts, path, self._conf.markup)
                yield Document(path.relative_to(base).as_posix(), parts)
        _refuse_paths(self._conf, self._sources)


def early_problems(conf: DataConf) -> list[str]:
    """What `text` would refuse, judged from small files that are named without a glob."""
    sources, room = Sources(), AT_ONCE
    named = [pattern for pattern in conf.paths if not has_magic(pattern)]
    try:
        for path in sorted({path for pattern in named for path in sources.expand(pattern)}):
            if (size := path.stat().st_size) <= room:
                room -= size
                for _ in sources.parts(path, conf.markup):
                    pass
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
    for first, parts, comma in product(range(len(paths) - 1), range(2, 5), (", ", ",")):
        if first + parts <= len(paths):
            whole = comma.join(paths[first : first + parts])
            if os.path.isfile(os.path.expanduser(whole)):  # noqa: PTH111, PTH113
                return whole
    return ""


def _refuse(key: str, problems: list[str]) -> None:
    """One message for all that is wrong. Raises `UserError`."""
    if problems:
        more = [f"and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise UserError(f"{key}: " + "; ".join(problems[:5] + more))
