"""Plain text: read, and told from everything else."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path

import pytest

from conf.schema import DataConf
from core.errors import UserError
from data import corpora
from data.readers import file_kinds
from data.readers.text import TextFiles
from data.text import END_OF_TEXT


def read(conf: DataConf) -> dict[str, bytes]:
    """Name and content of each document."""
    return {doc.name: b"".join(doc.parts()) for doc in TextFiles(conf)}


def text_conf(*paths: Path | str, **settings: object) -> DataConf:
    return DataConf(corpus="text", paths=[str(path) for path in paths], **settings)


def test_text_reads_files_and_globs_once(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a.txt", "b[1].txt", "deep/c.txt", "deep/er/d.txt", "deep/e.md"):
        (tmp_path / name).write_text(f"text of {name}")
    conf = text_conf(tmp_path / "b[1].txt", tmp_path / "**/*.txt", tmp_path / "a.txt")
    names = [*read(conf)]
    assert names == ["a.txt", "b[1].txt", "deep/c.txt", "deep/er/d.txt"]


def test_text_is_the_same_corpus_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = set()
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        for i in range(9):
            (tmp_path / place / f"{i}.txt").write_text(f"file number {i} " * 9)
        prints.add(corpora.load(text_conf(tmp_path / place / "*.txt")).fingerprint)
    monkeypatch.chdir(tmp_path / "here")
    prints.add(corpora.load(text_conf("../there/*.txt")).fingerprint)
    assert len(prints) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "does not exist"),
        ("empty.txt", b"", "empty"),
        ("latin1.txt", "café".encode("latin-1"), "latin1.txt is not UTF-8"),
        ("image.png", b"\x89PNG\r\n\0\0\0\rIHDR", "image.png is not UTF-8"),
        ("nul.bin", b"text\0text", "nul.bin is not UTF-8"),
        ("short.txt", b"x", "1 byte cannot be split"),
    ],
)
def test_bad_file_is_one_message(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        corpora.load(text_conf(tmp_path / name))


def test_all_bad_files_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError) as caught:
        corpora.load(text_conf(tmp_path / "bad.txt", tmp_path / "gone.txt", tmp_path, "**x"))
    for part in ("bad.txt is not", "gone.txt' does not", "is a folder", "'**x' is not a glob"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["a=b, é.txt", "one,two,three.txt", "it's 1, 2.txt"])
def test_a_comma_that_ends_a_path_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text")
    parts = [part.strip() for part in str(tmp_path / name).split(",")]
    with pytest.raises(UserError) as error:
        read(text_conf(*parts))
    quoted = name.replace("'", "\\'")
    assert f"a comma ends a path: write data.paths=['{tmp_path}/{quoted}']" in str(error.value)
    assert read(text_conf(tmp_path / name))


def test_a_file_that_cannot_be_used_is_not_told_of_commas(tmp_path: Path) -> None:
    (tmp_path / "a, b").write_bytes(b"\0")
    with pytest.raises(UserError) as error:
        read(text_conf(tmp_path / "a, b", tmp_path / "gone"))
    assert "comma" not in str(error.value)


def test_text_without_paths_is_refused() -> None:
    with pytest.raises(UserError, match=r"needs data\.paths"):
        corpora.load(text_conf())


RECORD = {"text": 'She said: "no, {not} [that]", and left.', "id": 3}
KINDS: list[tuple[str, str, str]] = [
    ("a.jsonl", json.dumps(RECORD) + "\n", "JSON lines"),
    ("a.txt", (json.dumps(RECORD) + "\n") * 3, "JSON lines"),
    ("a", "\ufeff\n" + json.dumps(RECORD) + "\n\n" + json.dumps([1, 2]), "JSON lines"),
    ("long.txt", (json.dumps({"text": "word " * 30_000}) + "\n") * 3, "JSON lines"),
    ("a.json", json.dumps(RECORD), "JSON"),
    ("a.txt", json.dumps([RECORD] * 200, indent=1), "JSON"),
    ("a.csv", "text", "CSV"),
    ("a.txt", "id,text\n" + "".join(f'{i},"one, two\n{i}"\n' for i in range(9)), "CSV"),
    ("a.txt", "id,text\n" + "".join(f"{i},{'word ' * 99}\n" for i in range(999)), "CSV"),
    ("a.TSV", "a", "TSV"),
    ("a.txt", "".join(f"{i}\tline {i}, said he\n" for i in range(9)), "TSV"),
    ("a.txt", "<!-- x -->\n<!DOCTYPE html>\n<p>hello", "HTML"),
    ("a.md", "<HTML lang=en><body>hello</body>", "HTML"),
    ("a.htm", "<p>hello", "HTML"),
    ("a.txt", "<?xml version='1.0'?><a/>", "XML"),
    ("a.txt", '<doc id="1">text</doc>\n<doc id="2">text</doc>\n', "XML"),
    ("a.pkl", "(lp0\n.", "a pickle"),
    ("a.txt", "{\\rtf1 hello}", "RTF"),
]
PLAIN: list[str] = [
    *("", " \n", "a", "a,b", "{", "[Illustration]\n\nChapter 1\n", "<3 is a heart", "1,2\n3,4\n"),
    "{}\n",
    '{"name": "value", "list": [1, 2]}\n',
    "config = {\n" + '    "a": [1, 2],\n' * 400 + "}\n",
    "{\n" + "  x = 1;\n" * 900 + "}\n",
    "[" * 9000,
    "{name}, {place}\n" * 40,
    "Well, he said\nno, she said\nyes, they said\n" * 40,
    "Rose,\nlily,\n" * 40,
    "def f(a,b):\n\treturn a,b\n" * 40,
    "all:\n\tmake a\n\tmake b\n" * 40,
    "<b>bold</b> words at the start, and then prose\n" * 40,
    "<T extends object>(x: T) => x\n" * 40,
    "一，二\n三，四\n" * 40,
    "ACGT" * 40_000,
    f'END = "{END_OF_TEXT}"  # `{END_OF_TEXT}` and "{END_OF_TEXT}" again\n',
    f"GPT-2 ends a text with {END_OF_TEXT} and goes on.",
]


@pytest.mark.parametrize(("name", "content", "kind"), KINDS)
def test_records_and_markup_are_refused_with_the_way_out(
    tmp_path: Path, name: str, content: str, kind: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        read(text_conf(tmp_path / name))
    assert f"{name} is {kind} and not plain text" in str(caught.value)
    assert "data.markup=true" in str(caught.value)
    taken = read(text_conf(tmp_path / name, markup=True))
    assert taken == {name: content.encode()}


@pytest.mark.parametrize(
    ("content", "is_json"),
    [
        (json.dumps([RECORD] * 2000), True),
        (json.dumps([RECORD] * 2000, indent=1), True),
        (json.dumps({"text": "word \\n" * 30_000}), True),
        (json.dumps([-1.5e-9, True, None, False] * 9000), True),
        ("[" + "[]," * 40_000, True),
        ("config = {\n" + '    "a": [1, 2],\n' * 4000 + "}\n", False),
        ("{\n" + "  x = 1;\n" * 9000 + "}\n", False),
        ("[Illustration]\n" * 9000, False),
        ("{name}, {place}\n" * 9000, False),
    ],
)
def test_json_too_long_to_be_parsed_is_told_by_its_beginning(
    monkeypatch: pytest.MonkeyPatch, content: str, is_json: bool
) -> None:
    monkeypatch.setattr(file_kinds, "PARSED", 5000)
    assert (file_kinds.markup("a.txt", content) is not None) == is_json


@pytest.mark.parametrize("content", PLAIN)
def test_prose_and_source_code_are_plain_text(tmp_path: Path, content: str) -> None:
    for name in ("a.txt", "a.py", "a"):
        (tmp_path / name).write_text(content)
        assert read(text_conf(tmp_path / name)) == {name: content.encode()}


@pytest.mark.parametrize("between", [END_OF_TEXT, f"\n{END_OF_TEXT}\n"])
@pytest.mark.parametrize("count", [2, 3, 50])
def test_several_documents_in_one_file_are_refused(
    tmp_path: Path, between: str, count: int
) -> None:
    if (between, count) == (END_OF_TEXT, 2):
        return  # no different from a text that speaks of it
    (tmp_path / "a.txt").write_text(between.join(["Once upon a time."] * count))
    with pytest.raises(UserError, match=r"a\.txt has <\|endoftext\|> between its documents"):
        read(text_conf(tmp_path / "a.txt"))
    assert read(text_conf(tmp_path / "a.txt", markup=True))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (gzip.compress(b"text", mtime=0), "gzip: unpack it, or data=jsonl"),
        (b"PAR1\x15\0", "a Parquet file: data=tables reads it"),
        (pickle.dumps(["text"], protocol=4), "a pickle"),
        ("text".encode("utf-16"), "UTF-16: data.encoding=utf-16 converts"),
        (b"PK\x03\x04\0", "a ZIP archive"),
    ],
)
def test_what_is_not_text_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.txt is not UTF-8 text \(.*{kind}"):
        read(text_conf(tmp_path / "a.txt", markup=True))
