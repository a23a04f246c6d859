"""The short form of hostile rows and places, and that what they look for would be seen."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults import places, reports
from tests.faults.child import Ended
from tests.faults.report_damages import DAMAGES
from tests.faults.report_groups import sound
from tests.faults.reports import Page, misprinted


@pytest.mark.slow
def test_a_few_hostile_groups_and_places(tmp_path: Path) -> None:
    for trials, count in ((reports.trials, 1), (places.trials, 3)):
        folder = tmp_path / trials.__module__
        folder.mkdir()
        for told, problem in trials(count, 0, folder):
            assert problem is None, f"{told}: {problem}"


def test_every_damage_changes_a_sound_group(tmp_path: Path) -> None:
    kinds = list(dict.fromkeys(DAMAGES))
    cheap = [one for one in kinds if one.__name__ not in ("a_long_line", "many_lines")]
    before = sound(tmp_path, random.Random(0))
    for damage in cheap:
        group = sound(tmp_path, random.Random(0))
        assert damage(group)
        same = (group.lines, group.summaries) == (before.lines, before.summaries)
        # Those two are written beside, or changed only where lines are joined.
        assert not same or damage.__name__ in ("a_configuration", "other_ends"), damage.__name__
    assert len(kinds) >= 15


@pytest.mark.parametrize(
    "page",
    [
        "<script>1</script>" * 3, "<img src=x>", '<p onclick="x">', "<b id=x>", "<iframe>",
        '<img src="http://a">',
    ],
)  # fmt: skip
def test_what_a_page_could_execute_is_seen(page: str) -> None:
    looked = Page()
    looked.feed(page)
    assert looked.odd
    sound_page = Page()
    sound_page.feed('<img src="data:image/png;base64,aa"><script>1</script>&lt;script&gt;')
    assert not sound_page.odd


def test_what_a_terminal_would_obey_and_endless_words_are_seen() -> None:
    assert misprinted(Ended(0, "a\x1b[31m", 1.0))
    assert misprinted(Ended(0, "a" * 20_000, 1.0))
    assert misprinted(Ended(0, "fine\n", 1.0)) is None


def test_more_or_less_than_one_message_is_seen() -> None:
    for text in ("", "error: a\nerror: b", "error: " + "a" * 7000):
        assert places.not_one_message(Ended(2, text, 1.0))
    assert places.not_one_message(Ended(2, "a notice\nerror: a", 1.0)) is None


def test_what_a_script_may_not_leave_is_seen(tmp_path: Path) -> None:
    train = next(way for way in places.WRITERS if way.script == "train")
    report = next(way for way in places.WRITERS if way.script == "report")
    assert places._may_stay(train, "place/run/config.yaml")
    assert not places._may_stay(train, "place/run/.config.yaml.7.tmp")
    assert not places._may_stay(report, "place/index.html")
