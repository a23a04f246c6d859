"""The running Python's own standard library source: real text, present on every machine."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from conf.schema import DataConf
from core.errors import UserError
from data.documents import Document
from data.readers.paths import refuse
from data.readers.sources import Sources, is_text

_NOT_LIBRARY = {  # installed packages, byte code, and folders of tests and demonstrations
    *("site-packages", "dist-packages", "__pycache__"),
    *("test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo"),
}


def stdlib(conf: DataConf) -> list[Document]:
    """One document for each of its files: about 580, and 11 MB.

    It differs a little between Python versions: compare fingerprints. Raises `UserError` where
    there is none.
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
    refuse("data.corpus=stdlib", sources.problems)
    if not documents:
        raise UserError(f"data.corpus=stdlib: this Python has no .py files under {root}; use text")
    return documents
