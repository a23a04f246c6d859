"""The standard library as a corpus."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from conf.schema import DataConf
from data.readers.stdlib import stdlib


def test_stdlib_is_this_pythons_source_without_tests() -> None:
    docs = {doc.name: b"".join(doc.parts()) for doc in stdlib(DataConf(corpus="stdlib"))}
    root = Path(sysconfig.get_path("stdlib"))
    assert docs["json/decoder.py"] == (root / "json/decoder.py").read_bytes()
    folders = {folder for name in docs for folder in name.split("/")[:-1]}
    assert {"asyncio", "email"} <= folders
    assert not folders & {"test", "tests", "idlelib", "site-packages", "__pycache__"}
    assert sum(map(len, docs.values())) > 5_000_000
