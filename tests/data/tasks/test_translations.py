"""Dates and number words: what a row may hold is known before any is made."""

from __future__ import annotations

import random
import sys
from datetime import date
from importlib.metadata import version

import pytest

from data.tasks import translations
from data.tasks.task_data import TaskData
from data.tasks.translations import (
    LANGUAGES,
    LOCALES,
    WIDTHS,
    Dates,
    NumberWords,
    words,
    written,
)


def test_dates_are_written_as_people_write_them() -> None:
    day = date(2026, 9, 30)
    assert written(day, "en", "full") == "Wednesday, September 30, 2026"
    assert written(day, "de", "medium") == "30.09.2026"
    assert written(day, "fr", "long") == "30 septembre 2026"
    assert words(21, "de") == "einundzwanzig" and words(21, "en") == "twenty-one"


def test_no_date_is_longer_or_has_other_characters_than_said() -> None:
    chance = random.Random(0)
    days = [
        date.fromordinal(chance.randint(date(1000, 1, 1).toordinal(), date.max.toordinal()))
        for _ in range(200)
    ]
    for locale in LOCALES:
        task = Dates(locale)
        texts = {written(day, locale, width) for day in days for width in WIDTHS}
        assert max(map(len, texts)) + 10 <= task.longest()
        assert set().union(*texts) <= task.alphabet()


@pytest.mark.parametrize(("most", "step"), [(9_999, 13), (999_999, 9_973)])
def test_no_number_is_longer_or_has_other_characters_than_said(most: int, step: int) -> None:
    for language in LANGUAGES:
        characters, longest = translations._facts(language, most)
        texts = [words(n, language) for n in range(0, most + 1, step)]
        assert max(map(len, texts)) <= longest
        assert set().union(*texts) <= characters


def test_words_of_another_library_are_another_task(monkeypatch: pytest.MonkeyPatch) -> None:
    now = TaskData("dates", Dates(), 46).fingerprint
    assert version("babel") in Dates().version
    monkeypatch.setattr(translations, "installed", lambda name: "0.0")
    assert TaskData("dates", Dates(), 46).fingerprint != now


def test_a_missing_package_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "num2words", None)
    (problem,) = NumberWords().problems(108)
    assert problem == "this data needs the package num2words: pip install -e '.[data]'"
