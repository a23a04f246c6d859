"""Values of keys: one function and one wording for command lines and for parts of mixtures."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from conf.schema import DataConf
from core.bounds import NAME, nearest, type_problem, value_problems
from data.parts import part_problems
from tests.scripts.commands import run_script

METADATA = {item.name: item.metadata for item in fields(DataConf)}


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("val_fraction", 2.0, "must be at most 0.9"),
        ("val_fraction", float("nan"), "must be a finite number"),
        ("on_bad", "skipp", "not one of its values; did you mean 'skip'?"),
        ("ids", "int8", "not one of its values; did you mean 'int32'?"),
        ("encoding", "x" * (NAME + 1), "must be at most 255 characters long"),
    ],
)
def test_a_part_and_a_command_line_say_the_same(
    capfd: pytest.CaptureFixture[str], key: str, value: Any, problem: str
) -> None:
    """Of one key and value: the same words after its name."""
    (said,) = value_problems("NAME", value, METADATA[key])
    assert problem in said
    conf = DataConf(corpus="text", mix={"a": 1.0}, parts={"a": {key: value}})
    (of_part,) = part_problems(conf)
    assert of_part == said.replace("NAME", f"data.parts.a.{key}", 1)
    if value == value:  # Hydra's grammar has another way to write NaN
        line = run_script(capfd, "prepare", f"data.{key}={value}")
        assert line.status == 2 and said.replace("NAME", f"data.{key}", 1) in line.err


@pytest.mark.parametrize(
    ("value", "kind", "problem"),
    [
        (3, int, None), (True, int, "expected an integer"), (3.5, int, "expected an integer"),
        (3, float, None), ("3", float, "expected a number"), (False, float, "expected a number"),
        (1, bool, "expected true or false"), ("a", str, None), (3, str, "expected a text"),
        (["a"], list[str], None), ([3], list[str], "expected a list of single values"),
        ("a", list[str], "expected a list of single values"), (None, int | None, None),
        ("a", int | None, "expected an integer"), ({}, dict[str, Any], None), (3, Any, None),
    ],
)  # fmt: skip
def test_types(value: Any, kind: Any, problem: str | None) -> None:
    assert type_problem(value, kind) == problem


def test_what_is_near() -> None:
    assert nearest("stp", ("stop", "skip")) == "; did you mean 'stop'?"
    assert nearest("drop", ("stop", "skip"), {"drop": "skip"}) == "; did you mean 'skip'?"
    assert nearest("xyz", ("stop", "skip")) == "; choose one of stop, skip"
    assert nearest("xyz", ("", "rwkv")) == "; choose one of '' (nothing), rwkv"
