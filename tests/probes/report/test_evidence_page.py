"""The evidence page: a matrix, a section for each experiment, and nothing unknown in either."""

from __future__ import annotations

import json

from probes.analysis.evidence import ACCURACY, Claim, outcome
from probes.analysis.experiments import BY_NAME
from probes.report import evidence_page
from tests.probes.analysis.test_evidence import RUNS, run


def content() -> evidence_page.Page:
    names = ("copying", "state_tracking", "language")
    outcomes = {
        "copying": outcome(RUNS, BY_NAME["copying"].claims, ACCURACY, 12),
        "state_tracking": outcome(
            [
                run("lstm", 1e-3, val_accuracy=1.0),
                run("transformer", 1e-3, parameters=1200, val_accuracy=0.4),
            ],
            BY_NAME["state_tracking"].claims[:2],
            ACCURACY,
            2,
        ),
        "language": outcome([], BY_NAME["language"].claims, BY_NAME["language"].main, 18),
    }
    commands = {name: [f"python scripts/train.py -m experiment={name}"] for name in names}
    return evidence_page.page(outcomes, commands, None, ["11 trainings"])


def test_the_matrix_has_a_line_for_each_model() -> None:
    matrix = content().matrix
    assert matrix.headings == (
        "model", "#copying", "#copying at twice the length", "#state tracking", "#bits per byte",
    )  # fmt: skip
    cells = {line.head: line.cells for line in matrix.lines}
    assert cells["lstm"] == ("80.0%", "50.0%", "100.0%", "")
    assert cells["transformer"] == ("", "", "40.0%", "")


def test_each_experiment_shows_rule_source_verdict_and_all_that_was_tried() -> None:
    page = content()
    assert page.headline == "1 of 3 experiments came out as published, 1 has not run"
    partly = outcome(RUNS, [Claim("order", ("lstm", "rwkv4"))], ACCURACY, 12)
    begun = evidence_page.page({"parity": partly}, {"parity": []}, None, [])
    assert begun.headline == (
        "0 of 1 experiments came out as published, 1 more as far as it has run"
    )
    copying, tracking, language = page.sections
    assert tracking.verdict == "reached" and tracking.rule.startswith("lstm above 95 %")
    assert "the models' parameters differ by 20.0%: they are not matched" in tracking.details
    assert copying.verdict == "undecided, 3 of 12 trainings to go"
    assert "9 of 12 trainings count; 1 did not finish" in copying.details
    assert any("the search is not equal" in text for text in copying.details)
    assert copying.best.lines[0].cells[:3] == ("0.001", "3", "80.0% (70.0% to 90.0%)")
    assert copying.tried.lines[0].cells == ("70.0%, 90.0%, 80.0%", "90.0%, 100.0%, 20.0%")
    assert language.best.caption == "No training of it has finished yet."
    html = evidence_page.html(page)
    for section in page.sections:
        assert section.commands[0] in html and section.title in html
    assert ">None<" not in html and ">nan<" not in html
    assert json.loads(json.dumps(page.plain()))["sections"][0]["best"]["rows"]


def test_what_is_remembered_stands_beside_what_is_reached() -> None:
    reach = {"half": 1.0, "tokens": 12.0, "followed": 12}
    short = {**reach, "tokens": 3.0}
    layers = [
        {"layer": 0, "gradient": reach},
        {
            "layer": 1,
            "gradient": short,
            "half_life": [0.1, 1.0, 4.56, 9.0, None],
            "eigenvalues": {"least": -1.376, "negative": 0.566},
        },
    ]
    seen = {"gradient": reach, "perturbation": short, "layers": layers}
    tracked = outcome([run("lstm", 1e-3, val_accuracy=1.0)], [], ACCURACY, 1)
    memories = {"state_tracking": {"lstm": seen}}
    page = evidence_page.page(
        {"state_tracking": tracked}, {"state_tracking": []}, None, [], (), memories
    )
    first, second = page.sections[0].memory.lines
    assert (first.head, *first.cells) == (
        "lstm", "100.0%", "1", "12+", "3", "0", "12+", "", "", "", "",
    )  # fmt: skip
    assert second.cells == ("", "", "", "", "1", "3", "4.56", "never", "-1.38", "57%")
    assert "How far back each model remembers" in evidence_page.html(page)
    assert "How far back each model remembers" not in evidence_page.html(content())
