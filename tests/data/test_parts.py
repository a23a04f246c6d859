"""The words of the parts of a mixture: taken, or refused by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from conf.schema import DataConf
from core.errors import UserError
from data.parts import SHARED, part_confs, validation_confs

WIKI = {"corpus": "text", "paths": ["w.txt"]}
CODE = {"corpus": "stdlib"}


def conf(**changes: Any) -> DataConf:
    settings: dict[str, Any] = {
        "corpus": "text",
        "mix": {"wiki": 0.7, "code": 0.3},
        "parts": {"wiki": WIKI, "code": CODE},
        "length": 32,
    }
    return DataConf(**{**settings, **changes})


def test_what_a_part_does_not_say_is_that_of_data() -> None:
    parts = part_confs(conf(val_fraction=0.3))
    assert list(parts) == ["wiki", "code"]
    assert (parts["wiki"].corpus, parts["wiki"].paths) == ("text", ["w.txt"])
    assert (parts["code"].corpus, parts["code"].paths) == ("stdlib", [])
    for part in parts.values():
        assert (part.length, part.val_fraction, part.mix, part.parts) == (32, 0.3, None, None)
    assert part_confs(DataConf(corpus="text")) == {}


def test_one_path_needs_no_brackets() -> None:
    assert part_confs(conf(parts={"wiki": {"paths": "a.txt"}, "code": CODE}))["wiki"].paths == [
        "a.txt"
    ]


def test_a_text_that_validates_is_whole() -> None:
    (books,) = validation_confs(conf(validation={"books": {"paths": "b.txt"}})).values()
    assert (books.val_fraction, books.paths, books.validation) == (1.0, ["b.txt"], None)


def test_keys_that_are_shared_are_keys_of_data() -> None:
    assert {item.name for item in fields(DataConf)} >= set(SHARED)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mix": None}, "data.parts says nothing of their shares"),
        ({"mix": {}}, "data.mix={}: write data.mix={NAME: SHARE"),
        ({"mix": [1]}, "data.mix=.1.: write data.mix"),
        ({"mix": {"wiki": "x", "code": 1}}, "data.mix.wiki='x': expected a number"),
        ({"parts": None}, "data.mix has a share of wiki, and data.parts has no such part"),
        ({"mix": {"wiki": 1.0}}, "data.parts.code has no share"),
        ({"mix": {"wiki": 0.5, "code": 0.0}}, "data.mix.code=0.0: must be above 0"),
        ({"mix": {"wi/ki": 1.0}, "parts": {"wi/ki": WIKI}}, "data.mix.wi/ki: a name is"),
        ({"validation": {"loss": WIKI}}, "data.validation.loss: val/loss is a curve already"),
        ({"validation": {"wiki": WIKI}}, "data.validation.wiki: the held-out text of the part"),
        ({"validation": {"b": {"val_fraction": 0.5}}}, "all of its text validates"),
        ({"magic_prime": 5}, "data.magic_prime=5 is that of data.order=magic_prime"),
        ({"magic_prime": 5, "order": "magic_prime"}, "data.magic_prime=5 is for one corpus"),
        ({"parts": {"wiki": "w.txt", "code": CODE}}, "data.parts.wiki='w.txt': give its words"),
        ({"parts": {"wiki": {"length": 3}, "code": CODE}}, "data.parts.wiki.length: all parts sh"),
        (
            {"parts": {"wiki": {"path": "x"}, "code": CODE}},
            "wiki.path: no key.*did you mean .paths",
        ),
        (
            {"parts": {"wiki": {"paths": [3]}, "code": CODE}},
            "wiki.paths=.3.: expected a list of single",
        ),
        ({"parts": {"wiki": {"markup": 1}, "code": CODE}}, "wiki.markup=1: expected true or false"),
        (
            {"parts": {"wiki": {"val_fraction": 2}, "code": CODE}},
            r"val_fraction=2: must be at most 0\.9",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        part_confs(conf(**changes))
