"""The store: what it holds, when it works, and how it survives damage."""

from __future__ import annotations

import gzip
import json
import lzma
import math
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.schema import DataConf
from core.errors import UserError
from data import corpora, manifest, store, tokenizers
from data.batches import Batches
from data.documents import Document
from data.manifest import BLOCK, MANIFEST, SAMPLES, TOKENS, Unfit, _stamp, _write, seal
from data.preparation import unigram_entropy
from data.store import Corpus, prepare

POEM = "".join(f"Row {i}, row {i * i}, row your boat ü\n" for i in range(300))


@pytest.fixture
def conf(tmp_path: Path) -> DataConf:
    (tmp_path / "texts").mkdir()
    for i in range(12):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"part {i}\n{POEM[i * 500 : i * 500 + 3000]}")
    return DataConf(
        corpus="text",
        paths=[str(tmp_path / "texts" / "*.txt")],
        vocab_size=300,
        length=32,
        val_fraction=0.2,
        cache_dir=str(tmp_path / "cache"),
    )


def changed(conf: DataConf, **settings: object) -> DataConf:
    return DataConf(**{**vars(conf), **settings})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "known")


def contents(folder: Path) -> dict[str, bytes]:
    """Of every file but the manifest, which holds times."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != MANIFEST}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()}


@pytest.mark.parametrize("kind", ["bpe", "bytes", "chars"])
def test_tokens_are_the_documents(conf: DataConf, kind: str) -> None:
    conf = changed(conf, tokenizer=kind)
    corpus, split = prepare(conf), corpora.load(conf)
    end = corpus.tokenizer.end_of_text
    separator = "" if end is None else corpus.tokenizer.decode([end])
    for side, tokens in (("train", corpus.train[:]), ("val", corpus.val[:])):
        assert tokens.dtype == np.uint16
        parts = (part for part in split.parts() if part.side == side)
        text = "".join(separator * part.begins + part.content.decode() for part in parts)
        assert corpus.tokenizer.decode(tokens.tolist()) == text
        if end is not None:
            assert (tokens == end).sum() == split.side(side).documents
            assert tokens[0] == end


def test_meta_counts(conf: DataConf) -> None:
    corpus, split = prepare(conf), corpora.load(conf)
    meta = corpus.meta
    assert (meta.train_tokens, meta.val_tokens) == (len(corpus.train), len(corpus.val))
    assert (meta.train_documents, meta.train_bytes) == split.side("train")
    assert (meta.val_documents, meta.val_bytes) == split.side("val")
    assert meta.val_tokens_per_byte == meta.val_tokens / meta.val_bytes
    assert meta.unigram_entropy == unigram_entropy(corpus.val[:])
    assert corpus.vocab_size == meta.vocab_size == 300
    assert corpus.folder.name == corpus.fingerprint == meta.fingerprint
    assert meta.tokenizer_fingerprint == corpus.tokenizer.fingerprint


def test_compressor_figures_are_those_of_the_compressors(conf: DataConf) -> None:
    meta = prepare(conf).meta
    held_out = b"".join(part.content for part in corpora.load(conf).parts(side="val"))
    for bits_per_byte, compressed in (
        (meta.gzip_bits_per_byte, gzip.compress(held_out, compresslevel=9)),
        (meta.xz_bits_per_byte, lzma.compress(held_out, format=lzma.FORMAT_XZ, preset=9)),
    ):
        assert bits_per_byte * len(held_out) / 8 == pytest.approx(len(compressed), abs=1e-6)


def test_unigram_entropy_by_hand() -> None:
    # frequencies 1/2, 1/4, 1/4: 1.5 bits
    assert unigram_entropy(np.array([7, 0, 7, 3])) == pytest.approx(1.5 * math.log(2))
    assert unigram_entropy(np.array([5, 5, 5], dtype=np.uint16)) == 0


def test_single_file_of_characters_is_nanogpts_split(conf: DataConf, tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text(POEM.replace("ü", "u"))
    paths = [str(tmp_path / "poem.txt")]
    corpus = prepare(changed(conf, paths=paths, tokenizer="chars", val_fraction=0.1))
    text = POEM.replace("ü", "u")
    ids = {c: i for i, c in enumerate(sorted(set(text)))}
    assert corpus.vocab_size == len(ids)
    assert corpus.train[:].tolist() == [ids[c] for c in text[: int(len(text) * 0.9)]]
    assert corpus.val[:].tolist() == [ids[c] for c in text[int(len(text) * 0.9) :]]


def test_large_vocabularies_are_stored_in_32_bits(conf: DataConf, tmp_path: Path) -> None:
    tokenizers.char_tokenizer(map(chr, [*range(0xD800), *range(0xE000, 0x15000)])).save(
        tmp_path / "wide.json"
    )
    (tmp_path / "wide.txt").write_text("".join(map(chr, range(0x13000, 0x13400))))
    corpus = prepare(
        changed(conf, paths=[str(tmp_path / "wide.txt")], tokenizer=str(tmp_path / "wide.json"))
    )
    assert corpus.train[:].dtype == np.uint32
    assert corpus.train[:][0] == 0x13000 - 0x800


def test_second_call_does_no_work_and_says_nothing(
    conf: DataConf, capfd: pytest.CaptureFixture[str]
) -> None:
    first = prepare(conf)
    assert "prepared text" in capfd.readouterr().err
    before = snapshot(first.folder)
    again = prepare(changed(conf, length=64, batch_size=2, workers=1))
    assert snapshot(first.folder) == before
    assert again.fingerprint == first.fingerprint
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "change", [{"vocab_size": 280}, {"tokenizer": "bytes"}, {"val_fraction": 0.3}]
)
def test_what_changes_the_tokens_changes_the_fingerprint(
    conf: DataConf, change: dict[str, object]
) -> None:
    assert prepare(conf).fingerprint != prepare(changed(conf, **change)).fingerprint


def test_an_edited_file_is_noticed(conf: DataConf, tmp_path: Path) -> None:
    first = prepare(conf)
    (tmp_path / "texts" / "3.txt").write_text("quite another text " * 50)
    assert prepare(conf).fingerprint != first.fingerprint


def test_preparing_twice_gives_the_same_bytes(conf: DataConf) -> None:
    folder = prepare(conf).folder
    first = contents(folder)
    shutil.rmtree(folder)
    prepare(conf)
    assert contents(folder) == first


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def digit(path: Path) -> None:
    """The last digit in the file becomes another."""
    text = path.read_text()
    place = max(i for i, character in enumerate(text) if character.isdigit())
    path.write_text(f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


FILES = (*TOKENS, "train.blocks", "val.blocks", "tokenizer.json", "meta.json", MANIFEST)


@pytest.mark.parametrize("harm", [truncate, flip, Path.unlink, pipe, loop, folder_instead])
def test_damage_is_noticed_and_repaired(
    conf: DataConf, capfd: pytest.CaptureFixture[str], harm: Callable[[Path], object]
) -> None:
    folder = prepare(conf).folder
    sound = contents(folder)
    for name in FILES:
        capfd.readouterr()
        harm(folder / name)
        prepare(conf)
        assert contents(folder) == sound, name
        notices = [line for line in capfd.readouterr().err.splitlines() if "damaged" in line]
        assert len(notices) == 1, name
        assert names(Path(conf.cache_dir)) == [folder.name]


def test_every_digit_of_what_is_written_down_counts(conf: DataConf) -> None:
    corpus, split = prepare(conf), corpora.load(conf)
    for name in ("meta.json", MANIFEST):
        text = (corpus.folder / name).read_text()
        for place in [i for i, character in enumerate(text) if character.isdigit()]:
            other = (int(text[place]) + 1) % 10
            (corpus.folder / name).write_text(f"{text[:place]}{other}{text[place + 1 :]}")
            with pytest.raises(Unfit):
                store.open_folder(corpus.folder, corpus.fingerprint, split)
        (corpus.folder / name).write_text(text)
        store.open_folder(corpus.folder, corpus.fingerprint, split)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train_tokens", 500),
        ("val_tokens", 500),
        ("vocab_size", 301),
        ("dtype", "uint32"),
        ("dtype", "object"),
        ("train_documents", 3),
        ("val_bytes", 10),
        ("fingerprint", "0" * 16),
        ("format", 2),
        ("train_tokens", None),
        ("unheard_of", 1),
    ],
)
def test_what_the_documents_decide_is_not_believed(conf: DataConf, key: str, value: object) -> None:
    """Not even with a manifest that fits."""
    corpus, split = prepare(conf), corpora.load(conf)
    meta = json.loads((corpus.folder / "meta.json").read_text())
    (corpus.folder / "meta.json").write_text(json.dumps({**meta, key: value}))
    seal(corpus.folder, corpus.fingerprint)
    with pytest.raises(Unfit, match=key):
        store.open_folder(corpus.folder, corpus.fingerprint, split)


def test_the_folder_of_another_corpus_is_noticed(
    conf: DataConf, capfd: pytest.CaptureFixture[str]
) -> None:
    other, corpus = prepare(changed(conf, val_fraction=0.3)), prepare(conf)
    sound = contents(corpus.folder)
    shutil.rmtree(corpus.folder)
    shutil.copytree(other.folder, corpus.folder)
    capfd.readouterr()
    prepare(conf)
    assert f"(it is the corpus {other.fingerprint}): making it again" in capfd.readouterr().err
    seal(other.folder, corpus.fingerprint)
    shutil.rmtree(corpus.folder)
    other.folder.rename(corpus.folder)
    prepare(conf)
    assert "meta.json: fingerprint=" in capfd.readouterr().err
    assert contents(corpus.folder) == sound


@pytest.mark.parametrize("kind", ["file", "pipe", "dangling", "loop"])
def test_what_is_no_folder_is_replaced(
    conf: DataConf, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    folder = prepare(conf).folder
    sound = contents(folder)
    shutil.rmtree(folder)
    if kind == "file":
        folder.write_text("text")
    elif kind == "pipe":
        os.mkfifo(folder)
    else:
        folder.symlink_to(folder if kind == "loop" else folder / "nothing")
    capfd.readouterr()
    prepare(conf)
    assert capfd.readouterr().err.count("damaged") == 1
    assert contents(folder) == sound
    assert names(Path(conf.cache_dir)) == [folder.name]


def test_a_copy_with_other_times_is_read_whole_once(conf: DataConf, tmp_path: Path) -> None:
    folder = prepare(conf).folder
    before = (folder / MANIFEST).read_text()
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    copied = snapshot(folder)["train.bin"]
    prepare(conf)
    assert snapshot(folder)["train.bin"] == copied
    after = snapshot(folder)
    assert (folder / MANIFEST).read_text() != before
    prepare(conf)
    assert snapshot(folder) == after


def long_conf(conf: DataConf, tmp_path: Path) -> DataConf:
    """A corpus of so many blocks that an opening looks at few of them."""
    (tmp_path / "long.txt").write_text("".join(f"{i} green bottles\n" for i in range(66_000)))
    return changed(conf, paths=[str(tmp_path / "long.txt")], tokenizer="bytes")


def flip_unseen(folder: Path, name: str, place: int) -> None:
    """Change a byte as a damaged disk does: no time changes."""
    content = bytearray((folder / name).read_bytes())
    content[place] ^= 1
    (folder / name).write_bytes(content)
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    manifest.pop("sha256")
    for file in TOKENS:
        manifest["files"][file] = _stamp(folder / file)
    _write(folder, manifest["fingerprint"], manifest["files"])


def test_a_changed_byte_that_no_sample_shows_is_never_used(
    conf: DataConf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = long_conf(conf, tmp_path)
    corpus, split = prepare(conf), corpora.load(conf)
    first = int(Batches(corpus, conf, 0).order.places(0)[1][0]) * 2
    flip_unseen(corpus.folder, "train.bin", first)
    monkeypatch.setattr(manifest, "SAMPLES", 0)
    unseen = store.open_folder(corpus.folder, corpus.fingerprint, split)
    with pytest.raises(UserError, match=r"train\.bin: the 32,768 bytes from .* not those prepared"):
        Batches(unseen, conf, 0)[0]
    assert MANIFEST not in names(corpus.folder)  # so that the same command mends it
    assert Batches(prepare(conf), conf, 0)[0].shape == (4, 33)

    flip_unseen(corpus.folder, "val.bin", 5)
    unseen = store.open_folder(corpus.folder, corpus.fingerprint, split)
    with pytest.raises(UserError, match=r"val\.bin: the 32,768 bytes from 0 "):
        _ = unseen.val[:]


def test_a_sample_or_all_of_the_tokens_is_hashed_on_opening(
    conf: DataConf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = long_conf(conf, tmp_path)
    corpus, split = prepare(conf), corpora.load(conf)
    assert corpus.blocks["train.bin"].count > 2 * SAMPLES
    for block in range(corpus.blocks["train.bin"].count):
        flip_unseen(corpus.folder, "train.bin", block * BLOCK)
    with pytest.raises(Unfit, match=r"train\.bin has changed at byte "):
        store.open_folder(corpus.folder, corpus.fingerprint, split)
    prepare(conf)
    flip_unseen(corpus.folder, "train.bin", 3 * BLOCK)
    monkeypatch.setattr(manifest, "SAMPLES", 0)
    store.open_folder(corpus.folder, corpus.fingerprint, split)
    with pytest.raises(Unfit, match=r"train\.bin has changed at byte 98,304"):
        store.open_folder(corpus.folder, corpus.fingerprint, split, whole=True)
    prepare(changed(conf, verify=True))
    store.open_folder(corpus.folder, corpus.fingerprint, split, whole=True)


def test_text_the_tokenizer_cannot_represent(conf: DataConf, tmp_path: Path) -> None:
    tokenizers.char_tokenizer(set(POEM + "part") - {"ü"}).save(tmp_path / "ascii.json")
    with pytest.raises(UserError, match=r"'ü' \(U\+00FC\)"):
        prepare(changed(conf, tokenizer=str(tmp_path / "ascii.json")))
    assert names(Path(conf.cache_dir)) == []


def test_too_long_a_context_gives_both_counts(conf: DataConf) -> None:
    meta = prepare(conf).meta
    longest = min(meta.train_tokens, meta.val_tokens) - 1
    prepare(changed(conf, length=longest))
    with pytest.raises(UserError) as caught:
        prepare(changed(conf, length=longest + 1))
    for part in (f"{meta.train_tokens:,}", f"{meta.val_tokens:,}", f"to {longest:,} or less"):
        assert part in str(caught.value)
    with pytest.raises(UserError, match=r"data\.length=0"):
        prepare(changed(conf, length=0))


def test_unusable_cache_folder(conf: DataConf, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.cache_dir=.*file"):
        prepare(changed(conf, cache_dir=str(tmp_path / "file")))


def test_a_text_too_short_for_its_vocabulary_is_reported(
    conf: DataConf, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus = prepare(changed(conf, vocab_size=50_000))
    assert corpus.vocab_size < 50_000
    assert f"use {corpus.vocab_size}" in capfd.readouterr().err


def _prepare_in_child(conf: DataConf, results: Any) -> None:
    results.put(prepare(conf).train[:].tobytes())


def test_processes_may_prepare_at_once(conf: DataConf) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    children = [context.Process(target=_prepare_in_child, args=(conf, results)) for _ in range(2)]
    for child in children:
        child.start()
    tokens = [results.get(timeout=300) for _ in children]
    for child in children:
        child.join()
    assert tokens[0] == tokens[1] == prepare(conf).train[:].tobytes()
    assert len(names(Path(conf.cache_dir))) == 1


def test_real_source_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty files of the standard library, end to end."""

    def some(conf: DataConf) -> list[Document]:
        return [*corpora.stdlib(conf)][:40]

    monkeypatch.setattr(corpora, "CORPORA", {"stdlib": some})
    corpus: Corpus = prepare(
        DataConf(corpus="stdlib", vocab_size=1024, val_fraction=0.1, cache_dir=str(tmp_path))
    )
    meta = corpus.meta
    assert corpus.vocab_size == 1024
    assert 0.25 < meta.val_tokens_per_byte < 0.5
    assert 4 < meta.unigram_entropy < math.log(1024)
    assert 1 < meta.xz_bits_per_byte < meta.gzip_bits_per_byte < 4
    assert "import" in corpus.tokenizer.decode(corpus.val[:].tolist())


def test_too_little_text_names_no_length_that_cannot_be(conf: DataConf, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizers.byte_tokenizer().save(path)
    drops = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": drops}))
    with pytest.raises(UserError, match=r"in a row, but there are .*: give more text or change"):
        prepare(changed(conf, tokenizer=str(path), paths=[str(tmp_path / "texts" / "0.txt")]))
