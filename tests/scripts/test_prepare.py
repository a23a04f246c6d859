"""`scripts/prepare.py`: tokenized before a training, and written for other tools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.readers import binidx
from data.tokenizers import byte_tokenizer
from tests.scripts.commands import run_script

TEXTS = [f"line {i} of a text ü\n" * 5 for i in range(30)]


def test_a_corpus_is_prepared_once_and_written_for_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(json.dumps({"body": text}) + "\n" for text in TEXTS)
    (tmp_path / "a.jsonl").write_text(lines)
    words = ["data=jsonl", f"data.paths=[{tmp_path / 'a.jsonl'}]", "data.field=body"]
    words += ["data.tokenizer=bytes", f"data.cache_dir={tmp_path / 'cache'}", "data.length=16"]
    words += ["data.val_fraction=0.2"]
    done = run_script(capfd, "prepare", *words)
    assert done.status == 0 and "30 documents" not in done.out and "vocabulary 257" in done.out
    assert "training 2" in done.out and "validation " in done.out and "learned" not in done.out
    written = [*words, f"binidx={tmp_path / 'out' / 'all'}", "part=all"]
    done = run_script(capfd, "prepare", *written)
    assert done.status == 0 and "wrote " in done.out and "prepared" not in done.err
    runs = [*binidx.documents(tmp_path / "out" / "all.idx")]
    tokenizer = byte_tokenizer()
    found = [[i for block in run.blocks() for i in block.tolist()] for run in runs]
    assert sorted(tokenizer.decode(ids[:-1]) for ids in found) == sorted(TEXTS)
    assert {ids[-1] for ids in found} == {tokenizer.end_of_text}
    assert "overwrite=true replaces it" in run_script(capfd, "prepare", *written).err
    assert run_script(capfd, "prepare", *written, "overwrite=true").status == 0


def test_what_is_written_for_others_may_be_shorter_than_a_sequence_of_a_training(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(4)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["data=jsonl", f"data.paths=[{tmp_path / 'a.jsonl'}]", "data.tokenizer=bytes"]
    words += ["data.prompt=question", "data.answer=answer", f"data.cache_dir={tmp_path / 'cache'}"]
    done = run_script(capfd, "prepare", *words, f"binidx={tmp_path / 'b'}")
    assert done.status == 0 and "wrote " in done.out
    # An end of text, "q0" and "a0": five tokens, of which the first and the last two are learned.
    assert "training 3 documents with 15 tokens (9 learned), validation 1 document" in done.out
    done = run_script(capfd, "prepare", *words)
    assert done.status == 2 and "data.length=512 needs 513 tokens in a row" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=jsonl"], "data=jsonl needs data.paths"),
        (["data.encoding=klingon"], "is no encoding of texts"),
        (["data.template=none"], "names no field"),
        (["part=val"], "give binidx=PATH too"),
        (["data.on_bad=ignore"], "data.on_bad"),
    ],
)
def test_wrong_words_are_refused(
    capfd: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    done = run_script(capfd, "prepare", *words)
    assert done.status == 2 and message in done.err


def test_texts_that_validate_are_prepared_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("".join(f"{name}{text}" for text in TEXTS))
    words = ["data=text", f"data.paths=[{tmp_path / 'a.txt'}]", "data.tokenizer=bytes"]
    words += [f"data.cache_dir={tmp_path / 'cache'}", "data.length=8"]
    further = f"data.validation={{watched: {{paths: {tmp_path / 'b.txt'}}}}}"
    done = run_script(capfd, "prepare", *words, further)
    assert done.status == 0 and "watched: " in done.out and "validation 1 document with" in done.out
    gone = f"data.validation={{watched: {{paths: {tmp_path / 'c.txt'}}}}}"
    done = run_script(capfd, "prepare", *words, gone)
    assert done.status == 2 and "data.validation.watched" in done.err


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("", "is a folder: name the files too"),
        ("new/", "is a folder: name the files too"),
        ("a.bin", "leave out .bin"),
        ("a.idx", "leave out .idx"),
    ],
)
def test_a_prefix_that_is_none(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], prefix: str, message: str
) -> None:
    done = run_script(capfd, "prepare", f"binidx={tmp_path}/{prefix}")
    assert done.status == 2 and message in done.err and not [*tmp_path.iterdir()]
