"""Translation, character by character: dates as people write them to ISO 8601, and number words.

Both are what attention was invented for: the parts of the target follow from parts of the source
in another order (Bahdanau, Cho and Bengio 2015, arXiv 1409.0473). Dates come from Babel, which has
the Unicode Consortium's names and patterns; number words from num2words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache, lru_cache
from importlib.metadata import version as installed
from typing import ClassVar

import numpy as np

from conf.schema import key
from core.errors import UserError
from data.readers.optional import needed
from data.tasks.draw import Draw
from data.tasks.task import shifted

END, SEPARATOR = "\n", "→"
LOCALES = {"de": "de", "en": "en_US", "es": "es", "fr": "fr", "it": "it", "nl": "nl", "pl": "pl",
           "pt": "pt", "ru": "ru", "sv": "sv"}  # fmt: skip
"""Locales of dates: their names here, and in Babel."""
WIDTHS = ("medium", "long", "full")
"""How wordy a date is; Babel's `short` has years of two digits, which are not one year."""
LANGUAGES = ("de", "en", "es", "fr", "it", "nl", "pl", "pt", "ru", "sv")
"""Languages of number words."""
KEPT = 1 << 16  # words that are not made again
LONG = 20  # the longest words of thousands, and of what is added to them, that are tried together


class Translation(ABC):
    """A source, `SEPARATOR`, its translation and `END`; the last two are asked."""

    has_separator: ClassVar[bool] = True
    library: ClassVar[str]
    """The package that knows the words."""

    @property
    def version(self) -> str:
        """The library's too: another one may have other words for the same numbers."""
        return f"1 {self.library} {installed(self.library)}"

    @property
    def symbols(self) -> str:
        return "".join(sorted({END, SEPARATOR, *self.alphabet()}))

    @abstractmethod
    def alphabet(self) -> frozenset[str]:
        """The characters of sources and translations."""

    @abstractmethod
    def longest(self) -> int:
        """Characters of the longest source and its longest translation together."""

    @abstractmethod
    def pairs(self, draw: Draw) -> Sequence[tuple[str, str]]:
        """A source and its translation for each row."""

    def settings_problems(self) -> Iterator[str]:
        """What is wrong with the settings, whatever the length."""
        yield from ()

    def problems(self, length: int) -> Iterator[str]:
        try:
            needed(self.library)
        except UserError as error:
            yield str(error)
            return
        wrong = [*self.settings_problems()]
        yield from wrong
        if not wrong and length < (need := self.longest() + 1):
            yield f"data.length={length}: the longest source and its translation need {need}"

    def sequences(self, draw: Draw, length: int) -> tuple[np.ndarray, np.ndarray]:
        number = {symbol: i for i, symbol in enumerate(self.symbols)}
        rows = np.full((draw.rows, length + 1), number[END], dtype=np.int64)
        asked = np.zeros(rows.shape, dtype=bool)
        for row, mask, (source, target) in zip(rows, asked, self.pairs(draw), strict=True):
            text = [number[symbol] for symbol in source + SEPARATOR + target + END]
            row[: len(text)] = text
            mask[len(source) + 1 : len(text)] = True
        return shifted(rows, asked)


