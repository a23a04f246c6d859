"""Names for several models."""

from __future__ import annotations

import re
from typing import Any

import pytest

from serving.routes import Route, model_names, route_problems, routes_of


def test_models_are_called_as_their_files() -> None:
    assert model_names(["runs/a", "b.pth", "/w/c.safetensors"]) == ["a", "b", "c"]
    assert model_names(["x/a.pth", "y/a"]) == ["x/a.pth", "y/a"]


def test_routes_are_what_was_configured() -> None:
    assert routes_of(None) == []
    assert routes_of({"best": ["a", "b"], "one": ["b"]}) == [
        Route("best", ("a", "b")), Route("one", ("b",)),
    ]  # fmt: skip


@pytest.mark.parametrize("routes", [None, {}, {"best": ["a", "b"]}, {"x.1-y_Z": ["b"]}])
def test_good_routes(routes: Any) -> None:
    assert [*route_problems(routes, ["a", "b"])] == []


@pytest.mark.parametrize(
    ("routes", "problem"),
    [
        ([1], r"routes=\[1\]: write names and models, as in routes={best: \[A, B\]}"),
        ("a", r"routes=a: write names"),
        ({"a": ["b"]}, "a model is called so already"),
        ({"x/y": ["b"]}, "a name is at most 64 letters"),
        ({"x" * 65: ["b"]}, "a name is at most 64 letters"),
        ({7: ["b"]}, "routes.7: a name is"),
        ({"best": []}, r"routes.best=\[\]: write models"),
        ({"best": "a"}, "routes.best=a: write models"),
        ({"best": ["a", "c"]}, "no model is called 'c'; there are: a, b"),
        ({"best": ["a", ["b"]]}, "no model is called"),
        ({"best": ["a", "a"]}, "names one model twice"),
    ],
)
def test_bad_routes_are_told(routes: Any, problem: str) -> None:
    (found,) = route_problems(routes, ["a", "b"])
    assert re.search(problem, found), found
