"""Tokenizers: nothing is lost, nothing is random, nothing unknown passes silently."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers import models as library

from conf.schema import DataConf
from data import tokenizers
from data.text import END_OF_TEXT, StreamDecoder, TextTokenizer
from models.errors import UserError

ENGLISH = (
    "The quick brown fox jumps over the lazy dog. It's 12 o'clock;  again\n\tand again.\n" * 40
)
AWKWARD = f"naïve 漢字 🎉🏳️‍🌈 e\u0301 \ufffd \x00\x7f\xa0 \r\n\t  {END_OF_TEXT} \u2028 ok "


@pytest.fixture(scope="module")
def bpe() -> TextTokenizer:
    return tokenizers.train_bpe([ENGLISH], 300)


@pytest.fixture(params=["bpe", "bytes", "chars"])
def any_tokenizer(request: pytest.FixtureRequest, bpe: TextTokenizer) -> TextTokenizer:
    if request.param == "bpe":
        return bpe
    if request.param == "bytes":
        return tokenizers.byte_tokenizer()
    return tokenizers.char_tokenizer(ENGLISH + AWKWARD)


@pytest.mark.parametrize("text", ["", " ", ENGLISH, AWKWARD, "\n\n  x"])
def test_round_trip(any_tokenizer: TextTokenizer, text: str) -> None:
    ids = any_tokenizer.encode(text)
    assert any_tokenizer.decode(ids) == text
    assert all(0 <= i < any_tokenizer.vocab_size for i in ids)


def test_special_tokens_in_a_text_are_text(any_tokenizer: TextTokenizer) -> None:
    ids = any_tokenizer.encode(f"a{END_OF_TEXT}b")
    assert any_tokenizer.end_of_text not in ids
    assert len(ids) > 3


def test_save_and_load(any_tokenizer: TextTokenizer, tmp_path: Path) -> None:
    any_tokenizer.save(tmp_path / "tokenizer.json")
    loaded = tokenizers.load(tmp_path / "tokenizer.json")
    assert loaded.fingerprint == any_tokenizer.fingerprint
    assert loaded.vocab_size == any_tokenizer.vocab_size
    assert loaded.end_of_text == any_tokenizer.end_of_text
    assert loaded.encode(AWKWARD) == any_tokenizer.encode(AWKWARD)


def test_bpe_compresses_within_its_vocabulary(bpe: TextTokenizer) -> None:
    assert bpe.vocab_size == 300
    assert bpe.end_of_text == 0
    assert len(bpe.encode(ENGLISH)) < 0.8 * len(ENGLISH)


def test_bpe_training_is_deterministic(bpe: TextTokenizer) -> None:
    assert tokenizers.train_bpe([ENGLISH], 300).fingerprint == bpe.fingerprint
    assert tokenizers.train_bpe([ENGLISH + "xyzzy " * 50], 300).fingerprint != bpe.fingerprint


def test_bpe_needs_room_for_every_byte() -> None:
    assert tokenizers.train_bpe(["ab"], 257).vocab_size == 257
    with pytest.raises(UserError, match="at least 257"):
        tokenizers.train_bpe(["ab"], 256)


def test_byte_ids_are_byte_values() -> None:
    tokenizer = tokenizers.byte_tokenizer()
    text = "".join(map(chr, range(0x180))) + "漢🎉"
    assert tokenizer.encode(text) == list(text.encode())
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (257, 256)


def test_char_ids_are_sorted_characters() -> None:
    tokenizer = tokenizers.char_tokenizer("hello world")
    assert tokenizer.encode("held") == [" dehlorw".index(c) for c in "held"]
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (8, None)


@pytest.mark.parametrize("text", ["a cab ß", "ßa", "aaß", "aßa", "ß"])
def test_unseen_character_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"'ß' \(U\+00DF\)"):
        tokenizers.char_tokenizer("abc ").encode(text)


def test_unknown_tokens_are_refused(tmp_path: Path) -> None:
    vocab = {"[UNK]": 0, "hello": 1}
    Tokenizer(library.WordLevel(vocab, unk_token="[UNK]")).save(str(tmp_path / "words.json"))
    tokenizer = tokenizers.load(tmp_path / "words.json")
    assert tokenizer.encode("hello") == [1]
    with pytest.raises(UserError, match="cannot represent 'g'"):
        tokenizer.encode("goodbye")


def test_lone_surrogates_are_refused(bpe: TextTokenizer) -> None:
    with pytest.raises(UserError, match="not valid Unicode"):
        bpe.encode("\udcff")


def test_stored_truncation_and_padding_are_switched_off(tmp_path: Path) -> None:
    tokenizers.byte_tokenizer().save(tmp_path / "t.json")
    short = Tokenizer.from_file(str(tmp_path / "t.json"))
    short.enable_truncation(3)
    short.enable_padding(length=8)
    short.save(str(tmp_path / "t.json"))
    assert tokenizers.load(tmp_path / "t.json").encode("abcdef") == list(b"abcdef")
    assert tokenizers.load(tmp_path / "t.json").encode("ab") == list(b"ab")


@pytest.mark.parametrize("content", [None, "", "not json", '{"model": 1}', "[]"])
def test_bad_tokenizer_file(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        tokenizers.load(path)


def test_recipe_and_build_follow_the_configuration(tmp_path: Path) -> None:
    def conf(tokenizer: str, **settings: int) -> DataConf:
        return DataConf(corpus="text", tokenizer=tokenizer, **settings)  # type: ignore[arg-type]

    path = tmp_path / "mine.json"
    tokenizers.byte_tokenizer().save(path)
    confs = [
        conf("bpe"),
        conf("bpe", vocab_size=512),
        conf("bytes"),
        conf("chars"),
        conf(str(path)),
    ]
    assert len({tokenizers.recipe(c) for c in confs}) == len(confs)
    built = [tokenizers.build(c, ["ab" * 50], ["c"]) for c in confs]
    assert built[3].encode("abc") == [0, 1, 2]
    assert built[4].fingerprint == built[2].fingerprint == tokenizers.byte_tokenizer().fingerprint
    before = tokenizers.recipe(confs[4])
    tokenizers.char_tokenizer("abc").save(path)
    assert tokenizers.recipe(confs[4]) != before
    with pytest.raises(UserError, match="'bpee': neither bpe, bytes, chars nor a file"):
        tokenizers.recipe(conf("bpee"))


def stream(tokenizer: TextTokenizer, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [*(decoder.push(i) for i in ids), decoder.flush()]


def test_stream_holds_back_half_characters() -> None:
    assert stream(tokenizers.byte_tokenizer(), list("aé🎉".encode())) == [
        *("a", "", "é", "", "", "", "🎉", "")
    ]


def test_stream_shows_plain_text_at_once(bpe: TextTokenizer) -> None:
    ids = bpe.encode(ENGLISH[:80])
    assert stream(bpe, ids) == [*(bpe.decode([i]) for i in ids), ""]


def test_stream_joined_is_decode_for_any_ids(any_tokenizer: TextTokenizer) -> None:
    draw = random.Random(0)
    for _ in range(200):
        ids = [draw.randrange(any_tokenizer.vocab_size) for _ in range(30)]
        assert "".join(stream(any_tokenizer, ids)) == any_tokenizer.decode(ids)


def test_stream_shows_the_end_even_if_incomplete() -> None:
    ids = list("ab漢".encode())[:-1]
    assert stream(tokenizers.byte_tokenizer(), ids) == ["a", "b", "", "", "\ufffd"]


def test_cut_loses_nothing_and_keeps_bpe_tokens(bpe: TextTokenizer) -> None:
    text = (ENGLISH + "one line\n\n\n  indented   wide\r\n'tis \n" + AWKWARD) * 3
    for size in (1, 7, 100):
        pieces = list(tokenizers.cut(text, size))
        assert len(pieces) > 20
        assert "".join(pieces) == text
        assert [i for piece in pieces for i in bpe.encode(piece)] == bpe.encode(text)


def test_training_sample_is_capped_and_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text number {i} " * 20 for i in range(50)]
    whole = tokenizers.train_bpe(texts, 300).fingerprint
    monkeypatch.setattr(tokenizers, "TRAINING_SAMPLE", 2000)
    capped = tokenizers.train_bpe(texts, 300).fingerprint
    assert capped == tokenizers.train_bpe(texts[::-1], 300).fingerprint != whole
