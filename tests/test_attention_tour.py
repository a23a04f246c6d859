"""The tour of `docs/attention.md`: every file that it names is there, with the lines it quotes."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.registered_models import EVERY
from tests.test_house import ROOT

PAGE = ROOT / "docs" / "attention.md"
PLACE = re.compile(r"\[`([\w/]+\.py)`\]\(\.\./\1\)((?:, `[^`]+`)*)")
SECTIONS = re.findall(r"^## (20\d\d: .+)\n([\s\S]*?)(?=^## )", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("title", "text"), SECTIONS, ids=[title for title, _ in SECTIONS])
def test_an_equation_a_place_in_the_code_a_cost_and_a_choice(title: str, text: str) -> None:
    assert re.search(r"^    \S", text, re.MULTILINE), "no equation"
    assert "* **Cost.**" in text and "* **When.**" in text
    (line,) = re.findall(r"^Code: .*$", text, re.MULTILINE)
    places = PLACE.findall(line)
    assert len(places) == line.count("](") > 0
    for path, quoted in places:
        code = (ROOT / path).read_text()
        for words in re.findall(r"`([^`]+)`", quoted):
            assert words in code, f"{words} is not in {path}"


def test_pages_that_are_linked_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)", PAGE.read_text()):
        assert (PAGE.parent / target).is_file(), target


def test_every_model_is_on_the_tour() -> None:
    text = PAGE.read_text()
    networks = {"lstm", "gru", "hybrid"}  # of before attention, and mixes
    for name in {*EVERY} - networks:
        target = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text())["target"]
        assert "/".join(target.split(".")[:-1]) + ".py" in text, name