@dataclass(frozen=True)
class Dates(Translation):
    """See `data.tasks.task.Task`. "Wednesday, September 30, 2026" is 2026-09-30."""

    library: ClassVar[str] = "babel"
    locales: str = key("en de fr es it", "locales that dates are written in, with spaces between")
    first_year: int = key(1900, "earliest year of a date", low=1000, high=9999)
    last_year: int = key(2099, "latest year of a date", low=1000, high=9999)

    def alphabet(self) -> frozenset[str]:
        return frozenset("0123456789-").union(*(_year(name)[0] for name in self._names()))

    def longest(self) -> int:
        return max(_year(name)[1] for name in self._names()) + len("2026-09-30")

    def settings_problems(self) -> Iterator[str]:
        unknown = [name for name in self._names() if name not in LOCALES]
        if unknown or not self._names():
            yield f"data.task.locales={self.locales!r:.80}: some of {', '.join(LOCALES)}"
        if self.last_year < self.first_year:
            yield (
                f"data.task.last_year={self.last_year} is before data.task.first_year="
                f"{self.first_year}"
            )

    def pairs(self, draw: Draw) -> Sequence[tuple[str, str]]:
        first = date(self.first_year, 1, 1).toordinal()
        days = date(self.last_year, 12, 31).toordinal() - first + 1
        names = self._names()
        drawn = np.concatenate(
            [draw.below(days, 1), draw.below(len(names), 1), draw.below(len(WIDTHS), 1)], axis=1
        )
        return [
            (written(day := date.fromordinal(first + n), names[name], WIDTHS[width]), str(day))
            for n, name, width in drawn.tolist()
        ]

    def _names(self) -> tuple[str, ...]:
        return tuple(self.locales.split())


@lru_cache(KEPT)
def written(day: date, locale: str, width: str) -> str:
    """A date as a locale of `LOCALES` writes it."""
    return str(needed("babel.dates").format_date(day, width, locale=LOCALES[locale]))


@cache
def _year(locale: str) -> tuple[frozenset[str], int]:
    """The characters of a locale's dates but for other years, and the length of the longest.

    Any year of four digits says both: each weekday has a day of two digits in each of its months.
    """
    first = date(2024, 1, 1).toordinal()
    days = [date.fromordinal(first + n) for n in range(366)]
    texts = [written(day, locale, width) for day in days for width in WIDTHS]
    return frozenset().union(*texts), max(map(len, texts))


@dataclass(frozen=True)
class NumberWords(Translation):
    """See `data.tasks.task.Task`. "einundzwanzig" is "twenty-one": ones and tens change places."""

    library: ClassVar[str] = "num2words"
    source: str = key("de", "language of the source", choices=LANGUAGES)
    target: str = key("en", "language of the translation", choices=LANGUAGES)
    most: int = key(99_999, "largest number", low=1, high=999_999)

    def alphabet(self) -> frozenset[str]:
        return frozenset().union(*(_facts(name, self.most)[0] for name in self._languages()))

    def longest(self) -> int:
        return sum(_facts(name, self.most)[1] for name in self._languages())

    def settings_problems(self) -> Iterator[str]:
        if self.source == self.target:
            yield f"data.task.target={self.target!r}: the source has this language already"

    def pairs(self, draw: Draw) -> Sequence[tuple[str, str]]:
        numbers = draw.below(self.most + 1, 1)[:, 0].tolist()
        return [(words(n, self.source), words(n, self.target)) for n in numbers]

    def _languages(self) -> tuple[str, str]:
        return self.source, self.target


@lru_cache(KEPT)
def words(number: int, language: str) -> str:
    """A number in words of a language of `LANGUAGES`."""
    return str(needed("num2words").num2words(number, lang=language))


@cache
def _facts(language: str, most: int) -> tuple[frozenset[str], int]:
    """The characters of all numbers up to `most` in a language, and the length of the longest.

    Numbers are put together of thousands and of what is below, so that not all need be tried.
    """
    low = [words(n, language) for n in range(min(999, most) + 1)]
    texts = [*low]
    if most > 999:
        high = {n: words(1000 * n, language) for n in range(1, most // 1000 + 1)}
        texts += high.values()
        thousands = sorted(high, key=lambda n: -len(high[n]))[:LONG]
        below = [*_longest_of(low, range(1, 100)), *_longest_of(low, range(100, 1000))]
        sums = {1000 * n + rest for n in thousands for rest in below} | {most}
        texts += [words(n, language) for n in sums if n <= most]
    return frozenset().union(*texts), max(map(len, texts))


def _longest_of(texts: Sequence[str], numbers: Sequence[int]) -> list[int]:
    return sorted(numbers, key=lambda n: -len(texts[n]))[:LONG]
