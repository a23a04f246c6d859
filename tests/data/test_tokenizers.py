"""Tokenizers: nothing is lost, nothing is random, nothing unknown passes silently."""

from __future__ import annotations

import json
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as library

from core.errors import UserError
from data import tokenizers
from data.interruptible import interruptible
from data.text import END_OF_TEXT, StreamDecoder, TextTokenizer
from data.tokenizers import LibraryTokenizer

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


def test_what_a_tokenizer_lacks_is_named(tmp_path: Path) -> None:
    for content, message in (("{}", "it has no 'model'"), ("[]", "it is no JSON object")):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match=message):
            tokenizers.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("content", [None, "", "not json", '{"model": 1}', "[]"])
def test_bad_tokenizer_file(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        tokenizers.load(path)


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


def sentencepiece(scheme: str, split: bool = True, legacy: bool = False) -> LibraryTokenizer:
    """A `tokenizer.json` as conversions from SentencePiece have it, in miniature."""
    tokenizer = Tokenizer(library.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    special = ["<unk>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([ENGLISH], trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    to_space = decoders.Replace("\u2581", " ")
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(
        [to_space, decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    definition = json.loads(tokenizer.to_str())
    definition["added_tokens"] = definition["added_tokens"][:2]
    if legacy:
        definition["pre_tokenizer"] = None
        prepend = {"type": "Prepend", "prepend": "\u2581"}
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
        definition["normalizer"] = {"type": "Sequence", "normalizers": [prepend, replace]}
    return LibraryTokenizer(Tokenizer.from_str(json.dumps(definition)))


STYLES = {
    "first": lambda: sentencepiece("first"),
    "always": lambda: sentencepiece("always"),
    "never": lambda: sentencepiece("never"),
    "unsplit": lambda: sentencepiece("first", split=False),
    "legacy": lambda: sentencepiece("first", legacy=True),
}


@pytest.fixture(scope="module", params=STYLES)
def style(request: pytest.FixtureRequest) -> LibraryTokenizer:
    return STYLES[request.param]()


def whole(tokenizer: LibraryTokenizer, text: str) -> list[int]:
    return tokenizer._tokenizer.encode(text, add_special_tokens=False).ids


def test_sentencepiece_pieces_have_the_tokens_of_the_whole_text(style: LibraryTokenizer) -> None:
    text = ("The quick dog.\nIt jumps  over\n\n again. " + "漢字 é " + ENGLISH[:300]) * 20
    for variant in (text, " " + text, "  " + text):
        for size in (50, 1000):
            pieces = list(style.cut(variant, size))
            assert "".join(pieces) == variant
            assert [*chain(*style.encode_many(pieces))] == whole(style, variant)
    separates = style._tokenizer.pre_tokenizer is not None and len(style._words("a b")) > 1
    assert (len(list(style.cut(text, 50))) > 10) == separates


@pytest.mark.parametrize("text", ["The dog", " The dog", "  The dog", "\n The", " ", "漢 é"])
def test_a_first_space_is_free_and_nothing_else_is_lost(style: LibraryTokenizer, text: str) -> None:
    ids = style.encode(text)
    assert style.decode(ids) in (text, text.removeprefix(" "), " " + text)


def test_a_lost_space_elsewhere_is_refused() -> None:
    for text in (" abc", "abc abc"):
        with pytest.raises(UserError, match="cannot represent ' '"):
            tokenizers.char_tokenizer("abc").encode(text)
    with pytest.raises(UserError, match="cannot represent"):
        Strip = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 3, 0)])
        lossy = Tokenizer(library.BPE(vocab={" ": 0, "a": 1}, merges=[]))
        lossy.decoder = Strip
        LibraryTokenizer(lossy).encode("   a")


def test_a_stream_after_a_prompt_keeps_its_first_space(style: LibraryTokenizer) -> None:
    for prompt, rest in (("The quick", " brown fox"), ("漢字", "字 é 漢"), ("The", "\n again")):
        before, ids = style.encode(prompt), whole(style, prompt + rest)
        assert ids[: len(before)] == before
        decoder = StreamDecoder(style, after=before)
        shown = [decoder.push(i) for i in ids[len(before) :]]
        assert "".join([*shown, decoder.flush()]) == rest


class Counting:
    """A tokenizer that counts the ids it is asked to decode."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer, self.most = tokenizer, 0

    def decode(self, ids: list[int]) -> str:
        self.most = max(self.most, len(ids))
        return self.tokenizer.decode(ids)


@pytest.mark.parametrize("ids", [list(("山" * 400).encode()), [0xFF] * 400, [0xE4, 0xBD] * 200])
def test_a_stream_looks_at_a_few_tokens_only(ids: list[int]) -> None:
    counting: Any = Counting(tokenizers.byte_tokenizer())
    decoder = StreamDecoder(counting)
    shown = "".join([*(decoder.push(i) for i in ids), decoder.flush()])
    assert shown == bytes(ids).decode(errors="replace")
    assert counting.most <= 128


def test_long_words_are_cut_for_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = tokenizers.train_bpe([ENGLISH], 300).fingerprint
    monkeypatch.setattr(tokenizers, "LONGEST_WORD", 8)
    assert tokenizers.train_bpe([ENGLISH], 300).fingerprint == usual  # "jumps over" in bytes
    draw = random.Random(1)
    dna = "".join(draw.choice("ACGT") for _ in range(3000))
    tokenizer = tokenizers.train_bpe([dna], 300)
    assert tokenizer.vocab_size == 300
    assert max(len(tokenizer.decode([i])) for i in range(1, 300)) <= 8
    assert tokenizer.decode(tokenizer.encode(dna)) == dna
    assert tokenizer.encode(dna[:300]) == tokenizers.LibraryTokenizer(
        Tokenizer.from_str(tokenizer._tokenizer.to_str())
    ).encode(dna[:300])


@pytest.fixture
def listening() -> Iterator[None]:
    """Python's own handler, also where SIGINT is ignored, as in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_reaches_whoever_waits(listening: None) -> None:
    begun, end = threading.Event(), threading.Event()

    def deaf() -> None:
        begun.set()
        end.wait(60)

    def interrupt() -> None:
        begun.wait()
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        interruptible(deaf)
    end.set()
    assert interruptible(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0)


def test_special_tokens_are_kept_whole_on_request(bpe: TextTokenizer) -> None:
    text = f"The fox{END_OF_TEXT} jumps"
    (ids,) = bpe.encode_many([text], whole=True)
    assert ids == [*bpe.encode("The fox"), 0, *bpe.encode(" jumps")]
    assert bpe.decode(ids) == text
    assert bpe.special_tokens == {END_OF_TEXT: 0}
    assert 0 not in bpe.encode(text)


def test_a_special_token_with_a_space_is_not_kept_whole(bpe: TextTokenizer) -> None:
    library = Tokenizer.from_str(bpe._tokenizer.to_str())  # type: ignore[attr-defined]
    library.add_special_tokens(["<a b>"])
    with pytest.raises(UserError, match="'<a b>' has one"):
        LibraryTokenizer(library).encode_many(["x"], whole=True)


@pytest.mark.parametrize(("ids", "fits"), [(299, False), (300, True), (2300, True), (3000, False)])
def test_a_vocabulary_of_another_size_is_noticed(bpe: TextTokenizer, ids: int, fits: bool) -> None:
    refused = pytest.raises(UserError, match=r"model\.pth .*trained with another tokenizer")
    with nullcontext() if fits else refused:
        tokenizers.check_fits(bpe, ids, "model.pth")
