"""A needle in generated text: one sentence says a number, and it is asked for at the end.

The form of RULER's single-needle tasks (Hsieh et al. 2024, arXiv 2404.06654), in characters and
with plain made-up sentences around it, for models that are trained from nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_lowercase, digits
from typing import ClassVar

import numpy as np

from conf.schema import key
from data.tasks.draw import Draw
from data.tasks.task import shifted

ADJECTIVES = ("old", "quiet", "green", "heavy", "bright", "narrow", "simple", "early")
NOUNS = ("river", "garden", "teacher", "letter", "window", "village", "engine", "forest")
VERBS = ("follows", "finds", "carries", "leaves", "meets", "covers", "draws", "hears")
NAMES = (
    "oslo", "lima", "cairo", "delhi", "paris", "quito", "seoul", "tunis",
    "accra", "dakar", "hanoi", "kyoto", "milan", "perth", "sofia", "turin",
)  # fmt: skip
SYMBOLS = " ." + digits + ":" + ascii_lowercase


def needle(name: str, number: str) -> str:
    """The sentence that says the number."""
    return f"the code of {name} is {number}. "


def question(name: str) -> str:
    """What stands before the answer."""
    return f"code of {name}: "


@dataclass(frozen=True)
class Needle:
    """See `data.tasks.task.Task`. Characters, of which the digits at the end are asked."""

    version: ClassVar[int] = 1
    has_separator: ClassVar[bool] = False
    digits: int = key(4, "digits of a number", low=1, high=16)
    needles: int = key(
        1, "sentences that say a number, of which one is asked", low=1, high=len(NAMES)
    )

    @property
    def symbols(self) -> str:
        return SYMBOLS

    @property
    def _shortest(self) -> int:
        """Characters of the longest needles and question, without any other text."""
        name = max(NAMES, key=len)
        said = self.needles * len(needle(name, "0" * self.digits))
        return said + len(question(name)) + self.digits - 1

    def problems(self, length: int) -> Iterator[str]:
        if length < self._shortest:
            yield (
                f"data.length={length}: {self.needles} needles and the question need "
                f"{self._shortest} characters"
            )

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        names = draw.some(len(NAMES), self.needles)
        numbers = draw.below(10, self.needles * self.digits)
        words = draw.below(len(NOUNS), 4 * (length // 20 + 1))  # a sentence has 20 and more
        places = draw.uniform(self.needles)
        texts = map(self._text, names, numbers, words, places, [length + 1] * draw.rows)
        rows = np.array([[_IDS[character] for character in text] for text in texts])
        asked = np.zeros(rows.shape, dtype=bool)
        asked[:, -self.digits :] = True
        return shifted(rows, asked)

    def _text(
        self,
        names: np.ndarray,
        numbers: np.ndarray,
        words: np.ndarray,
        places: np.ndarray,
        size: int,
    ) -> str:
        """One row of `size` characters; the first needle is the one that is asked."""
        said = ["".join(map(str, number)) for number in np.split(numbers, self.needles)]
        needles = [needle(NAMES[i], number) for i, number in zip(names, said, strict=True)]
        end = question(NAMES[names[0]]) + said[0]
        text = "".join(map(_sentence, *np.split(words, 4)))
        text = text[: size - len(end) - sum(map(len, needles))]
        gaps = [0, *(i + 1 for i, character in enumerate(text) if character == " ")]
        if text and text[-1] != " ":
            text = text[:-1] + " "  # the last word is cut, and ended
        order = sorted(range(self.needles), key=lambda i: (-places[i], i))
        for i in order:  # from the back, so that the places before stay
            at = gaps[int(places[i] * len(gaps))]
            text = text[:at] + needles[i] + text[at:]
        return text + end


def _sentence(adjective: int, noun: int, verb: int, other: int) -> str:
    return f"the {ADJECTIVES[adjective]} {NOUNS[noun]} {VERBS[verb]} the {NOUNS[other]}. "


_IDS = {character: i for i, character in enumerate(SYMBOLS)}
