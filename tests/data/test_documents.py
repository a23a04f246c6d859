"""Documents in parts: the split, its fingerprint, and reading what is still to be done."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from core.errors import UserError
from data.documents import SIDES, Document, Split
from data.splitting import split


def documents(*contents: str) -> list[Document]:
    return [Document.of(f"{i}.txt", content.encode()) for i, content in enumerate(contents)]


def many(count: int = 200) -> list[Document]:
    return documents(*(f"document {i} " * (1 + i % 7) for i in range(count)))


def text(document: Document) -> str:
    return b"".join(document.parts()).decode()


def sides(parts: Split, **done: int) -> dict[str, list[str]]:
    """The documents of each side."""
    found: dict[str, list[str]] = {side: [] for side in SIDES}
    for part in parts.parts(done):
        if part.begins or not found[part.side]:
            found[part.side].append("")
        found[part.side][-1] += part.content.decode()
    return found


def in_parts(document: Document, size: int) -> Document:
    """The same document, some characters at a time."""
    whole = text(document)

    def parts() -> Iterable[bytes]:
        return (whole[i : i + size].encode() for i in range(0, len(whole), size))

    return Document(document.name, parts)


def test_one_file_is_cut_where_nanogpt_cuts_it() -> None:
    content = "abcdefghij" * 100 + "xyz"
    cut = int(len(content) * 0.9)
    parts = split(documents(content), val_fraction=0.1)
    assert sides(parts) == {"train": [content[:cut]], "val": [content[cut:]]}


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.3, 0.5, 0.77])
def test_one_file_is_cut_between_characters(fraction: float) -> None:
    content = "é漢🎉a" * 25
    found = sides(split(documents(content), fraction))
    ((train,), (val,)) = found.values()
    assert train + val == content
    assert abs(len(val.encode()) - fraction * len(content.encode())) < 5


def test_several_files_are_split_whole_and_disjoint() -> None:
    parts = split(many(), val_fraction=0.1)
    train, val = sides(parts).values()
    whole = [text(document) for document in many()]
    assert sorted([*train, *val], key=whole.index) == whole
    assert not {*train} & {*val}
    assert 0.09 < len("".join(val)) / len("".join(whole)) <= 0.1
    assert parts.side("train") == (len(train), len("".join(train)))
    assert parts.side("val") == (len(val), len("".join(val)))
    assert parts.largest == max(map(len, whole))


def test_validation_files_are_drawn_from_everywhere() -> None:
    whole = [text(document) for document in many()]
    places = [whole.index(one) for one in sides(split(many(), 0.1))["val"]]
    assert min(places) < 50 and max(places) > 150


def test_split_depends_on_the_documents_alone() -> None:
    first = split(many(), 0.1)
    for size in (1, 7, 10_000):
        again = split([in_parts(document, size) for document in many()], 0.1)
        assert (again.fingerprint, sides(again)) == (first.fingerprint, sides(first))


def test_identical_files_are_kept_once() -> None:
    docs = documents("same text", "other text", "same text", "", "third text")
    train, val = sides(split(docs, 0.4)).values()
    assert sorted([*train, *val]) == ["other text", "same text", "third text"]


def test_a_share_smaller_than_every_file_takes_the_smallest() -> None:
    assert sides(split(documents("a" * 100, "b" * 30, "c" * 200), 0.02))["val"] == ["b" * 30]


@pytest.mark.parametrize(
    "change",
    [
        lambda docs: [Document("new name", docs[0].parts), *docs[1:]],
        lambda docs: [Document.of(docs[0].name, b"new content"), *docs[1:]],
        lambda docs: docs[1:],
        lambda docs: docs[::-1],
    ],
    ids=["name", "content", "fewer", "order"],
)
def test_fingerprint_sees_every_change(change: Callable[[Any], Any]) -> None:
    docs = many()
    assert split(docs, 0.1).fingerprint != split(change(docs), 0.1).fingerprint


def test_fingerprint_sees_the_split() -> None:
    assert split(many(), 0.1).fingerprint != split(many(), 0.3).fingerprint
    single = documents("some text " * 50)
    assert split(single, 0.1).fingerprint != split(single, 0.3).fingerprint


def test_nothing_is_held_out_of_one_text_or_many() -> None:
    for texts in (many(), documents("some text " * 50)):
        whole = split(texts, 0.0)
        assert whole.side("val") == (0, 0) and {part.side for part in whole.parts()} == {"train"}
        assert whole.side("train").bytes == sum(len(part.content) for part in whole.parts())


@pytest.mark.parametrize("fraction", [1.1, -0.1, 2.0])
def test_impossible_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="val_fraction"):
        split(many(), fraction)


def test_fingerprint_is_that_of_names_and_contents_side_by_side() -> None:
    """Written out: prepared corpora are found by it."""
    parts = split(many(20), 0.2)
    total = hashlib.sha256()
    for side, held in sides(parts).items():
        for document in many(20):
            if text(document) in held:
                digest = hashlib.sha256(text(document).encode()).digest()
                total.update(f"{side}\0{document.name}\0".encode() + digest)
    assert parts.fingerprint == total.hexdigest()[:16]


@pytest.mark.parametrize("single", [False, True])
def test_what_is_done_is_left_out(single: bool) -> None:
    docs = documents("é漢🎉a" * 25) if single else [*many(30), *documents("漢字" * 40)]
    parts = split([in_parts(document, 3) for document in docs], 0.3)
    whole = {side: "".join(held) for side, held in sides(parts).items()}
    draw = random.Random(0)
    for _ in range(50):
        left = {side: draw.randrange(len(held) + 1) for side, held in whole.items()}
        done = {side: len(whole[side][: left[side]].encode()) for side in SIDES}
        rest = {side: "".join(held) for side, held in sides(parts, **done).items()}
        assert rest == {side: whole[side][left[side] :] for side in SIDES}


def test_a_part_knows_whether_it_begins_and_ends_its_document() -> None:
    parts = split([in_parts(document, 4) for document in documents("a" * 10, "b" * 4)], 0.1)
    marks = [(part.side, part.content, part.begins, part.ends) for part in parts.parts()]
    assert marks == [
        ("train", b"aaaa", True, False),
        ("train", b"aaaa", False, False),
        ("train", b"aa", False, True),
        ("val", b"bbbb", True, True),
    ]
    assert [part.begins for part in parts.parts({"train": 4})] == [False, False, True]


class Changing(list[Document]):
    """Documents that are others when they are read again."""

    def __init__(self, before: list[Document], after: list[Document]) -> None:
        super().__init__(after)
        self._before: list[Document] | None = before

    def __iter__(self) -> Any:
        before, self._before = self._before, None
        return iter(before) if before is not None else super().__iter__()


OF_TWO = "the corpus changed while it was being prepared: it had 2 documents, now "


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (documents("a" * 9, "b" * 3), "1.txt changed while the corpus was being prepared: "),
        (documents("a" * 9), OF_TWO + "1, the last of which is 0.txt: "),
        ([], OF_TWO + "0: "),
        (documents("a" * 9, "bb", "ccc"), OF_TWO + "more, 2.txt among them: "),
    ],
)
def test_documents_that_change_meanwhile_are_refused(after: list[Document], message: str) -> None:
    parts = split(Changing(documents("a" * 9, "bb"), after), 0.1)
    with pytest.raises(UserError, match="run the same command again once") as caught:
        list(parts.parts())
    assert str(caught.value).startswith(message)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(UserError, match="the corpus is empty"):
        split(documents("", ""), 0.1)
    with pytest.raises(UserError, match=r"0\.txt: 1 byte cannot be split"):
        split(documents("a"), 0.9)
