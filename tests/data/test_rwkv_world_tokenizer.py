"""RWKV World's tokenizer: the ids of the official one, on whatever bytes."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

from conf.schema import DataConf
from core.errors import UserError
from data import rwkv_world_tokenizer, tokenizers
from data.corpora import load as load_corpus
from data.rwkv_world_tokenizer import WorldTokenizer
from data.store import prepare
from data.text import END_OF_TEXT, StreamDecoder

VOCABULARY = Path(
    str(importlib.util.find_spec("rwkv").origin),
).with_name("rwkv_vocab_v20230424.txt")


@pytest.fixture(scope="module")
def official() -> Any:
    return TRIE_TOKENIZER(str(VOCABULARY))


@pytest.fixture(scope="module")
def ours() -> WorldTokenizer:
    loaded = tokenizers.load(VOCABULARY)
    assert isinstance(loaded, WorldTokenizer)
    return loaded


def source_code() -> str:
    return "".join(
        path.read_text() for path in sorted(Path(rwkv_world_tokenizer.__file__).parent.glob("*.py"))
    )


def every_plane() -> str:
    """Runs of 40 characters from all over Unicode's 17 planes."""
    runs = (range(start, start + 40) for start in range(0, 0x110000, 0x220))
    return "".join(chr(c) for run in runs for c in run if not 0xD800 <= c < 0xE000)


def test_vocabulary(ours: WorldTokenizer) -> None:
    assert (ours.vocab_size, ours.end_of_text) == (65536, 0)
    assert ours.encode_bytes(bytes(range(256)))[0] == 1
    assert ours.encode("\n") == [11]


def test_ids_are_the_official_ones(official: Any, ours: WorldTokenizer) -> None:
    for text in ("", "a", source_code(), every_plane(), " " * 1000, "=" * 777 + "\r\n" * 99):
        ids = ours.encode(text)
        assert ids == official.encode(text)
        assert ours.decode(ids) == text


def test_every_token_and_random_bytes(official: Any, ours: WorldTokenizer) -> None:
    draw = random.Random(0)
    tokens = list(official.idx2token.values())
    draw.shuffle(tokens)
    data = [b"".join(tokens), draw.randbytes(100_000)]
    data += [b"".join(draw.choices(tokens, k=draw.randrange(6))) for _ in range(2000)]
    data += [token[:-1] + draw.randbytes(2) for token in tokens[:2000]]
    for text in data:
        ids = ours.encode_bytes(text)
        assert ids == official.encodeBytes(text)
        assert official.decodeBytes(ids) == text
    for token in tokens:
        assert ours.encode_bytes(token) == [official.token2idx[token]]


def test_a_window_never_shows(official: Any, ours: WorldTokenizer) -> None:
    text = source_code().encode() + b" " * 300
    expected = official.encodeBytes(text)
    narrow = tokenizers.load(VOCABULARY)
    for size in (256, 257, 300, 1001):
        narrow._window = size  # type: ignore[attr-defined]
        assert narrow.encode_bytes(text) == expected  # type: ignore[attr-defined]


def test_pieces_have_the_tokens_of_the_whole(ours: WorldTokenizer) -> None:
    text = source_code() + every_plane() + "漢字かな交じり文、" * 500
    for size in (1, 50, 3000):
        pieces = list(ours.cut(text, size))
        assert "".join(pieces) == text
        assert [i for ids in ours.encode_many(pieces) for i in ids] == ours.encode(text)
        assert len(pieces) > len(text) / (size + 1000)


def test_saved_and_loaded_is_the_same(ours: WorldTokenizer, tmp_path: Path) -> None:
    ours.save(tmp_path / "tokenizer.json")
    again = tokenizers.load(tmp_path / "tokenizer.json")
    assert isinstance(again, WorldTokenizer)
    assert again.fingerprint == ours.fingerprint
    assert again.encode(every_plane()) == ours.encode(every_plane())


def test_decoding_anything(ours: WorldTokenizer) -> None:
    assert ours.decode([0]) == END_OF_TEXT
    assert ours.decode([65535, 98, 0xE6 + 1]) == "\ufffda\ufffd"
    draw = random.Random(1)
    for _ in range(200):
        ids = [draw.choice((draw.randrange(65536), draw.randrange(257))) for _ in range(30)]
        decoder = StreamDecoder(ours)
        assert "".join([*map(decoder.push, ids), decoder.flush()]) == ours.decode(ids)


def test_lone_surrogates_are_refused(ours: WorldTokenizer) -> None:
    with pytest.raises(UserError, match="not valid Unicode"):
        ours.encode("a\udcff")


def test_a_corpus_of_world_tokens(ours: WorldTokenizer, tmp_path: Path) -> None:
    for name, text in (("a", source_code()), ("b", every_plane()[1:])):
        (tmp_path / f"{name}.txt").write_text(text, newline="")
    conf = DataConf(
        corpus="text", paths=[str(tmp_path / "*.txt")], tokenizer=str(VOCABULARY), length=16,
        cache_dir=str(tmp_path / "cache"), val_fraction=0.1,
    )  # fmt: skip
    corpus = prepare(conf)
    assert (corpus.vocab_size, corpus.meta.dtype) == (65536, "uint16")
    assert corpus.tokenizer.fingerprint == ours.fingerprint
    texts = [text for text, _ in load_corpus(conf).texts("train")]
    expected = [i for text in texts for i in (0, *ours.encode(text))]
    assert corpus.train[:].tolist() == expected


LINES = [f"{i + 1} {bytes([i])!r} 1" for i in range(256)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["", *LINES], "line 1: expected an id"),
        (["hello"], "line 1: expected an id, a Python literal"),
        ([*LINES, "257 __import__('os').system('true') 1"], "line 257: expected an id"),
        ([*LINES, "257 ['a'] 1"], "line 257: expected an id"),
        ([*LINES, "257 '' 0"], "line 257: expected an id"),
        ([*LINES, "258 'ab' 2"], "line 257: id 258; expected 257"),
        ([*LINES, "257 'é' 1"], "line 257: says 1 bytes, and .* has 2"),
        ([*LINES, "257 'a' 1"], "b'a' is there twice"),
        (LINES[:100], "no token for byte 0x64"),
    ],
)
def test_bad_vocabularies_are_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    (tmp_path / "v.txt").write_text("\n".join(lines))
    with pytest.raises(UserError, match=message) as refused:
        tokenizers.load(tmp_path / "v.txt")
    assert "v.txt" in str(refused.value)


@pytest.mark.parametrize("tokens", ["null", "[1]", '["漢"]', '["a"]', '["a", "a"]'])
def test_damaged_saved_vocabularies_are_refused(tmp_path: Path, tokens: str) -> None:
    (tmp_path / "tokenizer.json").write_text(f'{{"type": "RWKV World", "tokens": {tokens}}}')
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        tokenizers.load(tmp_path / "tokenizer.json")


def test_a_line_too_long_to_be_a_token_is_not_read() -> None:
    with pytest.raises(UserError, match=r"line 1: 5,000,012 characters are no token"):
        rwkv_world_tokenizer.read_vocabulary(Path("vocab.txt"), f"1 '{'a' * 5_000_000}' 5000000\n")


def test_the_end_of_a_text_is_kept_whole_on_request() -> None:
    tokenizer = WorldTokenizer([bytes([i]) for i in range(256)])
    text = f"a{END_OF_TEXT}b{END_OF_TEXT}"
    assert tokenizer.encode_many([text, "c"], whole=True) == [[98, 0, 99, 0], [100]]
    assert 0 not in tokenizer.encode(text)
