"""Which documents train and which validate: found in one reading, from what they hold alone."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable

import numpy as np

from core.errors import UserError
from core.units import counted
from data.documents import LEFT_OUT, SIDES, Document, Split


def split(documents: Iterable[Document], val_fraction: float) -> Split:
    """Read every document once, and hold out `val_fraction` of the bytes.

    Empty documents and exact copies of an earlier one are left out first. Several documents are
    split whole, a single one is cut in two: its end validates, as in nanoGPT's character-level
    Tiny Shakespeare (`val_fraction=0.1`). With `val_fraction=1` all text validates, with 0 none.
    Raises `UserError` if there is too little text.
    """
    if not 0 <= val_fraction <= 1:
        raise UserError(f"data.val_fraction={val_fraction}: must lie between 0 and 1")
    names, sizes, digests = _Names(), array("q"), bytearray()
    all_ids = hashlib.sha256()
    fresh = all_ids.digest()
    unlearned = array("q")  # bytes, of each document up to the last that has any
    for number, document in enumerate(documents):
        digest, size = hashlib.sha256(), 0
        for part, ids in document.pieces():
            digest.update(part)
            size += len(part)
            if ids is not None:
                all_ids.update(ids.tobytes())
        names.append(document.name)
        sizes.append(size)
        digests += document.digest(digest.digest())
        if document.unlearned:
            unlearned.frombytes(bytes(unlearned.itemsize * (number - len(unlearned))))
            unlearned.append(document.unlearned_bytes(0, size))
    size_of = np.frombuffer(sizes, dtype=np.int64).copy()
    digest_of = np.frombuffer(bytes(digests), dtype=np.uint8).reshape(-1, 32)
    sides = np.full(len(size_of), LEFT_OUT, dtype=np.uint8)
    with_text = np.flatnonzero(size_of)
    # Of equal documents the first.
    _, first = np.unique(digest_of[with_text].view("S32").ravel(), return_index=True)
    kept = with_text[np.sort(first)]
    if not len(kept):
        raise UserError("the corpus is empty: no file has any text in it")
    tokens = all_ids.digest() if all_ids.digest() != fresh else b""
    if len(kept) == 1 and 0 < val_fraction < 1:
        return _cut(documents, val_fraction, size_of, digest_of, sides, int(kept[0]), tokens)
    # Whole documents, drawn in an order nobody chose, until the validation share is full.
    keys = [
        hashlib.sha256(digest_of[i].tobytes() + names[i].encode()).digest() for i in kept.tolist()
    ]
    room = val_fraction * int(size_of[kept].sum())
    sides[kept] = SIDES.index("train")
    held_out = []
    for place in sorted(range(len(kept)), key=keys.__getitem__):
        size = int(size_of[kept[place]])
        if size <= room:
            room -= size
            held_out.append(kept[place])
    if not held_out and val_fraction:
        smallest = min(range(len(kept)), key=lambda i: (int(size_of[kept[i]]), keys[i]))
        held_out = [kept[smallest]]
    sides[held_out] = SIDES.index("val")
    entries = (
        (side, names[i], digest_of[i].tobytes())
        for number, side in enumerate(SIDES)
        for i in np.flatnonzero(sides == number).tolist()
    )
    counts = np.frombuffer(unlearned, dtype=np.int64)
    side_of = sides[: len(counts)]
    sums = {side: int(counts[side_of == number].sum()) for number, side in enumerate(SIDES)}
    return Split(
        documents,
        _fingerprint(entries, tokens),
        size_of,
        sides,
        digest_of,
        unlearned=sums if any(sums.values()) else None,
    )


def _cut(
    documents: Iterable[Document],
    val_fraction: float,
    sizes: np.ndarray,
    digests: np.ndarray,
    sides: np.ndarray,
    number: int,
    tokens: bytes,
) -> Split:
    """Beginning and end of one document, parted between two characters or parts of tokens."""
    document = next(document for i, document in enumerate(documents) if i == number)
    cut, place = int(int(sizes[number]) * (1 - val_fraction)), 0
    halves = {side: hashlib.sha256() for side in SIDES}
    for part, ids in document.pieces():
        if ids is not None and place < cut < place + len(part):
            cut = place
        while place < cut < place + len(part) and part[cut - place] & 0xC0 == 0x80:
            cut -= 1  # a UTF-8 continuation byte
        at = min(max(cut - place, 0), len(part))
        halves["train"].update(part[:at])
        halves["val"].update(part[at:])
        place += len(part)
    if cut == 0:
        raise UserError(f"{document.title}: {counted(place, 'byte')} cannot be split: add text")
    sides[number] = SIDES.index("train")
    entries = (
        (side, document.name, document.digest(half.digest())) for side, half in halves.items()
    )
    spans = {"train": (0, cut), "val": (cut, place)}
    unlearned = {side: document.unlearned_bytes(*span) for side, span in spans.items()}
    return Split(
        documents,
        _fingerprint(entries, tokens),
        sizes,
        sides,
        digests,
        cut,
        unlearned if any(unlearned.values()) else None,
    )


def _fingerprint(entries: Iterable[tuple[str, str, bytes]], tokens: bytes) -> str:
    """One over the texts and, where others have tokenized them, over the ids."""
    total = hashlib.sha256()
    for side, name, digest in entries:
        total.update(side.encode() + b"\0" + name.encode() + b"\0" + digest)
    total.update(tokens)
    return total.hexdigest()[:16]


class _Names:
    """Many short texts, without an object for each."""

    def __init__(self) -> None:
        self._content, self._ends = bytearray(), array("q", [0])

    def append(self, name: str) -> None:
        self._content += name.encode()
        self._ends.append(len(self._content))

    def __getitem__(self, number: int) -> str:
        return self._content[self._ends[number] : self._ends[number + 1]].decode()
