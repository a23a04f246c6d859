"""Token ids in files: kept as they are, parted into documents, refused where they are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conf.schema import DataConf
from core.errors import UserError
from data.readers import binidx, token_files
from data.readers.token_files import run_of
from data.readers.tokens import TokenFiles
from data.store import prepare
from data.tokenizers import byte_tokenizer

TOKENIZER = byte_tokenizer()
END = TOKENIZER.end_of_text
TEXTS = ["first document ü 漢\n" * 90, "second", "x" * 5000, "漢字" * 700]
DOCUMENTS = [TOKENIZER.encode(text) for text in TEXTS]
FLAT = [id_ for ids in DOCUMENTS for id_ in (*ids, END)]


def conf(path: Path, **settings: object) -> DataConf:
    settings = {"tokenizer": "bytes", "cache_dir": str(path.parent / "cache"), **settings}
    return DataConf(corpus="tokens", paths=[str(path)], length=8, **settings)


def read(path: Path, **settings: object) -> list[list[int]]:
    """The ids of each document, whose text must be theirs."""
    found = []
    for document in TokenFiles(conf(path, **settings)):
        pieces = [*document.tokens()]
        ids = [i for _, part in pieces for i in part.tolist()]
        assert b"".join(text for text, _ in pieces) == TOKENIZER.decode(ids).encode()
        assert all(text.decode() and len(part) for text, part in pieces)
        found.append(ids)
    return found


def refusal(path: Path, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **settings)
    return str(caught.value)


def write_bin(path: Path, ids: list[int]) -> None:
    np.array(ids, "<u2").tofile(path)


def write_npy(path: Path, ids: list[int]) -> None:
    with path.open("wb") as file:
        np.save(file, np.array(ids, "<i4"))


def write_llm_c(path: Path, ids: list[int]) -> None:
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, len(ids)
    path.write_bytes(header.tobytes() + np.array(ids, "<u2").tobytes())


Writer = Callable[[Path, list[int]], None]
WRITERS: list[Writer] = [write_bin, write_npy, write_llm_c]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("held", [1 << 20, 50])
def test_ids_stay_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer, held: int
) -> None:
    monkeypatch.setattr(token_files, "HELD", held)
    monkeypatch.setattr(token_files, "PART", 7)
    path = tmp_path / "a.bin"
    write(path, [END, *FLAT, END])
    assert read(path) == DOCUMENTS


def test_a_file_without_an_end_of_text_is_one_document(tmp_path: Path) -> None:
    write_bin(tmp_path / "a.bin", DOCUMENTS[0])
    (document,) = TokenFiles(conf(tmp_path / "a.bin"))
    assert document.title.endswith("a.bin")
    corpus = prepare(conf(tmp_path / "a.bin", val_fraction=0.4))
    both = np.concatenate([corpus.train[1:], corpus.val[1:]])
    assert both.tolist() == DOCUMENTS[0]
    assert 0.3 < len(corpus.val) / len(both) < 0.6


def test_bytes_that_are_no_text_are_kept_too(tmp_path: Path) -> None:
    ids = [*TOKENIZER.encode("ab"), *[TOKENIZER.encode("é")[0]] * 9000]
    write_bin(tmp_path / "a.bin", ids)
    assert read(tmp_path / "a.bin") == [ids]


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_cut_short_is_told(tmp_path: Path, write: Writer) -> None:
    path = tmp_path / "a.bin"
    write(path, FLAT)
    path.write_bytes(path.read_bytes()[:-1])
    assert "cut short" in refusal(path)


def test_arrays_that_are_no_ids_are_refused(tmp_path: Path) -> None:
    for array in (np.zeros((2, 3), "i4"), np.zeros(3), np.array([{}])):
        np.save(tmp_path / "a.npy", array, allow_pickle=True)
        assert "token ids are whole numbers in one dimension" in refusal(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00\x05\x00xxxxx")
    assert "no array of NumPy's that can be read" in refusal(tmp_path / "a.npy")


def test_ids_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    write_bin(tmp_path / "a.bin", [1, 2, 3, 50256])
    assert "the token id 50,256 is none of the 257 of data.tokenizer" in refusal(tmp_path / "a.bin")
    write_npy(tmp_path / "a.npy", [1, 2, -1])
    assert "the token id -1 is none" in refusal(tmp_path / "a.npy")
    for made in ("bpe", "chars"):
        assert "is made of texts" in refusal(tmp_path / "a.bin", tokenizer=made)


def test_bits_per_byte_come_from_the_text(tmp_path: Path) -> None:
    write_bin(tmp_path / "a.bin", FLAT)
    (tmp_path / "tokenizer.json").write_text(TOKENIZER.definition)
    tokenizer = str(tmp_path / "tokenizer.json")
    corpus = prepare(conf(tmp_path / "a.bin", tokenizer=tokenizer, val_fraction=0.5))
    sizes = sorted(len(text.encode()) for text in TEXTS)
    assert corpus.meta.train_bytes + corpus.meta.val_bytes == sum(sizes)
    assert corpus.meta.train_tokens + corpus.meta.val_tokens == len(FLAT)
    assert json.loads((tmp_path / "tokenizer.json").read_text())


def test_uint32_is_read_by_its_name(tmp_path: Path) -> None:
    np.array(FLAT, "<u4").tofile(tmp_path / "a.bin")
    assert read(tmp_path / "a.bin", ids="uint32") == DOCUMENTS


def test_a_binidx_is_read_with_its_index(tmp_path: Path) -> None:
    binidx.write(tmp_path / "a", ([np.array([*ids, END])] for ids in DOCUMENTS), 257)
    for name in ("a.bin", "a.idx", "a.*"):
        assert read(tmp_path / name) == DOCUMENTS
    assert run_of(tmp_path / "a.bin", "uint16").count == len(FLAT)


def test_a_binidx_may_be_named_without_a_suffix(tmp_path: Path) -> None:
    write = [iter([np.array([*ids, END])]) for ids in DOCUMENTS]
    binidx.write(tmp_path / "a.b", iter(write), TOKENIZER.vocab_size)
    assert read(tmp_path / "a.b") == DOCUMENTS == read(tmp_path / "a.b.bin")
    assert "does not exist and matches no file" in refusal(tmp_path / "a")


@pytest.mark.parametrize("dtype", ["<u4", "<i4"])
def test_ids_of_four_bytes_are_not_taken_for_twice_as_many(tmp_path: Path, dtype: str) -> None:
    np.array(FLAT, dtype).tofile(tmp_path / "a.bin")
    message = refusal(tmp_path / "a.bin")
    assert "every second id is 0, as where ids have four bytes: data.ids=uint32" in message
    assert read(tmp_path / "a.bin", ids="uint32") == DOCUMENTS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1" + bytes(range(200)), "data=tables reads it"),
        ("a.bin", b"PAR1" + bytes(range(200)), "data=tables reads it"),
        ("a.arrow", b"ARROW1\0\0" + bytes(200), "data=tables reads it"),
        ("a.npz", b"PK\x03\x04" + bytes(200), "a ZIP archive"),
        ("a.jsonl.gz", b"\x1f\x8b" + bytes(200), "gzip"),
        ("a.jsonl", b'{"text": "a"}\n' * 30, "data=jsonl reads it"),
        ("a.txt", b"a text" * 30, "text: data=text reads it"),
        ("a.bin", b"a text" * 30, "text: data=text reads it"),
    ],
)
def test_other_files_are_no_token_ids(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as caught:
        run_of(tmp_path / name, "uint16")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "ids", [[0x8B1F, 700] * 200, [0x0280] * 500, [65535] * 200, [97, 98] * 200]
)
def test_ids_that_only_look_like_another_file(tmp_path: Path, ids: list[int]) -> None:
    write_bin(tmp_path / "a.bin", ids)
    assert run_of(tmp_path / "a.bin", "uint16").count == len(ids)


def test_ids_of_32_bits_are_not_taken_for_twice_as_many(tmp_path: Path) -> None:
    ids = np.arange(100_000, 100_300)
    ids.astype("<u4").tofile(tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"data\.ids=uint32"):
        run_of(tmp_path / "a.bin", "uint16")
    assert np.concatenate([*run_of(tmp_path / "a.bin", "uint32").blocks()]).tolist() == [*ids]


def test_the_size_of_an_array_is_that_of_its_header(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(50, dtype="<u2"))
    content = (tmp_path / "a.npy").read_bytes()
    for changed, message in (
        (content[:-3], "cut short: has 225 bytes, and 228 belong to it"),
        (content + b"xx", ".npy: has 230 bytes, and 228 belong to it"),
        (content.replace(b"(50,)", b"(-5,)"), "bytes, and 118 belong to it"),
        (content.replace(b"'<u2'", b"'<q9'"), "no array of NumPy's that can be read"),
        (content.replace(b"'<u2'", b"[[[]]"), "no array of NumPy's that can be read"),
    ):
        (tmp_path / "b.npy").write_bytes(changed)
        with pytest.raises(UserError) as caught:
            run_of(tmp_path / "b.npy", "uint16")
        assert message in str(caught.value) and "\n" not in str(caught.value)
    np.save(tmp_path / "c.npy", np.array([1, 2**64 - 1], dtype=np.uint64))
    with pytest.raises(UserError, match="no tokenizer has the token id 18,446,744,073,709,551,615"):
        [*run_of(tmp_path / "c.npy", "uint16").blocks()]
