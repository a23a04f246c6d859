"""JSON lines and arrays: what becomes a document, and what is told of a line that does not."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from conf.schema import DataConf
from core.errors import UserError
from data.readers import jsonl as module
from data.readers.jsonl import jsonl, records
from data.readers.shapes import parsed_template

TEXTS = ["one\ntwo", "drei ü 漢", "", "vier " * 50]
LINES = "".join(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(TEXTS))


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKERS: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress, zstd]


def read(path: Path, **settings: object) -> list[str]:
    conf = DataConf(corpus="jsonl", paths=[str(path)], **settings)
    return [b"".join(document.parts()).decode() for document in jsonl(conf)]


def refusal(path: Path, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **settings)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text(LINES)
    return path


@pytest.mark.parametrize(
    "content",
    [
        LINES,
        LINES.rstrip("\n"),
        "\ufeff" + LINES.replace("\n", "\r\n\n"),
        json.dumps([{"text": text} for text in TEXTS]),
        json.dumps([{"text": text} for text in TEXTS], indent=2, ensure_ascii=False) + "\n",
    ],
)
@pytest.mark.parametrize("block", [1 << 20, 7])
def test_every_object_is_a_document(
    file: Path, monkeypatch: pytest.MonkeyPatch, content: str, block: int
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    file.write_text(content)
    assert read(file) == TEXTS


@pytest.mark.parametrize("pack", PACKERS)
def test_compressed_lines_are_unpacked_and_a_cut_is_told(
    file: Path, pack: Callable[[bytes], bytes]
) -> None:
    packed = pack(LINES.encode())
    file.write_bytes(packed)
    assert read(file) == TEXTS
    file.write_bytes(packed[: len(packed) * 2 // 3])
    message = refusal(file)
    assert message.startswith(f"{file}: ") and len(message) < 300


def test_a_template_joins_fields(file: Path) -> None:
    assert read(file, template=r"{id}:\n{text}{{}}")[0] == "0:\none\ntwo{}"


@pytest.mark.parametrize("template", ["no field", "{", "{}", "{a.b}", "{a[0]}", "{a!r}", "{a:3}"])
def test_a_template_that_is_none_is_refused(template: str) -> None:
    if template in ("{a.b}", "{a[0]}"):
        assert parsed_template(template) == [("", template[1:-1])]  # a name like any other
        return
    with pytest.raises(UserError, match=r"data\.template"):
        parsed_template(template)


BAD = [
    ("{", "not JSON"),
    ("[1]", "is no object"),
    ('{"title": "x", "n": 1}', "has no field 'text'; those it has: title, n"),
    ('{"text": null}', "the field 'text' is no text (null)"),
    ('{"text": ["x"]}', "the field 'text' is no text (list)"),
    (r'{"text": "\ud800"}', "not Unicode"),
    ("[" * 5000, "deep"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_line_is_named_or_counted(
    file: Path, capfd: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    file.write_text(LINES + line + "\n" + LINES)
    assert message in refusal(file) and f"{file}:5: " in refusal(file)
    conf = DataConf(corpus="jsonl", paths=[str(file)], on_bad="skip")
    corpus = jsonl(conf)
    for _ in range(2):
        assert [b"".join(document.parts()).decode() for document in corpus] == 2 * TEXTS
    told = capfd.readouterr().err
    assert told.count("left out 1 of 9 records") == 1 and f"{file}:5: " in told


def test_a_file_without_any_such_field_is_refused_even_if_bad_ones_are_skipped(file: Path) -> None:
    assert "none of 4 records can be used" in refusal(file, field="body", on_bad="skip")


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_an_array_cut_short_is_told(file: Path, cut: int) -> None:
    file.write_text(json.dumps([{"text": text} for text in TEXTS])[:-cut])
    assert f"{file}: element " in refusal(file)


@pytest.mark.parametrize("start", ["", "["])
def test_a_line_without_end_is_not_read_into_memory(
    file: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    monkeypatch.setattr(module, "LONGEST", 1 << 16)
    monkeypatch.setattr(module, "BLOCK", 1 << 12)
    file.write_bytes(gzip.compress(start.encode() + b'{"text": "' + b"a" * (1 << 22)))
    assert str(file) in refusal(file)


def test_other_encodings_are_converted_by_their_name(file: Path) -> None:
    file.write_text('{"text": "é"}\n', encoding="latin-1")
    assert "not UTF-8" in refusal(file)
    assert read(file, encoding="latin-1") == ["é"]
    file.write_text('{"text": "é"}\n', encoding="utf-16")
    assert read(file, encoding="utf-16") == ["é"]
    assert "is no encoding" in refusal(file, encoding="klingon")


def test_records_have_their_place_and_all_their_fields(file: Path) -> None:
    found = [*records(file, DataConf(corpus="jsonl"))]
    assert found[1].place == f"{file}:2"
    assert found[1].value == {"text": TEXTS[1], "id": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"}]\n[{"text": "b"}]', "more behind the end of the array"),
        ('[{"text": "a"}] {"text": "b"}', "more behind the end of the array"),
        ("[] 1", "more behind the end of the array"),
        ('[{"text": "a"} {"text": "b"}]', "element 2: not JSON (no comma before it)"),
        ('[{"text": "a"},]', "element 2: not JSON (Expecting value"),
        ('[{"text": "a"},, {"text": "b"}]', "element 2: not JSON"),
        ('[{"text": "a"},', "element 2: not JSON (the array has no end"),
        ('[{"text": "a"}', "element 2: not JSON (the array has no end"),
        ("[", "element 1: not JSON (the array has no end"),
    ],
)
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_an_array_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str, block: int
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    (tmp_path / "a.json").write_text(content)
    assert message in refusal(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('[ {"text": "a"} \n,\n{"text": "b"}\n]\n\n')
    assert read(tmp_path / "b.json") == ["a", "b"]


def test_a_backslash_in_a_template() -> None:
    for written, meant in ((r"\n", "\n"), (r"\\n", r"\n"), (r"\t\\", "\t\\"), (r"\\\n", "\\\n")):
        assert parsed_template(written + "{a}")[0] == (meant, "a")


def test_a_dot_leads_into_an_object(file: Path) -> None:
    records = [
        {"text": "a", "meta": {"lang": "en", "of": {"year": 7}}, "meta.lang": "flat"},
        {"text": "b", "meta": {"lang": "de", "of": {"year": 8}}},
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    template = "{meta.lang} {meta.of.year} {text}"
    assert read(file, template=template) == ["flat 7 a", "de 8 b"]
    assert read(file, field="meta.lang") == ["flat", "de"]
    message = "has no field 'meta.of.day'; those of 'meta.of': year"
    assert message in refusal(file, template="{meta.of.day}")
    assert "has no field 'text.of'; those it has: text, meta, meta.lang" in refusal(
        file, field="text.of"
    )
